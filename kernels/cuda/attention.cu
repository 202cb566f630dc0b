// SPDX-License-Identifier: Apache-2.0
// Causal attention inside sequences, forward: see kernels/ref/attention.c.
//
// Idea (Dao 2023, FlashAttention-2): a block of four warps takes 128 queries of one head and walks
// over the visible keys by 64; scores, maximum, sum and output stay in registers. A warp has 32
// queries, so that what it loads of keys and values from shared memory is multiplied twice. The
// next keys and values are fetched while the present ones are used, with one barrier in between.
// Only tiles that the diagonal or the window cuts are masked, and a warp leaves out those that none
// of its queries sees. bf16 products, float32 sums.
// Launch: heads (the heads of a group, which read the same keys, run side by side) x sequences x
// queries by 128 of the longest sequence, the last ones, which have most to do, first; 128 threads;
// shared memory for 128 queries and twice 64 keys and values: 104 KB at width 128, two blocks a
// multiprocessor.
// Operations 4 d per visible pair and head; bytes: q and out once, k and v once for every 128
// queries (mostly from the L2 cache).
// Heads of 256: 64 queries, 16 a warp, by 32 keys.
// Other types and odd widths: attention_rows.h.
#include "kernels/cuda/attention_rows.h"
#include "kernels/cuda/attention_tiles.h"

enum { THREADS = TILE_WARPS * WARP, STAGES = 2 };

template <int D> struct query_tile {
    enum {
        M = D > 128 ? 1 : 2, // times 16 queries a warp
        WARP_QUERIES = M * WARP_ROWS,
        QUERIES = TILE_WARPS * WARP_QUERIES,
        KEYS = D > 128 ? 32 : 64,
        Q_ELEMENTS = tile<D, QUERIES>::ELEMENTS,
        KV_ELEMENTS = tile<D, KEYS>::ELEMENTS,
        BYTES = (Q_ELEMENTS + STAGES * 2 * KV_ELEMENTS) * (int)sizeof(bf16),
    };
};

// The 16 queries from query0 on.
template <int D>
static __device__ __forceinline__ void store_rows(const struct attention_forward *a,
                                                  float out[D / 8][4], struct running *r,
                                                  size_t query0, size_t end, size_t head)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const size_t query = query0 + fragment_row(2 * h);
        const float sum = row_sum(r->sum[h]);
        if (query >= end)
            continue;
        const size_t row = query * a->heads + head;
        const float factor = 1 / sum;
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
            const size_t column = fragment_column(n, 0);
            if (column < a->head_width)
                store_pair(a->out, row * a->head_width + column, out[n][2 * h] * factor,
                           out[n][2 * h + 1] * factor);
        }
        if (a->log_sum_exp && threadIdx.x % 4 == 0)
            a->log_sum_exp[row] = (r->largest[h] + log2f(sum)) * LN_2;
    }
}

template <int D>
static __global__ void __launch_bounds__(THREADS, D > 128 ? 1 : 2)
    attention_forward_kernel(struct attention_forward a)
{
    typedef query_tile<D> T;
    CUDA_SHARED_DYNAMIC(bf16, memory);
    const shared_pointer<bf16> q = memory, stages = memory + T::Q_ELEMENTS;
    const size_t head = blockIdx.x, number = gridDim.z - 1 - blockIdx.z;
    const size_t begin = (size_t)a.sequences.offsets[blockIdx.y];
    const size_t end = (size_t)a.sequences.offsets[blockIdx.y + 1];
    const size_t first = begin + number * T::QUERIES;
    if (first >= end)
        return;
    const size_t group = head / (a.heads / a.kv_heads), width = a.head_width;
    const bf16 *k = (const bf16 *)a.k.data + group * width;
    const bf16 *v = (const bf16 *)a.v.data + group * width;
    const size_t last = first + T::QUERIES < end ? first + T::QUERIES : end; // of queries and keys
    size_t key = begin;
    if (a.window > 0 && first - begin >= a.window)
        key += (first - begin - a.window + 1) / T::KEYS * T::KEYS;
    const int warp_row = threadIdx.x / WARP * T::WARP_QUERIES;
    const size_t query0 = first + warp_row, last_query = query0 + T::WARP_QUERIES - 1;
    const float factor = a.scale * LOG2_E;
    struct running r[T::M];
    float out[T::M][D / 8][4] = {};
    for (int m = 0; m < T::M; m++)
        r[m] = running_begin();
    tile_load<D, T::QUERIES, THREADS>(q, (const bf16 *)a.q.data + head * width, first, end,
                                      a.stride, width);
    tile_load<D, T::KEYS, THREADS>(stages, k, key, last, a.stride, width);
    tile_load<D, T::KEYS, THREADS>(stages + T::KV_ELEMENTS, v, key, last, a.stride, width);
    async_commit();
    for (int stage = 0; key < last; key += T::KEYS, stage ^= 1) {
        async_wait<0>();
        __syncthreads(); // these keys are there, and the last ones have been read
        if (key + T::KEYS < last) {
            const shared_pointer<bf16> next = stages + (stage ^ 1) * 2 * T::KV_ELEMENTS;
            tile_load<D, T::KEYS, THREADS>(next, k, key + T::KEYS, last, a.stride, width);
            tile_load<D, T::KEYS, THREADS>(next + T::KV_ELEMENTS, v, key + T::KEYS, last, a.stride,
                                           width);
            async_commit();
        }
        if (query0 >= end || !sees_some(key, T::KEYS, query0, last_query, a.window))
            continue;
        const shared_pointer<bf16> now = stages + stage * 2 * T::KV_ELEMENTS;
        float scores[T::M][T::KEYS / 8][4];
        multiply_tiles<D, T::M, T::KEYS>(scores, q, warp_row, now);
        const bool cut = !sees_all(key, T::KEYS, query0, last_query, a.window);
#pragma unroll
        for (int m = 0; m < T::M; m++) {
            if (cut)
                hide_keys<T::KEYS>(scores[m], key, query0 + m * WARP_ROWS, a.window);
            soften<T::KEYS, D>(scores[m], &r[m], out[m], factor);
        }
        multiply_factors<D, T::M, D, T::KEYS>(out, scores, now + T::KV_ELEMENTS, 0);
    }
#pragma unroll
    for (int m = 0; m < T::M; m++)
        store_rows<D>(&a, out[m], &r[m], query0 + m * WARP_ROWS, end, head);
}

template <int D> static void launch_tiles(struct device *device, const struct attention_forward *a)
{
    const dim3 grid((unsigned)a->heads, (unsigned)a->sequences.count,
                    blocks_of(a->sequences.longest, query_tile<D>::QUERIES));
    allow_shared(attention_forward_kernel<D>, query_tile<D>::BYTES);
    CUDA_LAUNCH(attention_forward_kernel<D>, grid, THREADS, query_tile<D>::BYTES,
                cuda_of(device)->stream, *a);
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
                       can_tile(a->v, a->stride, a->head_width) && can_tile_out(a->out);
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
