// SPDX-License-Identifier: Apache-2.0
// Matrix products by cuBLASLt, float32 sums. Row-major C = A B is, to a library that stores
// columns, C^T = B^T A^T. The algorithm of each shape is chosen once, by the library's heuristic,
// and kept: equal calls give equal bits for the life of the process.
#include "kernels/cuda/cuda.h"

#include <cublasLt.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

enum {
    WORKSPACE_BYTES = 32 << 20, // NVIDIA's advice for Hopper
    PLANS_LIMIT = 256,          // shapes of a job: a dozen weights times a few batch sizes
};

// The library is loaded when a GPU is used, not when the program starts: it weighs 500 MB, and
// nodes without a GPU need not have it.
struct blas {
    decltype(&cublasLtCreate) Create;
    decltype(&cublasLtDestroy) Destroy;
    decltype(&cublasLtGetStatusString) GetStatusString;
    decltype(&cublasLtMatmul) Matmul;
    decltype(&cublasLtMatmulAlgoGetHeuristic) MatmulAlgoGetHeuristic;
    decltype(&cublasLtMatmulDescCreate) MatmulDescCreate;
    decltype(&cublasLtMatmulDescDestroy) MatmulDescDestroy;
    decltype(&cublasLtMatmulDescSetAttribute) MatmulDescSetAttribute;
    decltype(&cublasLtMatmulPreferenceCreate) MatmulPreferenceCreate;
    decltype(&cublasLtMatmulPreferenceDestroy) MatmulPreferenceDestroy;
    decltype(&cublasLtMatmulPreferenceSetAttribute) MatmulPreferenceSetAttribute;
    decltype(&cublasLtMatrixLayoutCreate) MatrixLayoutCreate;
    decltype(&cublasLtMatrixLayoutDestroy) MatrixLayoutDestroy;
};

static struct blas blas; // filled once

static int blas_load(struct error *err)
{
    const struct {
        const char *name;
        void **function;
    } functions[] = {
        {"cublasLtCreate", (void **)&blas.Create},
        {"cublasLtDestroy", (void **)&blas.Destroy},
        {"cublasLtGetStatusString", (void **)&blas.GetStatusString},
        {"cublasLtMatmul", (void **)&blas.Matmul},
        {"cublasLtMatmulAlgoGetHeuristic", (void **)&blas.MatmulAlgoGetHeuristic},
        {"cublasLtMatmulDescCreate", (void **)&blas.MatmulDescCreate},
        {"cublasLtMatmulDescDestroy", (void **)&blas.MatmulDescDestroy},
        {"cublasLtMatmulDescSetAttribute", (void **)&blas.MatmulDescSetAttribute},
        {"cublasLtMatmulPreferenceCreate", (void **)&blas.MatmulPreferenceCreate},
        {"cublasLtMatmulPreferenceDestroy", (void **)&blas.MatmulPreferenceDestroy},
        {"cublasLtMatmulPreferenceSetAttribute", (void **)&blas.MatmulPreferenceSetAttribute},
        {"cublasLtMatrixLayoutCreate", (void **)&blas.MatrixLayoutCreate},
        {"cublasLtMatrixLayoutDestroy", (void **)&blas.MatrixLayoutDestroy},
    };
    char name[32];
    snprintf(name, sizeof name, "libcublasLt.so.%d", CUBLAS_VER_MAJOR);
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL); // stays for the life of the process
    if (!library)
        return error_set(err,
                         "cannot load %s: %s; install cuBLAS of CUDA %d or name its directory in "
                         "LD_LIBRARY_PATH",
                         name, dlerror(), CUBLAS_VER_MAJOR);
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++) {
        *functions[i].function = dlsym(library, functions[i].name);
        if (!*functions[i].function)
            return error_set(err, "%s has no '%s': another version is needed", name,
                             functions[i].name);
    }
    return 0;
}

// What an algorithm is chosen for.
struct shape {
    size_t m, n, k;
    enum dtype in, out, bias;
    bool a_transposed, b_transposed, has_bias;
};

struct plan {
    struct shape shape;
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulAlgo_t algorithm;
};

struct gemm {
    cublasLtHandle_t handle;
    void *workspace;
    struct plan plans[PLANS_LIMIT];
    size_t plan_count;
};

static int blas_check(cublasStatus_t status, const char *what, struct error *err)
{
    if (status == CUBLAS_STATUS_SUCCESS)
        return 0;
    return error_set(err, "%s failed: %s", what, blas.GetStatusString(status));
}

int gemm_create(struct gemm **out, struct error *err)
{
    struct gemm *gemm = (struct gemm *)calloc(1, sizeof *gemm);
    *out = NULL;
    if (!gemm)
        return error_set(err, "cannot allocate the state of matrix products: out of memory");
    if (blas_load(err) || blas_check(blas.Create(&gemm->handle), "cublasLtCreate", err)) {
        free(gemm);
        return -1;
    }
    if (cudaMalloc(&gemm->workspace, WORKSPACE_BYTES) != cudaSuccess) {
        error_set(err, "cannot allocate the %d bytes that cuBLASLt works in", WORKSPACE_BYTES);
        gemm_destroy(gemm);
        return -1;
    }
    *out = gemm;
    return 0;
}

static void plan_release(struct plan *plan)
{
    if (plan->operation)
        blas.MatmulDescDestroy(plan->operation);
    cublasLtMatrixLayout_t layouts[] = {plan->a, plan->b, plan->c};
    for (int i = 0; i < 3; i++)
        if (layouts[i])
            blas.MatrixLayoutDestroy(layouts[i]);
}

void gemm_destroy(struct gemm *gemm)
{
    if (!gemm)
        return;
    for (size_t i = 0; i < gemm->plan_count; i++)
        plan_release(&gemm->plans[i]);
    cudaFree(gemm->workspace);
    blas.Destroy(gemm->handle);
    free(gemm);
}

static cudaDataType_t blas_type(enum dtype dtype)
{
    return dtype == DTYPE_F32 ? CUDA_R_32F : dtype == DTYPE_BF16 ? CUDA_R_16BF : CUDA_R_16F;
}

static bool same_shape(const struct shape *a, const struct shape *b)
{
    return a->m == b->m && a->n == b->n && a->k == b->k && a->in == b->in && a->out == b->out &&
           a->bias == b->bias && a->a_transposed == b->a_transposed &&
           a->b_transposed == b->b_transposed && a->has_bias == b->has_bias;
}

static int describe_operation(struct plan *plan, struct error *err)
{
    const struct shape *s = &plan->shape;
    const cublasOperation_t first = s->b_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t second = s->a_transposed ? CUBLAS_OP_T : CUBLAS_OP_N;
    if (blas_check(blas.MatmulDescCreate(&plan->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F),
                   "cublasLtMatmulDescCreate", err) ||
        blas_check(blas.MatmulDescSetAttribute(plan->operation, CUBLASLT_MATMUL_DESC_TRANSA, &first,
                                               sizeof first),
                   "transposition", err) ||
        blas_check(blas.MatmulDescSetAttribute(plan->operation, CUBLASLT_MATMUL_DESC_TRANSB,
                                               &second, sizeof second),
                   "transposition", err))
        return -1;
    if (!s->has_bias)
        return 0;
    const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
    const cudaDataType_t type = blas_type(s->bias);
    return blas_check(blas.MatmulDescSetAttribute(plan->operation, CUBLASLT_MATMUL_DESC_EPILOGUE,
                                                  &epilogue, sizeof epilogue),
                      "bias epilogue", err) ||
           blas_check(blas.MatmulDescSetAttribute(
                          plan->operation, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &type, sizeof type),
                      "bias type", err);
}

static int describe_layouts(struct plan *plan, struct error *err)
{
    const struct shape *s = &plan->shape;
    const cudaDataType_t in = blas_type(s->in), out = blas_type(s->out);
    return blas_check(s->b_transposed
                          ? blas.MatrixLayoutCreate(&plan->b, in, s->k, s->n, (int64_t)s->k)
                          : blas.MatrixLayoutCreate(&plan->b, in, s->n, s->k, (int64_t)s->n),
                      "layout", err) ||
           blas_check(s->a_transposed
                          ? blas.MatrixLayoutCreate(&plan->a, in, s->m, s->k, (int64_t)s->m)
                          : blas.MatrixLayoutCreate(&plan->a, in, s->k, s->m, (int64_t)s->k),
                      "layout", err) ||
           blas_check(blas.MatrixLayoutCreate(&plan->c, out, s->n, s->m, (int64_t)s->n), "layout",
                      err);
}

static int choose_algorithm(struct gemm *gemm, struct plan *plan, struct error *err)
{
    cublasLtMatmulPreference_t preference = NULL;
    cublasLtMatmulHeuristicResult_t found;
    const size_t workspace = WORKSPACE_BYTES;
    int count = 0;
    if (blas_check(blas.MatmulPreferenceCreate(&preference), "preference", err))
        return -1;
    const int rc =
        blas_check(blas.MatmulPreferenceSetAttribute(preference,
                                                     CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                     &workspace, sizeof workspace),
                   "workspace", err) ||
        blas_check(blas.MatmulAlgoGetHeuristic(gemm->handle, plan->operation, plan->b, plan->a,
                                               plan->c, plan->c, preference, 1, &found, &count),
                   "heuristic", err);
    blas.MatmulPreferenceDestroy(preference);
    if (rc || count == 0)
        return -1;
    plan->algorithm = found.algo;
    return 0;
}

static struct plan *find_plan(struct gemm *gemm, const struct shape *shape)
{
    struct error ignored; // the caller has another way to multiply
    for (size_t i = 0; i < gemm->plan_count; i++)
        if (same_shape(&gemm->plans[i].shape, shape))
            return &gemm->plans[i];
    if (gemm->plan_count == PLANS_LIMIT) {
        plan_release(&gemm->plans[0]);
        gemm->plans[0] = gemm->plans[--gemm->plan_count];
    }
    struct plan *plan = &gemm->plans[gemm->plan_count];
    memset(plan, 0, sizeof *plan);
    plan->shape = *shape;
    if (describe_operation(plan, &ignored) || describe_layouts(plan, &ignored) ||
        choose_algorithm(gemm, plan, &ignored)) {
        plan_release(plan);
        return NULL;
    }
    gemm->plan_count++;
    return plan;
}

static bool can_multiply(const struct gemm_call *call)
{
    return call->a.dtype == call->b.dtype &&
           (call->c.dtype == call->a.dtype || call->c.dtype == DTYPE_F32) &&
           (!call->bias.data || call->bias.dtype == call->c.dtype);
}

int gemm_run(struct device *device, const struct gemm_call *call)
{
    struct gemm *gemm = cuda_of(device)->gemm;
    const float one = 1, beta = call->addend.data ? 1 : 0;
    const void *addend = call->addend.data ? call->addend.data : call->c.data;
    const struct shape shape = {.m = call->m,
                                .n = call->n,
                                .k = call->k,
                                .in = call->a.dtype,
                                .out = call->c.dtype,
                                .bias = call->bias.dtype,
                                .a_transposed = call->a_transposed,
                                .b_transposed = call->b_transposed,
                                .has_bias = call->bias.data != NULL};
    if (!can_multiply(call))
        return -1;
    struct plan *plan = find_plan(gemm, &shape);
    if (!plan)
        return -1;
    if (shape.has_bias && blas.MatmulDescSetAttribute(
                              plan->operation, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &call->bias.data,
                              sizeof call->bias.data) != CUBLAS_STATUS_SUCCESS)
        return -1;
    const cublasStatus_t status =
        blas.Matmul(gemm->handle, plan->operation, &one, call->b.data, plan->b, call->a.data,
                    plan->a, &beta, addend, plan->c, call->c.data, plan->c, &plan->algorithm,
                    gemm->workspace, WORKSPACE_BYTES, cuda_of(device)->stream);
    if (status != CUBLAS_STATUS_SUCCESS)
        cuda_keep_error(device, "matrix product", blas.GetStatusString(status));
    return 0;
}
