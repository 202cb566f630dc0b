// SPDX-License-Identifier: Apache-2.0
// Causal attention inside sequences, forward: see kernels/ref/attention.c.
//
// Idea (Dao 2023, FlashAttention-2): a block of four warps takes 64 queries of one head and walks
// over the visible keys by 64; scores, maximum, sum and output stay in registers. The next keys and
// values are fetched while the present ones are used. bf16 products, float32 sums.
// Launch: queries by 64 of the longest sequence x heads x sequences; 128 threads; shared memory for
// 64 queries and twice 64 keys and values. Operations 4 d per visible pair and head; bytes: q and
// out once, k and v once for every 64 queries (mostly from the L2 cache).
// spills: attention_forward_kernel of width 256 keeps 128 sums, 32 scores and their addresses a
// thread in 255 registers; 60 bytes go to local memory once every 64 keys.
// Other types and odd widths: attention_rows.h.
#include "kernels/cuda/attention_rows.h"
#include "kernels/cuda/attention_tiles.h"

enum { THREADS = TILE_WARPS * WARP, STAGES = 2 };

template <int D>
static __device__ void store_rows(const struct attention_forward *a, float out[D / 8][4],
                                  const struct running *r, size_t query0, size_t end, size_t head)
{
#pragma unroll
    for (int n = 0; n < D / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const size_t query = query0 + fragment_row(i), column = fragment_column(n, i);
            if (query < end && column < a->head_width)
                store(a->out, (query * a->heads + head) * a->head_width + column,
                      out[n][i] / r->sum[i / 2]);
        }
    if (!a->log_sum_exp || threadIdx.x % 4 != 0)
        return;
    for (int h = 0; h < 2; h++) {
        const size_t query = query0 + fragment_row(2 * h);
        if (query < end)
            a->log_sum_exp[query * a->heads + head] = r->largest[h] + logf(r->sum[h]);
    }
}

template <int D>
static __global__ void __launch_bounds__(THREADS)
    attention_forward_kernel(struct attention_forward a)
{
    CUDA_SHARED_DYNAMIC(bf16, memory);
    const shared_pointer<bf16> q = memory, kv = memory + tile<D>::ELEMENTS;
    const size_t begin = (size_t)a.sequences.offsets[blockIdx.z];
    const size_t end = (size_t)a.sequences.offsets[blockIdx.z + 1];
    const size_t first = begin + (size_t)blockIdx.x * TILE_ROWS, head = blockIdx.y;
    if (first >= end)
        return;
    const size_t group = head / (a.heads / a.kv_heads), width = a.head_width;
    const bf16 *k = (const bf16 *)a.k.data + group * width;
    const bf16 *v = (const bf16 *)a.v.data + group * width;
    const size_t last = first + TILE_ROWS < end ? first + TILE_ROWS : end; // of queries and keys
    size_t key = begin;
    if (a.window > 0 && first - begin >= a.window)
        key += (first - begin - a.window + 1) / TILE_ROWS * TILE_ROWS;
    const int warp_row = threadIdx.x / WARP * WARP_ROWS;
    struct running r = {{-INFINITY, -INFINITY}, {0, 0}};
    float out[D / 8][4] = {};
    tile_load<D, THREADS>(q, (const bf16 *)a.q.data + head * width, first, end, a.stride, width);
    tile_load<D, THREADS>(kv, k, key, last, a.stride, width);
    tile_load<D, THREADS>(kv + tile<D>::ELEMENTS, v, key, last, a.stride, width);
    async_commit();
    for (int stage = 0; key < last; key += TILE_ROWS, stage ^= 1) {
        const shared_pointer<bf16> now = kv + stage * 2 * tile<D>::ELEMENTS;
        const shared_pointer<bf16> next = kv + (stage ^ 1) * 2 * tile<D>::ELEMENTS;
        if (key + TILE_ROWS < last) {
            tile_load<D, THREADS>(next, k, key + TILE_ROWS, last, a.stride, width);
            tile_load<D, THREADS>(next + tile<D>::ELEMENTS, v, key + TILE_ROWS, last, a.stride,
                                  width);
        }
        async_commit();
        async_wait<1>();
        __syncthreads();
        float scores[TILE_ROWS / 8][4], shrink[2];
        multiply_tiles<D, TILE_ROWS>(scores, q, warp_row, now);
        soften<TILE_ROWS>(scores, &r, shrink, a.scale, [&](int n, int i) {
            return visible(key + fragment_column(n, i), first + warp_row + fragment_row(i),
                           a.window);
        });
        shrink_rows<D>(out, shrink);
        multiply_factors<D, D, TILE_ROWS>(out, scores, now + tile<D>::ELEMENTS, 0);
        __syncthreads();
    }
    store_rows<D>(&a, out, &r, first + warp_row, end, head);
}

template <int D> static void launch_tiles(struct device *device, const struct attention_forward *a)
{
    const size_t bytes = (1 + 2 * STAGES) * tile<D>::ELEMENTS * sizeof(bf16);
    const dim3 grid(blocks_of(a->sequences.longest, TILE_ROWS), (unsigned)a->heads,
                    (unsigned)a->sequences.count);
    (void)cudaFuncSetAttribute(attention_forward_kernel<D>,
                               cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    CUDA_LAUNCH(attention_forward_kernel<D>, grid, THREADS, bytes, cuda_of(device)->stream, *a);
}

// --- any type, any width ---

static __global__ void attention_forward_rows_kernel(struct attention_forward a)
{
    CUDA_SHARED(float, weights, WARP);
    const size_t head = blockIdx.y, d = a.head_width;
    const size_t begin = (size_t)a.sequences.offsets[blockIdx.z], t = begin + blockIdx.x;
    if (t >= (size_t)a.sequences.offsets[blockIdx.z + 1])
        return;
    const size_t group = head / (a.heads / a.kv_heads) * d;
    const size_t first = a.window > 0 && t - begin >= a.window ? t - a.window + 1 : begin;
    struct softmax_row r;
    attend_row(&r, a.q, t * a.stride + head * d, a.k, a.v, begin, first, t, a.scale, d, weights,
               [&](size_t u) { return u * a.stride + group; });
    store_row(a.out, (t * a.heads + head) * d, r.out, r.sum, d);
    if (a.log_sum_exp && threadIdx.x == 0)
        a.log_sum_exp[t * a.heads + head] = r.largest + logf(r.sum);
}

void cuda_attention_forward(struct device *device, const struct attention_forward *a)
{
    if (a->tokens == 0 || a->sequences.count == 0)
        return;
    const bool tiles = can_tile(a->q, a->stride, a->head_width) &&
                       can_tile(a->k, a->stride, a->head_width) &&
                       can_tile(a->v, a->stride, a->head_width);
    if (tiles && a->head_width <= 64)
        launch_tiles<64>(device, a);
    else if (tiles && a->head_width <= 128)
        launch_tiles<128>(device, a);
    else if (tiles)
        launch_tiles<256>(device, a);
    else
        CUDA_LAUNCH(
            attention_forward_rows_kernel,
            dim3((unsigned)a->sequences.longest, (unsigned)a->heads, (unsigned)a->sequences.count),
            WARP, 0, cuda_of(device)->stream, *a);
    cuda_launched(device, "attention_forward");
}
