// SPDX-License-Identifier: Apache-2.0
// Generation with a paged cache: see kernels/ref/attention_cached.c. A block's elements lie as
// [H_kv, B, d], B = KV_BLOCK_TOKENS.
//
// Idea: a block of four warps takes 64 rows of a group (rows are the heads of the key head's share
// of every token) and walks over the group's segments and their blocks of positions, three in
// flight; a block of keys and values is read once for all rows of the tile. Rows that a segment
// leaves out, or that see nothing of a block, keep their bits, so the plan never changes the
// arithmetic. Scores, maximum, sum and output stay in registers; bf16 products, float32 sums.
// Launch: rows by 64 of the largest group x key heads x groups; 128 threads. Bytes: 4 d for every
// cached position of a tile and key head; the floor reads each once.
// Other types and odd widths: attention_rows.h.
#include "kernels/cuda/attention_rows.h"
#include "kernels/cuda/attention_tiles.h"

enum { B = KV_BLOCK_TOKENS, THREADS = TILE_WARPS * WARP, STAGES = 3, WRITE_THREADS = 256 };

static __global__ void kv_write_kernel(struct kv_write a)
{
    const size_t width = a.kv_heads * a.head_width, t = blockIdx.x;
    const size_t i = (size_t)blockIdx.y * WRITE_THREADS + threadIdx.x;
    if (i >= width || a.places[t] < 0)
        return;
    const size_t block = (size_t)a.places[t] / B, offset = (size_t)a.places[t] % B;
    const size_t head = block * a.kv_heads + i / a.head_width;
    const size_t to = (head * B + offset) * a.head_width + i % a.head_width;
    store(a.k_cache, to, load(a.k, t * a.stride + i));
    store(a.v_cache, to, load(a.v, t * a.stride + i));
}

void cuda_kv_write(struct device *device, const struct kv_write *a)
{
    if (a->tokens == 0)
        return;
    const dim3 grid((unsigned)a->tokens, blocks_of(a->kv_heads * a->head_width, WRITE_THREADS));
    CUDA_LAUNCH(kv_write_kernel, grid, WRITE_THREADS, 0, cuda_of(device)->stream, *a);
    cuda_launched(device, "kv_write");
}

// One thread a pair of elements: queries turn in place, keys turn on their way to the cache, values
// are copied there. Reads a row of queries, keys and values once, and writes as much.
static __global__ void rope_kv_write_kernel(struct rope rope, struct kv_write write)
{
    const size_t d = rope.head_width, half = d / 2, t = blockIdx.x;
    const size_t heads = rope.heads + write.kv_heads, queries = rope.heads - write.kv_heads;
    const size_t pair = (size_t)blockIdx.y * WRITE_THREADS + threadIdx.x;
    if (pair >= heads * half)
        return;
    const size_t head = pair / half, i = pair % half, at = t * rope.stride + head * d + i;
    const float x = load(rope.x, at), y = load(rope.x, at + half);
    const bool turns = head < rope.heads;
    float s = 0, c = 1;
    if (turns) {
        sincosf((float)rope.positions[t] * rope.inverse_frequency[i], &s, &c);
        s *= rope.magnitude;
        c *= rope.magnitude;
    }
    const float first = turns ? x * c - y * s : x, second = turns ? y * c + x * s : y;
    if (head < queries) {
        store(rope.x, at, first);
        store(rope.x, at + half, second);
        return;
    }
    if (write.places[t] < 0)
        return;
    const size_t group = head - (turns ? queries : rope.heads);
    const size_t block = (size_t)write.places[t] / B, offset = (size_t)write.places[t] % B;
    const size_t to = ((block * write.kv_heads + group) * B + offset) * d + i;
    const struct tensor cache = turns ? write.k_cache : write.v_cache;
    store(cache, to, first);
    store(cache, to + half, second);
}

void cuda_rope_kv_write(struct device *device, const struct rope_kv_write *a)
{
    const size_t half = a->rope.head_width / 2;
    if (a->rope.tokens == 0)
        return;
    if (a->rope.head_width % 2 != 0) {
        cuda_rope(device, &a->rope);
        cuda_kv_write(device, &a->write);
        return;
    }
    const dim3 grid((unsigned)a->rope.tokens,
                    blocks_of((a->rope.heads + a->write.kv_heads) * half, WRITE_THREADS));
    CUDA_LAUNCH(rope_kv_write_kernel, grid, WRITE_THREADS, 0, cuda_of(device)->stream, a->rope,
                a->write);
    cuda_launched(device, "rope_kv_write");
}

// Where the rows of a block begin, of one key head.
static __device__ __forceinline__ size_t block_row(const struct attention_cached *a, size_t t,
                                                   size_t block, size_t group)
{
    const size_t at = (size_t)a->sequences[t] * a->tables.stride + block;
    return ((size_t)a->tables.blocks[at] * a->kv_heads + group) * B * a->head_width;
}

// The blocks of positions that a tile's tokens [first, end) of the order read, one after another.
struct walk {
    int first, end;
    int segment, last_segment;
    int block; // -1: the segment has not begun
};

static __device__ bool walk_next(const struct attention_plan *plan, struct walk *walk)
{
    for (; walk->segment < walk->last_segment; walk->segment++, walk->block = -1) {
        const struct attention_segment s = plan->segments[walk->segment];
        if (s.first >= walk->end || s.first + s.tokens <= walk->first)
            continue;
        walk->block = walk->block < 0 ? s.first_block : walk->block + 1;
        if (walk->block < s.end_block)
            return true;
    }
    return false;
}

template <int D>
static __device__ void load_block(const struct attention_cached *a, shared_pointer<bf16> to,
                                  const struct walk *walk, size_t group)
{
    const size_t t = (size_t)a->plan.order[a->plan.segments[walk->segment].first];
    const size_t row = block_row(a, t, (size_t)walk->block, group), d = a->head_width;
    const bf16 *k = (const bf16 *)a->k_cache.data + row, *v = (const bf16 *)a->v_cache.data + row;
    tile_gather<D, B, THREADS>(to, d, k, [=](int i) { return k + i * d; });
    tile_gather<D, B, THREADS>(to + B * (D + TILE_PAD), d, v, [=](int i) { return v + i * d; });
}

// The two rows that a lane holds parts of.
struct lane_rows {
    int order[2];    // place of the row's token in the plan's order
    int position[2]; // of the token; -1: no such row
};

template <int D>
static __device__ void store_tile_row(const struct attention_cached *a, const float out[D / 8][4],
                                      const struct running *r, int h, size_t row, size_t group)
{
    const size_t share = a->heads / a->kv_heads, d = a->head_width;
    const size_t t = (size_t)a->plan.order[row / share], head = group * share + row % share;
#pragma unroll
    for (int n = 0; n < D / 8; n++)
        for (int i = 2 * h; i < 2 * h + 2; i++) {
            const size_t column = fragment_column(n, i);
            if (column < d)
                store(a->out, (t * a->heads + head) * d + column, out[n][i] / r->sum[h]);
        }
}

template <int D>
static __global__ void __launch_bounds__(THREADS) attention_cached_kernel(struct attention_cached a)
{
    CUDA_SHARED_DYNAMIC(bf16, memory);
    const shared_pointer<bf16> q = memory, stages = memory + tile<D>::ELEMENTS;
    const int stage_elements = 2 * B * (D + TILE_PAD);
    const struct attention_group g = a.plan.groups[blockIdx.z];
    const size_t group = blockIdx.y, share = a.heads / a.kv_heads, d = a.head_width;
    // Rows are numbered through the whole order.
    const size_t begin = (size_t)g.first * share + (size_t)blockIdx.x * TILE_ROWS;
    const size_t rows_end = (size_t)(g.first + g.tokens) * share;
    if (begin >= rows_end)
        return;
    const size_t end = begin + TILE_ROWS < rows_end ? begin + TILE_ROWS : rows_end;
    tile_gather<D, TILE_ROWS, THREADS>(q, d, (const bf16 *)a.q.data, [&](int i) {
        const size_t row = begin + i;
        return row < end ? (const bf16 *)a.q.data + (size_t)a.plan.order[row / share] * a.stride +
                               (group * share + row % share) * d
                         : (const bf16 *)NULL;
    });
    const int warp_row = threadIdx.x / WARP * WARP_ROWS;
    struct lane_rows mine;
    for (int h = 0; h < 2; h++) {
        const size_t row = begin + warp_row + fragment_row(2 * h);
        mine.order[h] = (int)(row / share);
        mine.position[h] = row < end ? a.positions[a.plan.order[row / share]] : -1;
    }
    struct walk ahead = {(int)(begin / share), (int)((end - 1) / share + 1), g.first_segment,
                         g.first_segment + g.segments, -1};
    struct walk now = ahead;
    bool more = true;
    for (int s = 0; s < STAGES - 1; s++) {
        more = more && walk_next(&a.plan, &ahead);
        if (more)
            load_block<D>(&a, stages + s * stage_elements, &ahead, group);
        async_commit();
    }
    struct running r = {{-INFINITY, -INFINITY}, {0, 0}};
    float out[D / 8][4] = {};
    for (int turn = 0; walk_next(&a.plan, &now); turn++) {
        async_wait<STAGES - 2>();
        __syncthreads(); // this turn's block is there, and the last one's has been read
        more = more && walk_next(&a.plan, &ahead);
        if (more)
            load_block<D>(&a, stages + (turn + STAGES - 1) % STAGES * stage_elements, &ahead,
                          group);
        async_commit();
        const shared_pointer<bf16> k = stages + turn % STAGES * stage_elements;
        const struct attention_segment s = a.plan.segments[now.segment];
        float scores[B / 8][4], shrink[2];
        multiply_tiles<D, B>(scores, q, warp_row, k);
        soften<B>(scores, &r, shrink, a.scale, [&](int n, int i) {
            const int order = mine.order[i / 2], key = now.block * B + fragment_column(n, i);
            return mine.position[i / 2] >= 0 && order >= s.first && order < s.first + s.tokens &&
                   visible((size_t)key, (size_t)mine.position[i / 2], a.window);
        });
        shrink_rows<D>(out, shrink);
        multiply_factors<D, D, B>(out, scores, k + B * (D + TILE_PAD), 0);
    }
    for (int h = 0; h < 2; h++)
        if (mine.position[h] >= 0)
            store_tile_row<D>(&a, out, &r, h, begin + warp_row + fragment_row(2 * h), group);
}

template <int D> static void launch_tiles(struct device *device, const struct attention_cached *a)
{
    const size_t bytes = (tile<D>::ELEMENTS + STAGES * 2 * B * (D + TILE_PAD)) * sizeof(bf16);
    const size_t rows = a->plan.group_tokens * (a->heads / a->kv_heads);
    const dim3 grid(blocks_of(rows, TILE_ROWS), (unsigned)a->kv_heads,
                    (unsigned)a->plan.group_count);
    (void)cudaFuncSetAttribute(attention_cached_kernel<D>,
                               cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
    CUDA_LAUNCH(attention_cached_kernel<D>, grid, THREADS, bytes, cuda_of(device)->stream, *a);
}

// --- any type, any width ---

static __global__ void attention_cached_rows_kernel(struct attention_cached a)
{
    CUDA_SHARED(float, weights, WARP);
    const size_t t = blockIdx.x, head = blockIdx.y, d = a.head_width;
    const size_t group = head / (a.heads / a.kv_heads), last = (size_t)a.positions[t];
    const size_t first = a.window > 0 && last >= a.window ? last - a.window + 1 : 0;
    struct softmax_row r;
    attend_row(&r, a.q, t * a.stride + head * d, a.k_cache, a.v_cache, 0, first, last, a.scale, d,
               weights, [&](size_t u) {
                   // Keys behind the last have no weight, and maybe no block.
                   const size_t known = u <= last ? u : last;
                   return block_row(&a, t, known / B, group) + known % B * d;
               });
    store_row(a.out, (t * a.heads + head) * d, r.out, r.sum, d);
}

void cuda_attention_cached(struct device *device, const struct attention_cached *a)
{
    if (a->tokens == 0)
        return;
    const size_t d = a->head_width;
    const bool tiles =
        can_tile(a->q, a->stride, d) && can_tile(a->k_cache, d, d) && can_tile(a->v_cache, d, d);
    if (tiles && d <= 64)
        launch_tiles<64>(device, a);
    else if (tiles && d <= 128)
        launch_tiles<128>(device, a);
    else if (tiles)
        launch_tiles<256>(device, a);
    else
        CUDA_LAUNCH(attention_cached_rows_kernel, dim3((unsigned)a->tokens, (unsigned)a->heads),
                    WARP, 0, cuda_of(device)->stream, *a);
    cuda_launched(device, "attention_cached");
}
