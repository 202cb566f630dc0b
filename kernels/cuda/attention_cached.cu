// SPDX-License-Identifier: Apache-2.0
// Generation with a paged cache: see kernels/ref/attention_cached.c. A block's elements lie as
// [H_kv, B, d], B = KV_BLOCK_TOKENS.
//
// Idea (flash decoding, Dao et al. 2023, with the order of sums fixed): positions are cut into
// pieces of 256 at fixed places. A piece gives each row (one head of one token) a partial result:
// largest score, sum of weights, weighted values, computed from nothing over the piece's blocks of
// 32 positions, one after another; partial results are merged in the order of pieces. So it does
// not matter for a row's bits who computes its pieces, nor with which other rows:
// - few rows (decoding): a block of threads computes one piece of a tile of rows into the scratch,
//   and a second kernel merges, so that one sequence of 1,500 positions occupies 6 blocks a key
//   head instead of one;
// - many rows (prompts), or more pieces than the scratch holds: a block walks over all pieces of
//   its tile and merges in shared memory.
// A tile has 64 rows of a group, 16 a warp; or 16 rows, when a group has no more (one token, up to
// 16 heads a key head): then each warp has a quarter of the columns, and all compute the scores. A
// block of keys and values is read once for all rows of the tile, two ahead. Blocks that none of a
// warp's rows sees are left out by it, and only those that some row sees in part are masked. bf16
// products, float32 sums.
// Launch: (tiles of the largest group x pieces) x key heads x groups; 128 threads; at width 128
// 52 KB of shared memory, three blocks a multiprocessor (152 registers; 64 rows: two, 218), each
// with two blocks of 16 KB under way: 96 KB (64), where bandwidth times latency asks for 26.
// Bytes: 4 d for every cached position of a tile and key head, which is the floor; partial results
// are another 16 d (H / H_kv) / 256 a position, 4% at 5 heads a key head, mostly in the L2 cache.
// An estimate, not measured: the bandwidth limits decoding. A multiprocessor's share of 4.3 TB/s is
// 18.6 bytes a cycle, 880 cycles for 32 positions of 16 KB; a warp of a 16-row tile issues about
// 190 instructions for them (32 + 8 products), and three blocks are there to take turns.
// Queries are fragments in registers up to width 128, and in shared memory beyond.
// Other types and odd widths: attention_rows.h.
#include "kernels/cuda/attention_rows.h"
#include "kernels/cuda/attention_tiles.h"
#include "kernels/cuda/attention_walk.h"

enum {
    B = KV_BLOCK_TOKENS,
    THREADS = TILE_WARPS * WARP,
    STAGES = 3,
    PIECE = PIECE_BLOCKS * B, // positions
    MERGE_ROWS = 4,
    BLOCKS_PER_MULTIPROCESSOR = 8, // of a launch: more would only wait
};

// Partial results of rows, row = place in the order * H + head; slot = piece * rows + row.
struct partials {
    float *values;  // [pieces, rows, d]; NULL: blocks merge by themselves
    float *largest; // [pieces, rows]
    float *sums;    // [pieces, rows]
    size_t rows;
    unsigned tiles, splits; // blocks of a group and key head: every splits-th piece of a tile each
};

// Where the rows of a block begin, of one key head.
static __device__ __forceinline__ size_t block_row(const struct attention_cached *a, size_t t,
                                                   size_t block, size_t group)
{
    const size_t at = (size_t)a->sequences[t] * a->tables.stride + block;
    return ((size_t)a->tables.blocks[at] * a->kv_heads + group) * B * a->head_width;
}

template <int D, int ROWS> struct row_tile {
    enum {
        COLUMN_WARPS = TILE_WARPS * WARP_ROWS / ROWS, // that share 16 rows
        COLUMNS = D / COLUMN_WARPS,
        STAGE_ELEMENTS = 2 * tile<D, B>::ELEMENTS,
        KEEPS_QUERIES = D <= 128, // in registers
        // Queries that are not kept have room of their own, others use the last stage.
        Q_AT = (KEEPS_QUERIES ? STAGES - 1 : STAGES) * STAGE_ELEMENTS,
        ELEMENTS = STAGES * STAGE_ELEMENTS + (KEEPS_QUERIES ? 0 : tile<D, ROWS>::ELEMENTS),
        TOTALS = COLUMNS / 2 * THREADS, // floats, of a block that merges
        RESIDENT = D > 128            ? 1
                   : COLUMN_WARPS > 1 ? 3
                                      : 2, // blocks of a multiprocessor
    };
};

template <int D>
static __device__ __forceinline__ void load_block(const struct attention_cached *a,
                                                  shared_pointer<bf16> to, const struct walk *walk,
                                                  size_t group)
{
    const size_t t = (size_t)a->plan.order[walk->segment.first];
    const size_t row = block_row(a, t, (size_t)walk->block, group), d = a->head_width;
    const bf16 *k = (const bf16 *)a->k_cache.data + row, *v = (const bf16 *)a->v_cache.data + row;
    tile_load<D, B, THREADS>(to, k, 0, B, d, d);
    tile_load<D, B, THREADS>(to + tile<D, B>::ELEMENTS, v, 0, B, d, d);
}

// Heads of a key head. Rows are counted in 32 bits, as dividing by it takes long in 64.
static __device__ __forceinline__ unsigned share_of(const struct attention_cached *a)
{
    return (unsigned)a->heads / (unsigned)a->kv_heads;
}

static __device__ __forceinline__ int warp_largest(int value)
{
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2)
        value = larger(value, __shfl_xor_sync(0xffffffffu, value, lanes));
    return value;
}

// The tokens of rows, in places first..end of the order, and their positions.
struct span {
    int first, end;
    int lowest, highest;
};

// Of rows begin..end, the same for all lanes; empty when there are none.
static __device__ __forceinline__ struct span span_of(const struct attention_cached *a,
                                                      unsigned begin, unsigned end)
{
    const unsigned share = share_of(a);
    struct span out = {0, 0, 0, -1};
    if (begin >= end)
        return out;
    out.first = (int)(begin / share);
    out.end = (int)((end - 1) / share) + 1;
    int below = -INT32_MAX; // minus the lowest
    for (int i = out.first + (int)(threadIdx.x % WARP); i < out.end; i += WARP) {
        const int position = a->positions[a->plan.order[i]];
        below = larger(below, -position);
        out.highest = larger(out.highest, position);
    }
    out.lowest = -warp_largest(below);
    out.highest = warp_largest(out.highest);
    return out;
}

// The first position that a token sees.
static __device__ __forceinline__ int first_seen(const struct attention_cached *a, int position)
{
    return a->window > 0 && (size_t)position >= a->window ? position - (int)a->window + 1 : 0;
}

// What the block reads: every splits-th piece from its own on.
static __device__ __forceinline__ struct reading reading_of(const struct attention_cached *a,
                                                            const struct partials *p,
                                                            const struct attention_group *g,
                                                            const struct span *tokens)
{
    const int first = first_seen(a, tokens->lowest) / B;
    return {tokens->first,
            tokens->end,
            first,
            tokens->highest / B + 1,
            g->first_segment,
            g->first_segment + g->segments,
            first / PIECE_BLOCKS + (int)(blockIdx.x / p->tiles),
            (int)p->splits};
}

// How a block of positions stands towards a warp's rows.
static __device__ __forceinline__ bool some_see(const struct attention_cached *a,
                                                const struct walk *walk, const struct span *rows)
{
    const struct attention_segment *s = &walk->segment;
    return s->first < rows->end && s->first + s->tokens > rows->first &&
           walk->block * B <= rows->highest && walk->block * B + B > first_seen(a, rows->lowest);
}

static __device__ __forceinline__ bool all_see(const struct attention_cached *a,
                                               const struct walk *walk, const struct span *rows)
{
    const struct attention_segment *s = &walk->segment;
    return s->first <= rows->first && s->first + s->tokens >= rows->end &&
           walk->block * B + B - 1 <= rows->lowest &&
           walk->block * B >= first_seen(a, rows->highest);
}

// The two rows that a lane holds parts of.
struct lane_rows {
    int place[2];    // of the row's token in the order
    int position[2]; // of the token; -1: no such row
};

static __device__ __forceinline__ struct lane_rows lane_rows_of(const struct attention_cached *a,
                                                                unsigned row0, unsigned end)
{
    const unsigned share = share_of(a);
    struct lane_rows out;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const unsigned row = row0 + fragment_row(2 * h);
        out.place[h] = (int)(row / share);
        out.position[h] = row < end ? a->positions[a->plan.order[row / share]] : -1;
    }
    return out;
}

static __device__ __forceinline__ void hide_positions(float scores[B / 8][4],
                                                      const struct attention_cached *a,
                                                      const struct walk *walk,
                                                      const struct lane_rows *mine)
{
    int first[2], end[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const int place = mine->place[h] - walk->segment.first;
        const bool reads = mine->position[h] >= 0 && place >= 0 && place < walk->segment.tokens;
        first[h] = first_seen(a, mine->position[h]) - walk->block * B;
        end[h] = reads ? mine->position[h] - walk->block * B + 1 : 0;
    }
    hide<B>(scores, first, end);
}

// --- merging ---

// How much what was merged up to *largest keeps, and what is added gets; *largest grows.
struct merge {
    float kept, added;
};

static __device__ __forceinline__ struct merge merge_next(float *largest, float added)
{
    const float next = fmaxf(*largest, added);
    const struct merge out = {shrink_of(*largest, next), shrink_of(added, next)};
    *largest = next;
    return out;
}

static __device__ __forceinline__ float merged(struct merge m, float total, float added)
{
    return fmaf(added, m.added, total * m.kept);
}

// Merges a piece into the totals of the lane's rows. Each thread has its own.
template <int COLUMNS>
static __device__ __forceinline__ void merge_piece(shared_pointer<float> totals,
                                                   struct running *total,
                                                   const float out[COLUMNS / 8][4],
                                                   const struct running *r)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const struct merge m = merge_next(&total->largest[h], r->largest[h]);
        total->sum[h] = merged(m, total->sum[h], row_sum(r->sum[h]));
#pragma unroll
        for (int n = 0; n < COLUMNS / 8; n++)
#pragma unroll
            for (int i = 2 * h; i < 2 * h + 2; i++) {
                const int at = (n * 4 + i) * THREADS + threadIdx.x;
                totals[at] = merged(m, totals[at], out[n][i]);
            }
    }
}

// The lane's rows begin at row0 of all rows; columns from column0 on.
template <int COLUMNS>
static __device__ __forceinline__ void store_totals(const struct attention_cached *a,
                                                    shared_pointer<float> totals,
                                                    const struct running *total,
                                                    const struct lane_rows *mine, unsigned row0,
                                                    int column0)
{
    const size_t d = a->head_width;
    const unsigned share = share_of(a);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        if (mine->position[h] < 0)
            continue;
        const unsigned row = row0 + fragment_row(2 * h);
        const size_t t = (size_t)a->plan.order[row / share];
        const size_t at = (t * a->heads + blockIdx.y * share + row % share) * d;
        const float factor = 1 / total->sum[h];
#pragma unroll
        for (int n = 0; n < COLUMNS / 8; n++) {
            const size_t column = column0 + fragment_column(n, 0);
            const int from = (n * 4 + 2 * h) * THREADS + threadIdx.x;
            if (column < d)
                store_pair(a->out, at + column, totals[from] * factor,
                           totals[from + THREADS] * factor);
        }
    }
}

template <int COLUMNS>
static __device__ __forceinline__ void store_partial(const struct attention_cached *a,
                                                     const struct partials *p, int piece,
                                                     const float out[COLUMNS / 8][4],
                                                     const struct running *r,
                                                     const struct lane_rows *mine, unsigned row0,
                                                     int column0)
{
    const size_t d = a->head_width;
    const unsigned share = share_of(a);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const float sum = row_sum(r->sum[h]);
        if (mine->position[h] < 0)
            continue;
        const unsigned row = row0 + fragment_row(2 * h);
        const size_t slot =
            (size_t)piece * p->rows + row / share * a->heads + blockIdx.y * share + row % share;
        if (column0 == 0 && threadIdx.x % 4 == 0) {
            p->largest[slot] = r->largest[h];
            p->sums[slot] = sum;
        }
#pragma unroll
        for (int n = 0; n < COLUMNS / 8; n++) {
            const size_t column = column0 + fragment_column(n, 0);
            if (column < d)
                *(uint2 *)(p->values + slot * d + column) = {__float_as_uint(out[n][2 * h]),
                                                             __float_as_uint(out[n][2 * h + 1])};
        }
    }
}

// How many places of the order are tokens': a padded step has more tokens than its groups.
static __device__ __forceinline__ int order_end(const struct attention_plan *plan)
{
    int end = 0;
    for (size_t g = threadIdx.x; g < plan->group_count; g += WARP)
        end = larger(end, plan->groups[g].first + plan->groups[g].tokens);
    return warp_largest(end);
}

// A warp takes a row, a lane every 32nd column.
static __global__ void attention_merge_kernel(struct attention_cached a, struct partials p)
{
    const unsigned row = blockIdx.x * MERGE_ROWS + threadIdx.y, heads = (unsigned)a.heads;
    const unsigned place = row / heads, head = row % heads;
    const size_t d = a.head_width;
    if ((int)place >= order_end(&a.plan))
        return;
    const size_t t = (size_t)a.plan.order[place];
    const int position = a.positions[t];
    float values[LANE_VALUES] = {0}, largest = -INFINITY, sum = 0;
#pragma unroll 4
    for (int piece = first_seen(&a, position) / PIECE; piece <= position / PIECE; piece++) {
        const size_t slot = (size_t)piece * p.rows + row;
        const struct merge m = merge_next(&largest, p.largest[slot]);
        sum = merged(m, sum, p.sums[slot]);
#pragma unroll
        for (int j = 0; j < LANE_VALUES; j++)
            if (threadIdx.x + j * WARP < d)
                values[j] = merged(m, values[j], p.values[slot * d + threadIdx.x + j * WARP]);
    }
    const float factor = 1 / sum;
#pragma unroll
    for (int j = 0; j < LANE_VALUES; j++)
        if (threadIdx.x + j * WARP < d)
            store(a.out, (t * a.heads + head) * d + threadIdx.x + j * WARP, values[j] * factor);
}

// --- a tile ---

template <int D, int ROWS>
static __global__ void __launch_bounds__(THREADS, row_tile<D, ROWS>::RESIDENT)
    attention_cached_kernel(struct attention_cached a, struct partials p)
{
    typedef row_tile<D, ROWS> T;
    CUDA_SHARED_DYNAMIC(bf16, memory);
    CUDA_SHARED_DYNAMIC(float, behind); // the same bytes
    const shared_pointer<bf16> q = memory + T::Q_AT;
    const shared_pointer<float> totals = behind + T::ELEMENTS / 2;
    const struct attention_group g = a.plan.groups[blockIdx.z];
    const size_t group = blockIdx.y, d = a.head_width;
    const unsigned share = share_of(&a);
    // Rows are numbered through the whole order, for each key head.
    const unsigned begin = g.first * share + blockIdx.x % p.tiles * ROWS;
    const unsigned rows_end = (g.first + g.tokens) * share;
    const unsigned end = begin + ROWS < rows_end ? begin + ROWS : rows_end;
    if (begin >= rows_end)
        return;
    const struct span tokens = span_of(&a, begin, end);
    const struct reading reading = reading_of(&a, &p, &g, &tokens);
    if (reading.first_piece * PIECE_BLOCKS >= reading.end_block)
        return;
    tile_gather<D, ROWS, THREADS>(q, d, [&](int i) {
        const unsigned row = begin + i;
        return row < end ? (const bf16 *)a.q.data + (size_t)a.plan.order[row / share] * a.stride +
                               (group * share + row % share) * d
                         : (const bf16 *)NULL;
    });
    async_commit();
    struct walk ahead = walk_begin(&reading), now = ahead;
    bool more = true;
    for (int s = 0; s < STAGES - 1; s++) {
        more = more && walk_next(&a.plan, &reading, &ahead);
        if (more)
            load_block<D>(&a, memory + s * T::STAGE_ELEMENTS, &ahead, group);
        async_commit();
    }
    const int warp = threadIdx.x / WARP, warp_row = warp / T::COLUMN_WARPS * WARP_ROWS;
    const int column0 = warp % T::COLUMN_WARPS * T::COLUMNS;
    const size_t row0 = begin + warp_row,
                 warp_end = row0 + WARP_ROWS < end ? row0 + WARP_ROWS : end;
    const struct span rows = span_of(&a, row0, warp_end);
    const struct lane_rows mine = lane_rows_of(&a, row0, end);
    const float factor = a.scale * LOG2_E;
    struct running r = running_begin(), total = running_begin();
    float out[1][T::COLUMNS / 8][4] = {};
    uint32_t queries[T::KEEPS_QUERIES ? D / 16 : 1][4];
    async_wait<STAGES - 1>();
    __syncthreads();
    for (int k = 0; T::KEEPS_QUERIES && k < D / 16; k++)
        tile_left<D>(queries[T::KEEPS_QUERIES ? k : 0], q, warp_row, k * 16);
    for (int i = 0; !p.values && i < T::COLUMNS / 2; i++)
        totals[i * THREADS + threadIdx.x] = 0;
    int piece = reading.first_piece;
    for (int stage = 0, free_stage = STAGES - 1; walk_next(&a.plan, &reading, &now);) {
        async_wait<STAGES - 2>();
        __syncthreads(); // this turn's block is there, and the last one's has been read
        more = more && walk_next(&a.plan, &reading, &ahead);
        if (more)
            load_block<D>(&a, memory + free_stage * T::STAGE_ELEMENTS, &ahead, group);
        async_commit();
        const shared_pointer<bf16> k = memory + stage * T::STAGE_ELEMENTS;
        free_stage = stage;
        stage = stage == STAGES - 1 ? 0 : stage + 1;
        if (now.piece != piece) {
            if (p.values)
                store_partial<T::COLUMNS>(&a, &p, piece, out[0], &r, &mine, row0, column0);
            else
                merge_piece<T::COLUMNS>(totals, &total, out[0], &r);
            r = running_begin();
#pragma unroll
            for (int n = 0; n < T::COLUMNS / 8; n++)
                for (int i = 0; i < 4; i++)
                    out[0][n][i] = 0;
            piece = now.piece;
        }
        if (!some_see(&a, &now, &rows))
            continue;
        float scores[1][B / 8][4];
        multiply_rows<D, 1, B>(scores, k, [&](uint32_t left[4], int, int at) {
            if (T::KEEPS_QUERIES)
                for (int i = 0; i < 4; i++)
                    left[i] = queries[T::KEEPS_QUERIES ? at / 16 : 0][i];
            else
                tile_left<D>(left, q, warp_row, at);
        });
        if (!all_see(&a, &now, &rows))
            hide_positions(scores[0], &a, &now, &mine);
        soften<B, T::COLUMNS>(scores[0], &r, out[0], factor);
        multiply_factors<D, 1, T::COLUMNS, B>(out, scores, k + tile<D, B>::ELEMENTS, column0);
    }
    if (p.values) {
        store_partial<T::COLUMNS>(&a, &p, piece, out[0], &r, &mine, row0, column0);
        return;
    }
    merge_piece<T::COLUMNS>(totals, &total, out[0], &r);
    store_totals<T::COLUMNS>(&a, totals, &total, &mine, row0, column0);
}

// By the shape alone, as a captured step is repeated with other contents. Tiles are counted as if
// all were full.
static struct partials partials_of(struct device *device, const struct attention_cached *a,
                                   size_t tile_rows)
{
    const size_t share = a->heads / a->kv_heads, rows = a->tokens * a->heads;
    const size_t pieces = (a->tables.stride + PIECE_BLOCKS - 1) / PIECE_BLOCKS;
    const size_t blocks = blocks_of(a->tokens * share, tile_rows) * a->kv_heads;
    const size_t multiprocessors = (size_t)cuda_of(device)->properties.multiProcessorCount;
    const size_t seen = a->window > 0 ? a->window / PIECE + 2 : pieces; // by one token, at most
    size_t splits = BLOCKS_PER_MULTIPROCESSOR * multiprocessors / blocks;
    struct partials p = {NULL, NULL, NULL, rows, blocks_of(a->plan.group_tokens * share, tile_rows),
                         1};
    if (pieces == 1 || blocks > 2 * multiprocessors ||
        pieces * rows * (a->head_width + 2) * sizeof(float) > SCRATCH_BYTES)
        return p;
    p.values = (float *)cuda_of(device)->scratch;
    p.largest = p.values + pieces * rows * a->head_width;
    p.sums = p.largest + pieces * rows;
    splits = splits < pieces ? splits : pieces;
    splits = splits < seen ? splits : seen;
    p.splits = (unsigned)(splits > 0 ? splits : 1);
    return p;
}

template <int D, int ROWS>
static void launch_tiles(struct device *device, const struct attention_cached *a)
{
    typedef row_tile<D, ROWS> T;
    const struct partials p = partials_of(device, a, ROWS);
    const size_t bytes =
        T::ELEMENTS * sizeof(bf16) + (p.values ? 0 : (size_t)T::TOTALS * sizeof(float));
    const dim3 grid(p.tiles * p.splits, (unsigned)a->kv_heads, (unsigned)a->plan.group_count);
    cudaStream_t stream = cuda_of(device)->stream;
    allow_shared(attention_cached_kernel<D, ROWS>, bytes);
    CUDA_LAUNCH((attention_cached_kernel<D, ROWS>), grid, THREADS, bytes, stream, *a, p);
    if (p.values)
        CUDA_LAUNCH(attention_merge_kernel, blocks_of(p.rows, MERGE_ROWS), dim3(WARP, MERGE_ROWS),
                    0, stream, *a, p);
}

template <int D> static void launch_width(struct device *device, const struct attention_cached *a)
{
    if (a->plan.group_tokens * (a->heads / a->kv_heads) <= WARP_ROWS)
        launch_tiles<D, WARP_ROWS>(device, a);
    else
        launch_tiles<D, TILE_ROWS>(device, a);
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
    const bool tiles = can_tile(a->q, a->stride, d) && can_tile(a->k_cache, d, d) &&
                       can_tile(a->v_cache, d, d) && can_tile_out(a->out);
    if (tiles && d <= 64)
        launch_width<64>(device, a);
    else if (tiles && d <= 128)
        launch_width<128>(device, a);
    else if (tiles)
        launch_width<256>(device, a);
    else
        CUDA_LAUNCH(attention_cached_rows_kernel, dim3((unsigned)a->tokens, (unsigned)a->heads),
                    WARP, 0, cuda_of(device)->stream, *a);
    cuda_launched(device, "attention_cached");
}
