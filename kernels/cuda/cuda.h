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
    bool borrows_stream; // of device_create_beside
    struct gemm *gemm;
    enum products products;
    bool capturing;              // nothing may be waited for
    void *scratch;               // [SCRATCH_BYTES], of one operation at a time
    unsigned *arrivals;          // [ARRIVALS], 0 between operations
    struct moment_code *codes;   // [2] of the first and the second moment, on the device
    size_t least_free;           // bytes, after an allocation
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

// --- what a lane moves at once ---

// Elements of a type known to the compiler, so that several loads are under way before the first is
// used: 16 bytes, 8 where a row of float32 goes beside it, or one element of any type.
enum access { ACCESS_BF16, ACCESS_F32, ACCESS_BF16_SHORT, ACCESS_ANY };

template <enum access A> struct lane; // COUNT elements as they lie in memory
template <> struct lane<ACCESS_BF16> {
    enum { COUNT = 8 };
    uint4 bits;
};
template <> struct lane<ACCESS_F32> {
    enum { COUNT = 4 };
    uint4 bits;
};
template <> struct lane<ACCESS_BF16_SHORT> {
    enum { COUNT = 4 };
    uint2 bits;
};
template <> struct lane<ACCESS_ANY> {
    enum { COUNT = 1 };
    float bits; // widened
};

template <enum access A>
__device__ __forceinline__ struct lane<A> lane_load(struct tensor t, size_t i) {
    const size_t bytes = sizeof(struct lane<A>) / lane<A>::COUNT; // of an element
    return *(const struct lane<A> *)((const char *)t.data + i * bytes);
}

template <>
__device__ __forceinline__ struct lane<ACCESS_ANY> lane_load<ACCESS_ANY>(struct tensor t,
                                                                         size_t i) {
    return {load(t, i)};
}

__device__ __forceinline__ void
widen_pair(float *out, unsigned bits)
{
    out[0] = __uint_as_float(bits << 16);
    out[1] = __uint_as_float(bits & 0xffff0000u);
}

__device__ __forceinline__ void lane_widen(float *out, struct lane<ACCESS_BF16> from)
{
    widen_pair(out, from.bits.x);
    widen_pair(out + 2, from.bits.y);
    widen_pair(out + 4, from.bits.z);
    widen_pair(out + 6, from.bits.w);
}

__device__ __forceinline__ void lane_widen(float *out, struct lane<ACCESS_F32> from)
{
    out[0] = __uint_as_float(from.bits.x);
    out[1] = __uint_as_float(from.bits.y);
    out[2] = __uint_as_float(from.bits.z);
    out[3] = __uint_as_float(from.bits.w);
}

__device__ __forceinline__ void lane_widen(float *out, struct lane<ACCESS_BF16_SHORT> from)
{
    widen_pair(out, from.bits.x);
    widen_pair(out + 2, from.bits.y);
}

__device__ __forceinline__ void lane_widen(float *out, struct lane<ACCESS_ANY> from)
{
    *out = from.bits;
}

template <enum access A>
__device__ __forceinline__ void lane_store(struct tensor t, size_t i, const float *values);

template <>
__device__ __forceinline__ void lane_store<ACCESS_BF16>(struct tensor t, size_t i,
                                                        const float *values)
{
    *(uint4 *)((bf16 *)t.data +
               i) = {bf16_pair(values[0], values[1]), bf16_pair(values[2], values[3]),
                     bf16_pair(values[4], values[5]), bf16_pair(values[6], values[7])};
}

template <>
__device__ __forceinline__ void lane_store<ACCESS_F32>(struct tensor t, size_t i,
                                                       const float *values)
{
    *(uint4 *)((float *)t.data + i) = {__float_as_uint(values[0]), __float_as_uint(values[1]),
                                       __float_as_uint(values[2]), __float_as_uint(values[3])};
}

template <>
__device__ __forceinline__ void lane_store<ACCESS_BF16_SHORT>(struct tensor t, size_t i,
                                                              const float *values)
{
    *(uint2 *)((bf16 *)t.data + i) = {bf16_pair(values[0], values[1]),
                                      bf16_pair(values[2], values[3])};
}

template <>
__device__ __forceinline__ void lane_store<ACCESS_ANY>(struct tensor t, size_t i,
                                                       const float *values)
{
    store(t, i, *values);
}

// How all of these tensors may be reached: rows of `row_elements` begin at multiples of 16 bytes.
static inline enum access access_of(const struct tensor *tensors, size_t count, size_t row_elements)
{
    const enum dtype dtype = tensors[0].dtype;
    if (dtype == DTYPE_F16 || row_elements * dtype_bytes(dtype) % 16 != 0)
        return ACCESS_ANY;
    for (size_t i = 0; i < count; i++)
        if ((uintptr_t)tensors[i].data % 16 != 0 || tensors[i].dtype != dtype)
            return ACCESS_ANY;
    return dtype == DTYPE_BF16 ? ACCESS_BF16 : ACCESS_F32;
}

static inline size_t access_elements(enum access access)
{
    return access == ACCESS_BF16 ? 8 : access == ACCESS_ANY ? 1 : 4;
}

// kernel<ACCESS...>, whose one parameter is the access.
#define CUDA_LAUNCH_ACCESS(access, kernel, ...)                                                    \
    do {                                                                                           \
        if ((access) == ACCESS_BF16)                                                               \
            CUDA_LAUNCH(kernel<ACCESS_BF16>, __VA_ARGS__);                                         \
        else if ((access) == ACCESS_F32)                                                           \
            CUDA_LAUNCH(kernel<ACCESS_F32>, __VA_ARGS__);                                          \
        else                                                                                       \
            CUDA_LAUNCH(kernel<ACCESS_ANY>, __VA_ARGS__);                                          \
    } while (0)

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
void cuda_accumulate(struct device *, const struct accumulate *);
void cuda_adamw(struct device *, const struct adamw *);
void cuda_adamw_compact(struct device *, const struct adamw_compact *);
void cuda_fixed_accumulate(struct device *, const struct fixed_accumulate *);
void cuda_fixed_add(struct device *, const struct fixed_add *);
void cuda_fixed_value(struct device *, const struct fixed_value *);
void cuda_argmax(struct device *, int32_t *out, struct tensor logits, size_t rows, size_t width);
void cuda_sum_squares(struct device *, double *out, struct tensor x, size_t count);
}

#endif
