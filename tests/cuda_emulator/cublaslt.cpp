// SPDX-License-Identifier: Apache-2.0
// cuBLASLt on the CPU, as far as kernels/cuda uses it. It refuses what NVIDIA documents as refused
// (cublasLtMatmul in the cuBLAS documentation, cublasLt.h): types that do not go together, codes of
// eight bits that are not row by row, not aligned to 16 bytes or on another GPU than Hopper, scales
// without a pointer when the heuristic is asked, an algorithm that was chosen for better aligned
// memory than it gets. Sums are chains of float32; as the library it may cut the depth in two when
// there are many columns, so that a column's bits depend on how many there are.
#include "kernels/cuda/cublaslt.h"
#include "kernels/cuda/cuda.h"

extern "C" {
#include "kernels/fp8.h"
#include "tests/cuda_emulator/arrange.h"
}

#include <string.h>

enum { FAST = 1, MIDDLING, ANY, ALGORITHMS }; // as the heuristic orders them
enum { WORKSPACE_NEEDED = 1 << 20, SPLIT_COLUMNS = 20 };

struct blas_handle {
    int unused;
};

struct blas_operation {
    int32_t a_transposed, b_transposed, epilogue, bias_type, a_mode, b_mode;
    const void *bias, *a_scales, *b_scales;
};

struct blas_layout {
    cudaDataType_t type;
    uint64_t rows, columns;
    int64_t stride;
};

struct blas_preference {
    uint64_t workspace;
    uint32_t alignments[4]; // A, B, C, D
};

struct blas blas;

static uint64_t last_algorithm;

uint64_t emulator_last_algorithm(void)
{
    const uint64_t last = last_algorithm;
    last_algorithm = 0;
    return last;
}

int blas_load(struct error *err)
{
    (void)err;
    blas = {cublasLtCreate,
            cublasLtDestroy,
            cublasLtGetStatusString,
            cublasLtGetVersion,
            cublasLtMatmul,
            cublasLtMatmulAlgoCheck,
            cublasLtMatmulAlgoGetHeuristic,
            cublasLtMatmulDescCreate,
            cublasLtMatmulDescDestroy,
            cublasLtMatmulDescSetAttribute,
            cublasLtMatmulPreferenceCreate,
            cublasLtMatmulPreferenceDestroy,
            cublasLtMatmulPreferenceSetAttribute,
            cublasLtMatrixLayoutCreate,
            cublasLtMatrixLayoutDestroy};
    return 0;
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *out)
{
    *out = new blas_handle();
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle)
{
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

const char *cublasLtGetStatusString(cublasStatus_t status)
{
    return status == CUBLAS_STATUS_SUCCESS         ? "CUBLAS_STATUS_SUCCESS"
           : status == CUBLAS_STATUS_NOT_SUPPORTED ? "CUBLAS_STATUS_NOT_SUPPORTED"
                                                   : "CUBLAS_STATUS_INVALID_VALUE";
}

size_t cublasLtGetVersion(void)
{
    return 130000;
}

// --- descriptors ---

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *out, cublasComputeType_t compute,
                                        cudaDataType_t scale)
{
    *out = new blas_operation();
    (*out)->epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    (*out)->bias_type = -1;
    return compute == CUBLAS_COMPUTE_32F && scale == CUDA_R_32F ? CUBLAS_STATUS_SUCCESS
                                                                : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t operation)
{
    delete operation;
    return CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t assign(void *to, size_t bytes, const void *value, size_t value_bytes)
{
    if (bytes != value_bytes)
        return CUBLAS_STATUS_INVALID_VALUE;
    memcpy(to, value, bytes);
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t o,
                                              cublasLtMatmulDescAttributes_t attribute,
                                              const void *value, size_t bytes)
{
    switch (attribute) {
    case CUBLASLT_MATMUL_DESC_TRANSA:
        return assign(&o->a_transposed, 4, value, bytes);
    case CUBLASLT_MATMUL_DESC_TRANSB:
        return assign(&o->b_transposed, 4, value, bytes);
    case CUBLASLT_MATMUL_DESC_EPILOGUE:
        return assign(&o->epilogue, 4, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_POINTER:
        return assign(&o->bias, sizeof o->bias, value, bytes);
    case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE:
        return assign(&o->bias_type, 4, value, bytes);
    case CUBLASLT_MATMUL_DESC_A_SCALE_POINTER:
        return assign(&o->a_scales, sizeof o->a_scales, value, bytes);
    case CUBLASLT_MATMUL_DESC_B_SCALE_POINTER:
        return assign(&o->b_scales, sizeof o->b_scales, value, bytes);
    case CUBLASLT_MATMUL_DESC_A_SCALE_MODE:
        return assign(&o->a_mode, 4, value, bytes);
    case CUBLASLT_MATMUL_DESC_B_SCALE_MODE:
        return assign(&o->b_mode, 4, value, bytes);
    }
    return CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *out, cudaDataType_t type,
                                          uint64_t rows, uint64_t columns, int64_t stride)
{
    *out = new blas_layout{type, rows, columns, stride};
    return rows > 0 && columns > 0 && rows <= INT32_MAX && columns <= INT32_MAX &&
                   stride >= (int64_t)rows
               ? CUBLAS_STATUS_SUCCESS
               : CUBLAS_STATUS_INVALID_VALUE;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout)
{
    delete layout;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *out)
{
    *out = new blas_preference{0, {256, 256, 256, 256}};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference)
{
    delete preference;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t attribute,
                                                    const void *value, size_t bytes)
{
    if (attribute == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES)
        return assign(&preference->workspace, sizeof preference->workspace, value, bytes);
    return assign(&preference->alignments[attribute - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES],
                  4, value, bytes);
}

// --- what goes together ---

static bool is_codes(const blas_operation *o)
{
    return o->a_mode == CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F ||
           o->b_mode == CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
}

static size_t element_bytes(cudaDataType_t type)
{
    return type == CUDA_R_32F ? 4 : type == CUDA_R_8F_E4M3 ? 1 : 2;
}

static cublasStatus_t check_codes(const blas_operation *o, const blas_layout *a,
                                  const blas_layout *b, const blas_layout *c)
{
    struct cudaDeviceProp gpu;
    (void)cudaGetDeviceProperties(&gpu, 0);
    if (gpu.major != 9 || a->type != CUDA_R_8F_E4M3 || b->type != CUDA_R_8F_E4M3 ||
        (c->type != CUDA_R_16BF && c->type != CUDA_R_32F) || !o->a_transposed || o->b_transposed ||
        a->rows % 16 != 0 || a->columns % 16 != 0 ||
        (o->epilogue == CUBLASLT_EPILOGUE_BIAS && o->bias_type != CUDA_R_16BF))
        return CUBLAS_STATUS_NOT_SUPPORTED;
    return o->a_scales && o->b_scales && o->a_mode == o->b_mode ? CUBLAS_STATUS_SUCCESS
                                                                : CUBLAS_STATUS_INVALID_VALUE;
}

static cublasStatus_t check(const blas_operation *o, const blas_layout *a, const blas_layout *b,
                            const blas_layout *c, const blas_layout *d)
{
    const uint64_t a_depth = o->a_transposed ? a->rows : a->columns;
    const uint64_t b_depth = o->b_transposed ? b->columns : b->rows;
    if (a_depth != b_depth || c->type != d->type || c->rows != d->rows ||
        c->rows != (o->a_transposed ? a->columns : a->rows) ||
        c->columns != (o->b_transposed ? b->rows : b->columns))
        return CUBLAS_STATUS_INVALID_VALUE;
    if (o->epilogue == CUBLASLT_EPILOGUE_BIAS && !o->bias)
        return CUBLAS_STATUS_INVALID_VALUE;
    if (is_codes(o))
        return check_codes(o, a, b, c);
    const bool types = a->type == b->type && a->type != CUDA_R_8F_E4M3 &&
                       (c->type == a->type || c->type == CUDA_R_32F);
    const bool bias = o->epilogue != CUBLASLT_EPILOGUE_BIAS || o->bias_type == d->type;
    return types && bias ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

// Of addresses and of the distance from column to column.
static size_t alignment_needed(uint64_t algorithm, const blas_layout *layout)
{
    return algorithm == FAST ? 16 : algorithm == MIDDLING ? 4 : element_bytes(layout->type);
}

static bool strides_suit(uint64_t algorithm, const blas_operation *o,
                         const blas_layout *const layouts[4])
{
    for (int i = 0; i < 4; i++)
        if ((size_t)layouts[i]->stride * element_bytes(layouts[i]->type) %
                alignment_needed(algorithm, layouts[i]) !=
            0)
            return false;
    return !is_codes(o) || algorithm == FAST;
}

cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t o,
                                       cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                       cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                       const cublasLtMatmulAlgo_t *algorithm,
                                       cublasLtMatmulHeuristicResult_t *out)
{
    const blas_layout *const layouts[4] = {a, b, c, d};
    out->workspaceSize = WORKSPACE_NEEDED;
    out->state = check(o, a, b, c, d);
    if (out->state != CUBLAS_STATUS_SUCCESS)
        return out->state;
    const uint64_t id = algorithm->data[0];
    return id >= FAST && id < ALGORITHMS && strides_suit(id, o, layouts)
               ? CUBLAS_STATUS_SUCCESS
               : CUBLAS_STATUS_NOT_SUPPORTED;
}

cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t handle, cublasLtMatmulDesc_t o,
                                              cublasLtMatrixLayout_t a, cublasLtMatrixLayout_t b,
                                              cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t d,
                                              cublasLtMatmulPreference_t preference, int wanted,
                                              cublasLtMatmulHeuristicResult_t out[], int *count)
{
    const blas_layout *const layouts[4] = {a, b, c, d};
    *count = 0;
    if (check(o, a, b, c, d) != CUBLAS_STATUS_SUCCESS)
        return check(o, a, b, c, d);
    for (uint64_t id = FAST; id < ALGORITHMS && *count < wanted; id++) {
        cublasLtMatmulHeuristicResult_t *result = &out[*count];
        bool aligned = preference->workspace >= WORKSPACE_NEEDED;
        *result = {};
        result->algo.data[0] = id;
        for (int i = 0; i < 4; i++)
            aligned = aligned && preference->alignments[i] >= alignment_needed(id, layouts[i]);
        if (aligned && cublasLtMatmulAlgoCheck(handle, o, a, b, c, d, &result->algo, result) ==
                           CUBLAS_STATUS_SUCCESS)
            ++*count;
    }
    return *count > 0 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_NOT_SUPPORTED;
}

// --- products ---

static float element(const void *data, cudaDataType_t type, size_t i)
{
    if (type == CUDA_R_8F_E4M3)
        return fp8_decode(((const uint8_t *)data)[i]);
    const enum dtype dtype = type == CUDA_R_32F    ? DTYPE_F32
                             : type == CUDA_R_16BF ? DTYPE_BF16
                                                   : DTYPE_F16;
    return load(tensor{const_cast<void *>(data), dtype}, i);
}

struct product {
    blas_operation o;
    blas_layout a, b, d;
    const void *a_data, *b_data, *c_data;
    void *d_data;
    float alpha, beta;
};

static float sum_of(const product &p, size_t row, size_t column)
{
    const size_t depth = p.o.a_transposed ? p.a.rows : p.a.columns;
    const bool bias = p.o.epilogue == CUBLASLT_EPILOGUE_BIAS;
    const float begin = bias ? element(p.o.bias, (cudaDataType_t)p.o.bias_type, row) : 0;
    const size_t cut = p.d.columns >= SPLIT_COLUMNS ? depth / 2 : depth;
    float sum = is_codes(&p.o) ? 0 : begin, first = 0;
    for (size_t k = 0; k < depth; k++) {
        if (k == cut) {
            first = sum;
            sum = 0;
        }
        sum += element(p.b_data, p.b.type,
                       p.o.b_transposed ? k * p.b.stride + column : column * p.b.stride + k) *
               element(p.a_data, p.a.type,
                       p.o.a_transposed ? row * p.a.stride + k : k * p.a.stride + row);
    }
    sum += first;
    if (!is_codes(&p.o))
        return sum;
    return sum * (((const float *)p.o.a_scales)[row] * ((const float *)p.o.b_scales)[column]) +
           begin;
}

static void multiply(const product &p)
{
    const enum dtype dtype = p.d.type == CUDA_R_32F    ? DTYPE_F32
                             : p.d.type == CUDA_R_16BF ? DTYPE_BF16
                                                       : DTYPE_F16;
    for (size_t column = 0; column < p.d.columns; column++)
        for (size_t row = 0; row < p.d.rows; row++) {
            const size_t at = column * p.d.stride + row;
            const float sum = p.alpha * sum_of(p, row, column);
            store(tensor{p.d_data, dtype}, at,
                  p.beta != 0 ? sum + p.beta * element(p.c_data, p.d.type, at) : sum);
        }
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t handle, cublasLtMatmulDesc_t o, const void *alpha,
                              const void *a, cublasLtMatrixLayout_t a_layout, const void *b,
                              cublasLtMatrixLayout_t b_layout, const void *beta, const void *c,
                              cublasLtMatrixLayout_t c_layout, void *d,
                              cublasLtMatrixLayout_t d_layout,
                              const cublasLtMatmulAlgo_t *algorithm, void *workspace,
                              size_t workspace_bytes, cudaStream_t stream)
{
    const void *const addresses[4] = {a, b, c, d};
    const blas_layout *const layouts[4] = {a_layout, b_layout, c_layout, d_layout};
    cublasLtMatmulHeuristicResult_t result;
    const cublasStatus_t status = cublasLtMatmulAlgoCheck(handle, o, a_layout, b_layout, c_layout,
                                                          d_layout, algorithm, &result);
    if (status != CUBLAS_STATUS_SUCCESS)
        return status;
    if (!workspace || workspace_bytes < result.workspaceSize)
        return CUBLAS_STATUS_INVALID_VALUE;
    for (int i = 0; i < 4; i++)
        if ((uintptr_t)addresses[i] % alignment_needed(algorithm->data[0], layouts[i]) != 0)
            return CUBLAS_STATUS_INVALID_VALUE;
    last_algorithm = algorithm->data[0];
    const product copy = {*o,
                          *a_layout,
                          *b_layout,
                          *d_layout,
                          a,
                          b,
                          c,
                          d,
                          *(const float *)alpha,
                          *(const float *)beta};
    emulator_enqueue(stream, [copy]() {
        emulator_note_launch("matrix product");
        emulator_check_argument("matrix product", copy);
        if (emulator_error() != cudaSuccess)
            return;
        emulator_open_memory();
        multiply(copy);
        emulator_close_memory();
    });
    return CUBLAS_STATUS_SUCCESS;
}
