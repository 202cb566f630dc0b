// SPDX-License-Identifier: Apache-2.0
// Inside kernels/cuda: the backend's state, how kernels are launched and how elements are read.
#ifndef MEMO_KERNELS_CUDA_H
#define MEMO_KERNELS_CUDA_H

#include "kernels/cuda/ptx.h"

extern "C" {
#include "kernels/kernels.h"
#include "kernels/moment_code.h"
}

#include <assert.h>

enum {
    WARP = 32,
    // Partial sums of reductions over rows: [parts, width] float32, see reduce_parts.
    SCRATCH_BYTES = 64 << 20,
    PARTS_LIMIT = 64,
    PROBLEM_BYTES = 256,
    ARRIVALS = 256, // counters of blocks that wait for one another's results
};

struct gemm; // cuBLASLt

struct cuda_state {
    cudaStream_t stream;
    struct gemm *gemm;
    enum products products;
    bool capturing;              // nothing may be waited for
    void *scratch;               // [SCRATCH_BYTES], of one operation at a time
    unsigned *arrivals;          // [ARRIVALS], 0 between operations
    struct moment_code *codes;   // [2] of the first and the second moment, on the device
    char problem[PROBLEM_BYTES]; // the first thing that went wrong; "" while nothing did
    struct cudaDeviceProp properties;
};

static inline struct cuda_state *cuda_of(struct device *device)
{
    return (struct cuda_state *)device->state;
}

// Keeps the launch's error, if it had one, for the next wait.
void cuda_launched(struct device *device, const char *operation);
void cuda_keep_error(struct device *device, const char *operation, const char *text);

int gemm_create(struct gemm **out, struct error *err);
void gemm_destroy(struct gemm *gemm);
size_t gemm_library_version(void); // of cuBLASLt, once a gemm was created
// See gemm_plan.h. Products of before are chosen anew.
int gemm_record(struct gemm *gemm, const char *path, const char *gpu, struct error *err);
const char *gemm_record_id(const struct gemm *gemm); // "" without a record

// C[m, n] = A[m, k] B[k, n] + bias[n] + addend[m, n], row-major, A and B maybe transposed; what has
// no data is not added. The addend is of C's type, and may be C.
struct gemm_call {
    struct tensor c, a, b, bias, addend;
    size_t m, n, k;
    bool a_transposed; // stored [k, m]
    bool b_transposed; // stored [n, k]
    // [m] and [n] where A and B are codes of fp8.h: the product is multiplied by both. NULL: they
    // are not
    const float *a_scales, *b_scales;
};
// 0, or -1 when cuBLASLt does not do these types: the caller has another way.
int gemm_run(struct device *device, const struct gemm_call *call);

// Our own, for bf16 and for codes: 0, or -1 when it cannot multiply these. A row of C is the same
// bits whatever m is.
int gemm_tiles_run(struct device *device, const struct gemm_call *call);

// Of a forward pass, by whom the device's products say: 0, or -1 when none of them can.
int gemm_forward(struct device *device, const struct gemm_call *call);

static inline unsigned blocks_of(size_t count, size_t per_block)
{
    return (unsigned)((count + per_block - 1) / per_block);
}

// --- elements ---

__device__ __forceinline__ float bf16_widen(bf16 value)
{
    return __uint_as_float((unsigned)value.bits << 16);
}

__device__ __forceinline__ float load(struct tensor t, size_t i)
{
    switch (t.dtype) {
    case DTYPE_F32:
        return ((const float *)t.data)[i];
    case DTYPE_BF16:
        return bf16_widen(((const bf16 *)t.data)[i]);
    default:
        return f16_widen(((const f16 *)t.data)[i]);
    }
}

__device__ __forceinline__ void store(struct tensor t, size_t i, float value)
{
    switch (t.dtype) {
    case DTYPE_F32:
        ((float *)t.data)[i] = value;
        return;
    case DTYPE_BF16:
        ((bf16 *)t.data)[i] = bf16_round(value);
        return;
    default:
        ((f16 *)t.data)[i] = f16_round(value);
        return;
    }
}

// V elements from i on, V 1 or 8; eight begin at a multiple of 16 bytes.
template <int V>
__device__ __forceinline__ void load_values(float out[V], struct tensor t, size_t i)
{
    if (V == 1) {
        out[0] = load(t, i);
    } else if (t.dtype == DTYPE_F32) {
        const uint4 *from = (const uint4 *)((const float *)t.data + i);
        const uint4 low = from[0], high = from[1];
        const unsigned bits[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
        for (int j = 0; j < V; j++)
            out[j] = __uint_as_float(bits[j]);
    } else {
        const uint4 all = *(const uint4 *)((const bf16 *)t.data + i);
        const unsigned bits[4] = {all.x, all.y, all.z, all.w};
        for (int j = 0; j < V; j++) {
            const uint16_t half = (uint16_t)(bits[j / 2] >> (16 * (j % 2)));
            const bf16 b = {half};
            const f16 f = {half};
            out[j] = t.dtype == DTYPE_BF16 ? bf16_widen(b) : f16_widen(f);
        }
    }
}

template <int V>
__device__ __forceinline__ void store_values(struct tensor t, size_t i, const float values[V])
{
    if (V == 1) {
        store(t, i, values[0]);
    } else if (t.dtype == DTYPE_F32) {
        uint4 *to = (uint4 *)((float *)t.data + i);
        unsigned bits[8];
        for (int j = 0; j < V; j++)
            bits[j] = __float_as_uint(values[j]);
        to[0] = {bits[0], bits[1], bits[2], bits[3]};
        to[1] = {bits[4], bits[5], bits[6], bits[7]};
    } else {
        unsigned bits[4];
        for (int j = 0; j < 4; j++)
            bits[j] = t.dtype == DTYPE_BF16 ? bf16_pair(values[2 * j], values[2 * j + 1])
                                            : (unsigned)f16_round(values[2 * j + 1]).bits << 16 |
                                                  f16_round(values[2 * j]).bits;
        *(uint4 *)((bf16 *)t.data + i) = {bits[0], bits[1], bits[2], bits[3]};
    }
}

// Eight elements at a time when every row of every tensor begins at a multiple of 16 bytes.
static inline bool can_vectorize(const struct tensor *tensors, size_t count, size_t row_elements)
{
    for (size_t i = 0; i < count; i++)
        if ((uintptr_t)tensors[i].data % 16 != 0)
            return false;
    return row_elements % 8 == 0;
}

// --- reductions, in one order whatever the launch ---

__device__ __forceinline__ float warp_sum(float value)
{
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, lanes);
    return value;
}

__device__ __forceinline__ float warp_max(float value)
{
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2)
        value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, lanes));
    return value;
}

// Sum over a block of THREADS threads, for all of them. Uses one slot a warp; the caller's barrier
// comes before the slots are used again.
template <int THREADS>
__device__ __forceinline__ float block_sum(float value, shared_pointer<float> slots)
{
    value = warp_sum(value);
    if (THREADS == WARP)
        return value;
    if (threadIdx.x % WARP == 0)
        slots[threadIdx.x / WARP] = value;
    __syncthreads();
    float sum = 0;
    for (int i = 0; i < THREADS / WARP; i++)
        sum += slots[i];
    __syncthreads();
    return sum;
}

// How many parts a reduction over rows is cut into: enough to fill the device, few enough for the
// scratch; fixed by the shape alone.
static inline unsigned reduction_parts(size_t rows, size_t width)
{
    size_t parts = (rows + 63) / 64;
    const size_t room = SCRATCH_BYTES / sizeof(float) / (width ? width : 1);
    if (parts > PARTS_LIMIT)
        parts = PARTS_LIMIT;
    parts = parts < room ? parts : room;
    assert(room > 0);
    return (unsigned)(parts ? parts : 1);
}

// out[i] += sum over parts of scratch[part, i], in ascending parts.
void reduce_parts(struct device *device, struct tensor out, unsigned parts, size_t width);

// --- operations ---

extern "C" {
void cuda_embedding_forward(struct device *, const struct embedding_forward *);
void cuda_embedding_backward(struct device *, const struct embedding_backward *);
void cuda_rmsnorm_forward(struct device *, const struct rmsnorm_forward *);
void cuda_rmsnorm_backward(struct device *, const struct rmsnorm_backward *);
void cuda_linear_forward(struct device *, const struct linear_forward *);
void cuda_linear_backward_input(struct device *, const struct linear_backward_input *);
void cuda_linear_backward_weight(struct device *, const struct linear_backward_weight *);
void cuda_linear_pack(struct device *, struct linear *);
void cuda_linear_unpack(struct device *, struct linear *);
void cuda_quantize_rows(struct device *, const struct quantize_rows *);
void cuda_linear_fp8(struct device *, const struct linear_fp8 *);
void cuda_rope(struct device *, const struct rope *);
void cuda_attention_forward(struct device *, const struct attention_forward *);
void cuda_attention_backward(struct device *, const struct attention_backward *);
void cuda_kv_write(struct device *, const struct kv_write *);
void cuda_rope_kv_write(struct device *, const struct rope_kv_write *);
void cuda_sample(struct device *, const struct sample *);
void cuda_attention_cached(struct device *, const struct attention_cached *);
void cuda_gated_forward(struct device *, const struct gated_forward *);
void cuda_gated_backward(struct device *, const struct gated_backward *);
void cuda_short_conv_forward(struct device *, const struct short_conv_forward *);
void cuda_short_conv_backward(struct device *, const struct short_conv_backward *);
void cuda_short_conv_cached(struct device *, const struct short_conv_cached *);
void cuda_cross_entropy(struct device *, const struct cross_entropy *);
void cuda_rows_gather(struct device *, const struct rows_gather *);
void cuda_rows_scatter_add(struct device *, const struct rows_scatter_add *);
void cuda_dropout(struct device *, const struct dropout *);
void cuda_adamw(struct device *, const struct adamw *);
void cuda_adamw_compact(struct device *, const struct adamw_compact *);
void cuda_argmax(struct device *, int32_t *out, struct tensor logits, size_t rows, size_t width);
void cuda_sum_squares(struct device *, double *out, const float *x, size_t count);
}

#endif
