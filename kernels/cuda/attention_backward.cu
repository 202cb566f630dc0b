// SPDX-License-Identifier: Apache-2.0
// Causal attention inside sequences, backward: see kernels/ref/attention.c.
//
// Two kernels, each with one writer for every result, so that no sum depends on timing: one block
// takes 64 keys and walks over the queries that see them, in ascending heads of the group, then
// queries (grad_k, grad_v); another takes 64 queries and walks over their keys (grad_q). Both
// compute the scores again: 14 d operations per visible pair and head against 10 d of one kernel
// with atomics. The key kernel multiplies transposed, k q^T, so that the weights come out as the
// left operand of the next product. Wide heads (256): two warps share 16 keys and have half of the
// columns each.
// spills: attention_backward_keys_kernel of widths 128 and 256 keeps 128 sums and 64 scores a
// thread in 255 registers; 48 bytes go to local memory once every 64 queries. Other types and odd
// widths: a warp takes one row of one head, in float32.
#include "kernels/cuda/attention_rows.h"
#include "kernels/cuda/attention_tiles.h"

// scratch[t, h] = grad_out . out
static __global__ void attention_dots_kernel(struct attention_backward a, float *dots)
{
    const size_t row = (size_t)blockIdx.x * blockDim.y + threadIdx.y, d = a.head_width;
    if (row >= a.tokens * a.heads)
        return;
    float sum = 0;
    for (size_t i = threadIdx.x; i < d; i += WARP)
        sum += load(a.grad_out, row * d + i) * load(a.out, row * d + i);
    sum = warp_sum(sum);
    if (threadIdx.x == 0)
        dots[row] = sum;
}

// What the scores of a pair become: p the weight, ds the gradient of the scaled score.
struct weights {
    float p, ds;
};

static __device__ __forceinline__ struct weights weigh(const struct attention_backward *a,
                                                       const float *dots, float score, float grad,
                                                       size_t query, size_t key, size_t end,
                                                       size_t head)
{
    if (query >= end || key >= end || !visible(key, query, a->window))
        return {0, 0};
    const size_t row = query * a->heads + head;
    const float p = expf(score * a->scale - a->log_sum_exp[row]);
    return {p, p * (grad - dots[row]) * a->scale};
}

template <int D> struct key_block {
    enum {
        SPLIT = D > 128 ? 2 : 1, // warps that share 16 keys
        THREADS = TILE_WARPS * SPLIT * WARP,
        COLUMNS = D / SPLIT,
    };
};

template <int D>
static __device__ void store_gradient(struct tensor to, const float sums[][4], size_t row0,
                                      size_t end, size_t stride, size_t offset, size_t first,
                                      size_t width)
{
#pragma unroll
    for (int n = 0; n < key_block<D>::COLUMNS / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const size_t row = row0 + fragment_row(i), column = first + fragment_column(n, i);
            if (row < end && column < width)
                store(to, row * stride + offset + column, sums[n][i]);
        }
}

template <int D>
static __global__ void __launch_bounds__(key_block<D>::THREADS)
    attention_backward_keys_kernel(struct attention_backward a, const float *dots)
{
    enum { THREADS = key_block<D>::THREADS, COLUMNS = key_block<D>::COLUMNS };
    CUDA_SHARED_DYNAMIC(bf16, memory);
    const shared_pointer<bf16> k = memory, v = memory + tile<D>::ELEMENTS;
    const shared_pointer<bf16> q = v + tile<D>::ELEMENTS, g = q + tile<D>::ELEMENTS;
    const size_t begin = (size_t)a.sequences.offsets[blockIdx.z];
    const size_t end = (size_t)a.sequences.offsets[blockIdx.z + 1];
    const size_t key0 = begin + (size_t)blockIdx.x * TILE_ROWS, group = blockIdx.y;
    if (key0 >= end)
        return;
    const size_t d = a.head_width, share = a.heads / a.kv_heads;
    const int warp = threadIdx.x / WARP, row = warp % TILE_WARPS * WARP_ROWS;
    const int column = warp / TILE_WARPS * COLUMNS;
    // Queries beyond the window of the last key see none of these.
    const size_t last = a.window > 0 && key0 + TILE_ROWS - 1 + a.window < end
                            ? key0 + TILE_ROWS - 1 + a.window
                            : end;
    float grad_k[1][COLUMNS / 8][4] = {}, grad_v[1][COLUMNS / 8][4] = {};
    tile_load<D, TILE_ROWS, THREADS>(k, (const bf16 *)a.k.data + group * d, key0, end, a.stride, d);
    tile_load<D, TILE_ROWS, THREADS>(v, (const bf16 *)a.v.data + group * d, key0, end, a.stride, d);
    for (size_t head = group * share; head < (group + 1) * share; head++)
        for (size_t query0 = key0; query0 < last; query0 += TILE_ROWS) {
            tile_load<D, TILE_ROWS, THREADS>(q, (const bf16 *)a.q.data + head * d, query0, end,
                                             a.stride, d);
            tile_load<D, TILE_ROWS, THREADS>(g, (const bf16 *)a.grad_out.data + head * d, query0,
                                             end, a.heads * d, d);
            async_commit();
            async_wait<0>();
            __syncthreads();
            float p[1][TILE_ROWS / 8][4], ds[1][TILE_ROWS / 8][4];
            multiply_tiles<D, 1, TILE_ROWS>(p, k, row, q);
            multiply_tiles<D, 1, TILE_ROWS>(ds, v, row, g);
#pragma unroll
            for (int n = 0; n < TILE_ROWS / 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const struct weights w =
                        weigh(&a, dots, p[0][n][i], ds[0][n][i], query0 + fragment_column(n, i),
                              key0 + row + fragment_row(i), end, head);
                    p[0][n][i] = w.p;
                    ds[0][n][i] = w.ds;
                }
            multiply_factors<D, 1, COLUMNS, TILE_ROWS>(grad_v, p, g, column);
            multiply_factors<D, 1, COLUMNS, TILE_ROWS>(grad_k, ds, q, column);
            __syncthreads();
        }
    store_gradient<D>(a.grad_k, grad_k[0], key0 + row, end, a.stride, group * d, column, d);
    store_gradient<D>(a.grad_v, grad_v[0], key0 + row, end, a.stride, group * d, column, d);
}

template <int D>
static __global__ void __launch_bounds__(key_block<D>::THREADS)
    attention_backward_queries_kernel(struct attention_backward a, const float *dots)
{
    enum { THREADS = key_block<D>::THREADS, COLUMNS = key_block<D>::COLUMNS };
    CUDA_SHARED_DYNAMIC(bf16, memory);
    const shared_pointer<bf16> q = memory, g = memory + tile<D>::ELEMENTS;
    const shared_pointer<bf16> k = g + tile<D>::ELEMENTS, v = k + tile<D>::ELEMENTS;
    const size_t begin = (size_t)a.sequences.offsets[blockIdx.z];
    const size_t end = (size_t)a.sequences.offsets[blockIdx.z + 1];
    const size_t query0 = begin + (size_t)blockIdx.x * TILE_ROWS, head = blockIdx.y;
    if (query0 >= end)
        return;
    const size_t d = a.head_width, group = head / (a.heads / a.kv_heads);
    const int warp = threadIdx.x / WARP, row = warp % TILE_WARPS * WARP_ROWS;
    const int column = warp / TILE_WARPS * COLUMNS;
    const size_t last = query0 + TILE_ROWS < end ? query0 + TILE_ROWS : end;
    size_t key0 = begin;
    if (a.window > 0 && query0 - begin >= a.window)
        key0 += (query0 - begin - a.window + 1) / TILE_ROWS * TILE_ROWS;
    float grad_q[1][COLUMNS / 8][4] = {};
    tile_load<D, TILE_ROWS, THREADS>(q, (const bf16 *)a.q.data + head * d, query0, end, a.stride,
                                     d);
    tile_load<D, TILE_ROWS, THREADS>(g, (const bf16 *)a.grad_out.data + head * d, query0, end,
                                     a.heads * d, d);
    for (; key0 < last; key0 += TILE_ROWS) {
        tile_load<D, TILE_ROWS, THREADS>(k, (const bf16 *)a.k.data + group * d, key0, end, a.stride,
                                         d);
        tile_load<D, TILE_ROWS, THREADS>(v, (const bf16 *)a.v.data + group * d, key0, end, a.stride,
                                         d);
        async_commit();
        async_wait<0>();
        __syncthreads();
        float p[1][TILE_ROWS / 8][4], ds[1][TILE_ROWS / 8][4];
        multiply_tiles<D, 1, TILE_ROWS>(p, q, row, k);
        multiply_tiles<D, 1, TILE_ROWS>(ds, g, row, v);
#pragma unroll
        for (int n = 0; n < TILE_ROWS / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                ds[0][n][i] =
                    weigh(&a, dots, p[0][n][i], ds[0][n][i], query0 + row + fragment_row(i),
                          key0 + fragment_column(n, i), end, head)
                        .ds;
        multiply_factors<D, 1, COLUMNS, TILE_ROWS>(grad_q, ds, k, column);
        __syncthreads();
    }
    store_gradient<D>(a.grad_q, grad_q[0], query0 + row, end, a.stride, head * d, column, d);
}

template <int D>
static void launch_tiles(struct device *device, const struct attention_backward *a,
                         const float *dots)
{
    const size_t bytes = 4 * tile<D>::ELEMENTS * sizeof(bf16);
    const unsigned tiles = blocks_of(a->sequences.longest, TILE_ROWS);
    const unsigned sequences = (unsigned)a->sequences.count;
    cudaStream_t stream = cuda_of(device)->stream;
    (void)cudaFuncSetAttribute(attention_backward_keys_kernel<D>,
                               cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    (void)cudaFuncSetAttribute(attention_backward_queries_kernel<D>,
                               cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    CUDA_LAUNCH(attention_backward_keys_kernel<D>, dim3(tiles, (unsigned)a->kv_heads, sequences),
                key_block<D>::THREADS, bytes, stream, *a, dots);
    CUDA_LAUNCH(attention_backward_queries_kernel<D>, dim3(tiles, (unsigned)a->heads, sequences),
                key_block<D>::THREADS, bytes, stream, *a, dots);
}

// --- any type, any width ---

static __device__ struct weights weigh_rows(const struct attention_backward *a, const float *dots,
                                            size_t query, size_t key, size_t end, size_t head)
{
    const size_t d = a->head_width, group = head / (a->heads / a->kv_heads);
    if (query >= end || key >= end || !visible(key, query, a->window))
        return {0, 0};
    const float score =
        row_dot(a->q, query * a->stride + head * d, a->k, key * a->stride + group * d, d);
    const float grad =
        row_dot(a->grad_out, (query * a->heads + head) * d, a->v, key * a->stride + group * d, d);
    return weigh(a, dots, score, grad, query, key, end, head);
}

static __global__ void attention_backward_key_rows_kernel(struct attention_backward a,
                                                          const float *dots)
{
    CUDA_SHARED(float, factors, WARP);
    const size_t begin = (size_t)a.sequences.offsets[blockIdx.z];
    const size_t end = (size_t)a.sequences.offsets[blockIdx.z + 1];
    const size_t key = begin + blockIdx.x, group = blockIdx.y, d = a.head_width;
    const size_t share = a.heads / a.kv_heads;
    if (key >= end)
        return;
    float grad_k[LANE_VALUES] = {0}, grad_v[LANE_VALUES] = {0};
    for (size_t head = group * share; head < (group + 1) * share; head++)
        for (size_t base = key; base < end && visible(key, base, a.window); base += WARP) {
            const struct weights w = weigh_rows(&a, dots, base + threadIdx.x, key, end, head);
            add_rows(grad_v, w.p, factors, a.grad_out, d,
                     [&](int i) { return ((base + i) * a.heads + head) * d; });
            add_rows(grad_k, w.ds, factors, a.q, d,
                     [&](int i) { return (base + i) * a.stride + head * d; });
        }
    store_row(a.grad_k, key * a.stride + group * d, grad_k, 1, d);
    store_row(a.grad_v, key * a.stride + group * d, grad_v, 1, d);
}

static __global__ void attention_backward_query_rows_kernel(struct attention_backward a,
                                                            const float *dots)
{
    CUDA_SHARED(float, factors, WARP);
    const size_t begin = (size_t)a.sequences.offsets[blockIdx.z];
    const size_t end = (size_t)a.sequences.offsets[blockIdx.z + 1];
    const size_t query = begin + blockIdx.x, head = blockIdx.y, d = a.head_width;
    const size_t group = head / (a.heads / a.kv_heads);
    if (query >= end)
        return;
    const size_t first = a.window > 0 && query - begin >= a.window ? query - a.window + 1 : begin;
    float grad_q[LANE_VALUES] = {0};
    for (size_t base = begin + (first - begin) / WARP * WARP; base <= query; base += WARP) {
        const float ds = weigh_rows(&a, dots, query, base + threadIdx.x, end, head).ds;
        add_rows(grad_q, ds, factors, a.k, d,
                 [&](int i) { return (base + i) * a.stride + group * d; });
    }
    store_row(a.grad_q, query * a.stride + head * d, grad_q, 1, d);
}

static void launch_rows(struct device *device, const struct attention_backward *a,
                        const float *dots)
{
    const unsigned rows = (unsigned)a->sequences.longest, count = (unsigned)a->sequences.count;
    cudaStream_t stream = cuda_of(device)->stream;
    CUDA_LAUNCH(attention_backward_key_rows_kernel, dim3(rows, (unsigned)a->kv_heads, count), WARP,
                0, stream, *a, dots);
    CUDA_LAUNCH(attention_backward_query_rows_kernel, dim3(rows, (unsigned)a->heads, count), WARP,
                0, stream, *a, dots);
}

void cuda_attention_backward(struct device *device, const struct attention_backward *a)
{
    enum { DOT_ROWS = 8 };
    if (a->tokens == 0 || a->sequences.count == 0)
        return;
    float *dots = (float *)cuda_of(device)->scratch;
    assert(a->tokens * a->heads * sizeof *dots <= SCRATCH_BYTES);
    CUDA_LAUNCH(attention_dots_kernel, blocks_of(a->tokens * a->heads, DOT_ROWS),
                dim3(WARP, DOT_ROWS), 0, cuda_of(device)->stream, *a, dots);
    const size_t d = a->head_width;
    const bool tiles = can_tile(a->q, a->stride, d) && can_tile(a->k, a->stride, d) &&
                       can_tile(a->v, a->stride, d) && can_tile(a->grad_out, a->heads * d, d);
    if (tiles && d <= 64)
        launch_tiles<64>(device, a, dots);
    else if (tiles && d <= 128)
        launch_tiles<128>(device, a, dots);
    else if (tiles)
        launch_tiles<256>(device, a, dots);
    else
        launch_rows(device, a, dots);
    cuda_launched(device, "attention_backward");
}
