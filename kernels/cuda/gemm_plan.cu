// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/gemm_plan.h"

#include <string.h>

enum { ALIGNMENT_MOST = 8 }; // 256 bytes, more than any algorithm asks for

int blas_check(cublasStatus_t status, const char *what, struct error *err)
{
    if (status == CUBLAS_STATUS_SUCCESS)
        return 0;
    return error_set(err, "%s failed: %s", what, blas.GetStatusString(status));
}

// As a power of two.
static uint64_t alignment_of(const void *data)
{
    uint64_t bits = 0;
    while (bits < ALIGNMENT_MOST && ((uintptr_t)data >> bits & 1) == 0)
        bits++;
    return bits;
}

enum { IN = 0, OUT = 2, BIAS = 4, A_TRANSPOSED = 6, B_TRANSPOSED, HAS_BIAS, CODES };
enum { ALIGNMENT_A = 12, ALIGNMENT_B = 16, ALIGNMENT_C = 20, ALIGNMENT_ADDEND = 24 }; // four bits

static bool has(const struct gemm_shape *shape, int trait)
{
    return shape->traits >> trait & 1;
}

static enum dtype dtype_of(const struct gemm_shape *shape, int trait)
{
    return (enum dtype)(shape->traits >> trait & 3);
}

struct gemm_shape gemm_shape_of(const struct gemm_call *call)
{
    const void *addend = call->addend.data ? call->addend.data : call->c.data;
    const bool has_bias = call->bias.data != NULL;
    struct gemm_shape shape = {call->m, call->n, call->k, 0};
    shape.traits =
        (uint64_t)call->a.dtype << IN | (uint64_t)call->c.dtype << OUT |
        (uint64_t)(has_bias ? call->bias.dtype : 0) << BIAS |
        (uint64_t)call->a_transposed << A_TRANSPOSED |
        (uint64_t)call->b_transposed << B_TRANSPOSED | (uint64_t)has_bias << HAS_BIAS |
        (uint64_t)(call->a_scales != NULL) << CODES | alignment_of(call->a.data) << ALIGNMENT_A |
        alignment_of(call->b.data) << ALIGNMENT_B | alignment_of(call->c.data) << ALIGNMENT_C |
        alignment_of(addend) << ALIGNMENT_ADDEND;
    return shape;
}

static cudaDataType_t blas_type(enum dtype dtype)
{
    return dtype == DTYPE_F32 ? CUDA_R_32F : dtype == DTYPE_BF16 ? CUDA_R_16BF : CUDA_R_16F;
}

static int set(struct gemm_plan *plan, cublasLtMatmulDescAttributes_t attribute, const void *value,
               size_t bytes, struct error *err)
{
    return blas_check(blas.MatmulDescSetAttribute(plan->operation, attribute, value, bytes),
                      "attribute of a product", err);
}

// The library's A is our B.
int gemm_plan_point(struct gemm_plan *plan, const struct gemm_call *call, struct error *err)
{
    if (call->bias.data &&
        set(plan, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &call->bias.data, sizeof call->bias.data, err))
        return -1;
    if (!call->a_scales)
        return 0;
    return set(plan, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &call->b_scales, sizeof call->b_scales,
               err) ||
                   set(plan, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &call->a_scales,
                       sizeof call->a_scales, err)
               ? -1
               : 0;
}

static int describe_epilogue(struct gemm_plan *plan, struct error *err)
{
    const cublasLtMatmulMatrixScale_t mode = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
    const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    const cudaDataType_t type = blas_type(dtype_of(&plan->shape, BIAS));
    if (has(&plan->shape, CODES) &&
        (set(plan, CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &mode, sizeof mode, err) ||
         set(plan, CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &mode, sizeof mode, err)))
        return -1;
    if (!has(&plan->shape, HAS_BIAS))
        return 0;
    return set(plan, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue, err) ||
                   set(plan, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &type, sizeof type, err)
               ? -1
               : 0;
}

static int describe_operation(struct gemm_plan *plan, struct error *err)
{
    const cublasOperation_t first = has(&plan->shape, B_TRANSPOSED) ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t second = has(&plan->shape, A_TRANSPOSED) ? CUBLAS_OP_T : CUBLAS_OP_N;
    return blas_check(blas.MatmulDescCreate(&plan->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F),
                      "cublasLtMatmulDescCreate", err) ||
                   set(plan, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first, err) ||
                   set(plan, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second, err) ||
                   describe_epilogue(plan, err)
               ? -1
               : 0;
}

static int create_layout(cublasLtMatrixLayout_t *out, cudaDataType_t type, uint64_t rows,
                         uint64_t columns, struct error *err)
{
    return blas_check(blas.MatrixLayoutCreate(out, type, rows, columns, (int64_t)rows),
                      "layout of a matrix", err);
}

static int describe_layouts(struct gemm_plan *plan, struct error *err)
{
    const struct gemm_shape *s = &plan->shape;
    const cudaDataType_t in = has(s, CODES) ? CUDA_R_8F_E4M3 : blas_type(dtype_of(s, IN));
    const bool a = has(s, A_TRANSPOSED), b = has(s, B_TRANSPOSED);
    return create_layout(&plan->b, in, b ? s->k : s->n, b ? s->n : s->k, err) ||
                   create_layout(&plan->a, in, a ? s->m : s->k, a ? s->k : s->m, err) ||
                   create_layout(&plan->c, blas_type(dtype_of(s, OUT)), s->n, s->m, err)
               ? -1
               : 0;
}

int gemm_plan_describe(struct gemm_plan *plan, const struct gemm_call *call, struct error *err)
{
    plan->shape = gemm_shape_of(call);
    return describe_operation(plan, err) || describe_layouts(plan, err) ||
                   gemm_plan_point(plan, call, err)
               ? -1
               : 0;
}

void gemm_plan_release(struct gemm_plan *plan)
{
    if (plan->operation)
        blas.MatmulDescDestroy(plan->operation);
    cublasLtMatrixLayout_t layouts[] = {plan->a, plan->b, plan->c};
    for (int i = 0; i < 3; i++)
        if (layouts[i])
            blas.MatrixLayoutDestroy(layouts[i]);
}
