// SPDX-License-Identifier: Apache-2.0
// Causal attention inside sequences, backward: see kernels/ref/attention.c.
//
// Two kernels, each with one writer for every result, so that no sum depends on timing: one block
// takes 64 keys and walks over the queries that see them, in ascending heads of the group, then
// queries (grad_k, grad_v); another takes 128 queries and walks over their keys (grad_q). Both
// compute the scores again: seven products, 14 d operations per visible pair and head, where one
// kernel with ordered sums of grad_q would have five; its float32 sums of every query and head, and
// blocks that wait for one another, are what this saves.
// The key kernel multiplies transposed, k q^T, so that the weights come out as the left operand of
// the next product. As in attention.cu, weights are powers of two, only tiles that the diagonal or
// the window cuts are masked, and the next tiles are fetched while the present ones are used; the
// scale is multiplied once, at the end. Rows behind the last query weigh 2^-infinity.
// Launch: keys: key heads x sequences x keys by 64; queries: heads x sequences x queries by 128,
// blocks with most to do first; 128 threads, 104 KB of shared memory at width 128, two blocks a
// multiprocessor. Wide heads (256): two warps share 16 rows and have half of the columns each.
// Other types and odd widths: a warp takes one row of one head, in float32.
#include "kernels/cuda/attention_rows.h"
#include "kernels/cuda/attention_tiles.h"

enum { STAGES = 2 };

// dots[t, h] = grad_out . out, by `lanes` lanes a row.
template <enum access A>
static __global__ void attention_dots_kernel(struct attention_backward a, float *dots,
                                             unsigned lanes)
{
    const size_t row = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) / lanes, d = a.head_width;
    const bool valid = row < a.tokens * a.heads;
    float sum = 0;
    enum { COUNT = lane<A>::COUNT };
    for (size_t i = threadIdx.x % lanes * COUNT; valid && i < d; i += lanes * COUNT) {
        float x[COUNT], y[COUNT];
        lane_widen(x, lane_load<A>(a.grad_out, row * d + i));
        lane_widen(y, lane_load<A>(a.out, row * d + i));
        for (int j = 0; j < COUNT; j++)
            sum += x[j] * y[j];
    }
    for (unsigned step = lanes / 2; step > 0; step /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, (int)step);
    if (valid && threadIdx.x % lanes == 0)
        dots[row] = sum;
}

static void launch_dots(struct device *device, const struct attention_backward *a, float *dots)
{
    enum { DOT_THREADS = 256 };
    const struct tensor tensors[] = {a->grad_out, a->out};
    const enum access access = access_of(tensors, 2, a->head_width);
    const bool half = a->head_width <= WARP / 2 * access_elements(access);
    const unsigned lanes = half ? WARP / 2 : WARP;
    const unsigned blocks = blocks_of(a->tokens * a->heads, DOT_THREADS / lanes);
    CUDA_LAUNCH_ACCESS(access, attention_dots_kernel, blocks, DOT_THREADS, 0,
                       cuda_of(device)->stream, *a, dots, lanes);
}

// What a block has: of rows of its own, and of those that it walks over.
template <int D> struct key_block {
    enum {
        SPLIT = D > 128 ? 2 : 1, // warps that share 16 keys
        THREADS = TILE_WARPS * SPLIT * WARP,
        COLUMNS = D / SPLIT,
        RESIDENT = D > 128 ? 1 : 2,
        STAGE_ELEMENTS = 2 * tile<D>::ELEMENTS, // queries and grad_out
        ELEMENTS = 2 * tile<D>::ELEMENTS + STAGES * STAGE_ELEMENTS,
        FACTORS = STAGES * 2 * TILE_ROWS, // floats: logarithms and dots of queries
        BYTES = ELEMENTS * (int)sizeof(bf16) + FACTORS * (int)sizeof(float),
    };
};

template <int D> struct query_block {
    enum {
        SPLIT = D > 128 ? 2 : 1,
        M = D > 128 ? 1 : 2, // times 16 queries a warp
        THREADS = TILE_WARPS * SPLIT * WARP,
        COLUMNS = D / SPLIT,
        RESIDENT = D > 128 ? 1 : 2,
        WARP_QUERIES = M * WARP_ROWS,
        QUERIES = TILE_WARPS * WARP_QUERIES,
        KEYS = 32,
        STAGE_ELEMENTS = 2 * tile<D, KEYS>::ELEMENTS, // keys and values
        ELEMENTS = 2 * tile<D, QUERIES>::ELEMENTS + STAGES * STAGE_ELEMENTS,
        BYTES = ELEMENTS * (int)sizeof(bf16),
    };
};

// log2 of what the weights of a query are divided by; infinity when there is no such query.
static __device__ __forceinline__ float logarithm_of(const struct attention_backward *a,
                                                     size_t query, size_t end, size_t head)
{
    return query < end ? a->log_sum_exp[query * a->heads + head] * LOG2_E : INFINITY;
}

static __device__ __forceinline__ float dot_of(const struct attention_backward *a,
                                               const float *dots, size_t query, size_t end,
                                               size_t head)
{
    return query < end ? dots[query * a->heads + head] : 0;
}

// 16 rows from row0 on, times `scale`.
template <int COLUMNS>
static __device__ __forceinline__ void store_gradient(struct tensor to,
                                                      const float sums[COLUMNS / 8][4], float scale,
                                                      size_t row0, size_t end, size_t stride,
                                                      size_t offset, size_t first, size_t width)
{
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const size_t row = row0 + fragment_row(2 * h);
        if (row >= end)
            continue;
#pragma unroll
        for (int n = 0; n < COLUMNS / 8; n++) {
            const size_t column = first + fragment_column(n, 0);
            if (column < width)
                store_pair(to, row * stride + offset + column, sums[n][2 * h] * scale,
                           sums[n][2 * h + 1] * scale);
        }
    }
}

// The 64 queries that a block of keys reads next.
struct query_step {
    size_t head, query;
};

static __device__ __forceinline__ struct query_step step_next(struct query_step s, size_t first,
                                                              size_t last)
{
    s.query += TILE_ROWS;
    if (s.query < last)
        return s;
    return {s.head + 1, first};
}

template <int D>
static __device__ __forceinline__ void load_queries(const struct attention_backward *a,
                                                    shared_pointer<bf16> to, struct query_step s,
                                                    size_t end)
{
    const size_t d = a->head_width;
    tile_load<D, TILE_ROWS, key_block<D>::THREADS>(to, (const bf16 *)a->q.data + s.head * d,
                                                   s.query, end, a->stride, d);
    tile_load<D, TILE_ROWS, key_block<D>::THREADS>(to + tile<D>::ELEMENTS,
                                                   (const bf16 *)a->grad_out.data + s.head * d,
                                                   s.query, end, a->heads * d, d);
    async_commit();
}

// What thread i brings: the logarithm of query i, or the dot of query i - 64.
static __device__ __forceinline__ float load_factor(const struct attention_backward *a,
                                                    const float *dots, struct query_step s,
                                                    size_t end)
{
    const size_t query = s.query + threadIdx.x % TILE_ROWS;
    return threadIdx.x < TILE_ROWS ? logarithm_of(a, query, end, s.head)
                                   : dot_of(a, dots, query, end, s.head);
}

// Hides, of the queries from query0 on, those that do not see the 16 keys from key0 on.
static __device__ __forceinline__ void hide_queries(float scores[TILE_ROWS / 8][4], size_t key0,
                                                    size_t query0, size_t window)
{
    int first[2], end[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        first[h] = (int)(key0 - query0) + fragment_row(2 * h);
        const ptrdiff_t to = (ptrdiff_t)first[h] + (ptrdiff_t)window;
        end[h] = window > 0 && to < TILE_ROWS ? (int)to : TILE_ROWS;
    }
    hide<TILE_ROWS>(scores, first, end);
}

template <int D>
static __global__ void __launch_bounds__(key_block<D>::THREADS, key_block<D>::RESIDENT)
    attention_backward_keys_kernel(struct attention_backward a, const float *dots)
{
    typedef key_block<D> K;
    CUDA_SHARED_DYNAMIC(bf16, memory);
    CUDA_SHARED_DYNAMIC(float, behind); // the same bytes
    const shared_pointer<bf16> k = memory, v = memory + tile<D>::ELEMENTS;
    const shared_pointer<bf16> stages = memory + 2 * tile<D>::ELEMENTS;
    const shared_pointer<float> factors = behind + K::ELEMENTS / 2;
    const size_t begin = (size_t)a.sequences.offsets[blockIdx.y];
    const size_t end = (size_t)a.sequences.offsets[blockIdx.y + 1];
    const size_t key0 = begin + (size_t)blockIdx.z * TILE_ROWS, group = blockIdx.x;
    if (key0 >= end)
        return;
    const size_t d = a.head_width, share = a.heads / a.kv_heads;
    const int warp = threadIdx.x / WARP, row = warp % TILE_WARPS * WARP_ROWS;
    const int column = warp / TILE_WARPS * K::COLUMNS;
    const size_t warp_key0 = key0 + row;
    // Queries beyond the window of the last key see none of these.
    const size_t last = a.window > 0 && key0 + TILE_ROWS - 1 + a.window < end
                            ? key0 + TILE_ROWS - 1 + a.window
                            : end;
    const float factor = a.scale * LOG2_E;
    float grad_k[1][K::COLUMNS / 8][4] = {}, grad_v[1][K::COLUMNS / 8][4] = {};
    struct query_step now = {group * share, key0};
    tile_load<D, TILE_ROWS, K::THREADS>(k, (const bf16 *)a.k.data + group * d, key0, end, a.stride,
                                        d);
    tile_load<D, TILE_ROWS, K::THREADS>(v, (const bf16 *)a.v.data + group * d, key0, end, a.stride,
                                        d);
    load_queries<D>(&a, stages, now, end);
    float next_factor = load_factor(&a, dots, now, end);
    if (threadIdx.x < 2 * TILE_ROWS)
        factors[threadIdx.x] = next_factor;
    for (int stage = 0; now.head < (group + 1) * share; stage ^= 1) {
        async_wait<0>();
        __syncthreads(); // these queries are there, and the last ones have been read
        const struct query_step next = step_next(now, key0, last);
        const bool more = next.head < (group + 1) * share;
        if (more) {
            load_queries<D>(&a, stages + (stage ^ 1) * K::STAGE_ELEMENTS, next, end);
            next_factor = load_factor(&a, dots, next, end);
        }
        if (warp_key0 < end &&
            (a.window == 0 || now.query < warp_key0 + WARP_ROWS - 1 + a.window)) {
            const shared_pointer<bf16> q = stages + stage * K::STAGE_ELEMENTS;
            const shared_pointer<bf16> g = q + tile<D>::ELEMENTS;
            const shared_pointer<float> logarithm = factors + stage * 2 * TILE_ROWS;
            const shared_pointer<float> dot = logarithm + TILE_ROWS;
            float p[1][TILE_ROWS / 8][4], ds[1][TILE_ROWS / 8][4];
            multiply_tiles<D, 1, TILE_ROWS>(p, k, row, q);
            if (now.query < warp_key0 + WARP_ROWS - 1 ||
                (a.window > 0 && now.query + TILE_ROWS - 1 >= warp_key0 + a.window))
                hide_queries(p[0], warp_key0, now.query, a.window);
            multiply_tiles<D, 1, TILE_ROWS>(ds, v, row, g);
#pragma unroll
            for (int n = 0; n < TILE_ROWS / 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int query = fragment_column(n, i);
                    p[0][n][i] = exp2_approx(fmaf(p[0][n][i], factor, -logarithm[query]));
                    ds[0][n][i] = p[0][n][i] * (ds[0][n][i] - dot[query]);
                }
            multiply_factors<D, 1, K::COLUMNS, TILE_ROWS>(grad_v, p, g, column);
            multiply_factors<D, 1, K::COLUMNS, TILE_ROWS>(grad_k, ds, q, column);
        }
        if (more && threadIdx.x < 2 * TILE_ROWS)
            factors[(stage ^ 1) * 2 * TILE_ROWS + threadIdx.x] = next_factor;
        now = next;
    }
    store_gradient<K::COLUMNS>(a.grad_k, grad_k[0], a.scale, warp_key0, end, a.stride, group * d,
                               column, d);
    store_gradient<K::COLUMNS>(a.grad_v, grad_v[0], 1, warp_key0, end, a.stride, group * d, column,
                               d);
}

template <int D>
static __device__ __forceinline__ void load_keys(const struct attention_backward *a,
                                                 shared_pointer<bf16> to, size_t key0, size_t last,
                                                 size_t group)
{
    typedef query_block<D> Q;
    const size_t d = a->head_width;
    tile_load<D, Q::KEYS, Q::THREADS>(to, (const bf16 *)a->k.data + group * d, key0, last,
                                      a->stride, d);
    tile_load<D, Q::KEYS, Q::THREADS>(to + tile<D, Q::KEYS>::ELEMENTS,
                                      (const bf16 *)a->v.data + group * d, key0, last, a->stride,
                                      d);
    async_commit();
}

template <int D>
static __global__ void __launch_bounds__(query_block<D>::THREADS, query_block<D>::RESIDENT)
    attention_backward_queries_kernel(struct attention_backward a, const float *dots)
{
    typedef query_block<D> Q;
    CUDA_SHARED_DYNAMIC(bf16, memory);
    const shared_pointer<bf16> q = memory, g = memory + tile<D, Q::QUERIES>::ELEMENTS;
    const shared_pointer<bf16> stages = g + tile<D, Q::QUERIES>::ELEMENTS;
    const size_t begin = (size_t)a.sequences.offsets[blockIdx.y];
    const size_t end = (size_t)a.sequences.offsets[blockIdx.y + 1];
    const size_t first = begin + (size_t)(gridDim.z - 1 - blockIdx.z) * Q::QUERIES;
    const size_t head = blockIdx.x;
    if (first >= end)
        return;
    const size_t d = a.head_width, group = head / (a.heads / a.kv_heads);
    const int warp = threadIdx.x / WARP, row = warp % TILE_WARPS * Q::WARP_QUERIES;
    const int column = warp / TILE_WARPS * Q::COLUMNS;
    const size_t query0 = first + row, last_query = query0 + Q::WARP_QUERIES - 1;
    const size_t last = first + Q::QUERIES < end ? first + Q::QUERIES : end; // of queries and keys
    size_t key0 = begin;
    if (a.window > 0 && first - begin >= a.window)
        key0 += (first - begin - a.window + 1) / Q::KEYS * Q::KEYS;
    const float factor = a.scale * LOG2_E;
    float grad_q[Q::M][Q::COLUMNS / 8][4] = {}, logarithm[Q::M][2], dot[Q::M][2];
    for (int m = 0; m < Q::M; m++)
        for (int h = 0; h < 2; h++) {
            const size_t query = query0 + m * WARP_ROWS + fragment_row(2 * h);
            logarithm[m][h] = logarithm_of(&a, query, end, head);
            dot[m][h] = dot_of(&a, dots, query, end, head);
        }
    tile_load<D, Q::QUERIES, Q::THREADS>(q, (const bf16 *)a.q.data + head * d, first, end, a.stride,
                                         d);
    tile_load<D, Q::QUERIES, Q::THREADS>(g, (const bf16 *)a.grad_out.data + head * d, first, end,
                                         a.heads * d, d);
    load_keys<D>(&a, stages, key0, last, group);
    for (int stage = 0; key0 < last; key0 += Q::KEYS, stage ^= 1) {
        async_wait<0>();
        __syncthreads(); // these keys are there, and the last ones have been read
        if (key0 + Q::KEYS < last)
            load_keys<D>(&a, stages + (stage ^ 1) * Q::STAGE_ELEMENTS, key0 + Q::KEYS, last, group);
        if (query0 >= end || !sees_some(key0, Q::KEYS, query0, last_query, a.window))
            continue;
        const shared_pointer<bf16> k = stages + stage * Q::STAGE_ELEMENTS;
        float p[Q::M][Q::KEYS / 8][4], ds[Q::M][Q::KEYS / 8][4];
        multiply_tiles<D, Q::M, Q::KEYS>(p, q, row, k);
        multiply_tiles<D, Q::M, Q::KEYS>(ds, g, row, k + tile<D, Q::KEYS>::ELEMENTS);
        const bool cut = !sees_all(key0, Q::KEYS, query0, last_query, a.window);
#pragma unroll
        for (int m = 0; m < Q::M; m++) {
            if (cut)
                hide_keys<Q::KEYS>(p[m], key0, query0 + m * WARP_ROWS, a.window);
#pragma unroll
            for (int n = 0; n < Q::KEYS / 8; n++)
#pragma unroll
                for (int i = 0; i < 4; i++)
                    ds[m][n][i] = exp2_approx(fmaf(p[m][n][i], factor, -logarithm[m][i / 2])) *
                                  (ds[m][n][i] - dot[m][i / 2]);
        }
        multiply_factors<D, Q::M, Q::COLUMNS, Q::KEYS>(grad_q, ds, k, column);
    }
#pragma unroll
    for (int m = 0; m < Q::M; m++)
        store_gradient<Q::COLUMNS>(a.grad_q, grad_q[m], a.scale, query0 + m * WARP_ROWS, end,
                                   a.stride, head * d, column, d);
}

template <int D>
static void launch_tiles(struct device *device, const struct attention_backward *a,
                         const float *dots)
{
    const unsigned sequences = (unsigned)a->sequences.count;
    const dim3 keys((unsigned)a->kv_heads, sequences, blocks_of(a->sequences.longest, TILE_ROWS));
    const dim3 queries((unsigned)a->heads, sequences,
                       blocks_of(a->sequences.longest, query_block<D>::QUERIES));
    cudaStream_t stream = cuda_of(device)->stream;
    allow_shared(attention_backward_keys_kernel<D>, key_block<D>::BYTES);
    allow_shared(attention_backward_queries_kernel<D>, query_block<D>::BYTES);
    CUDA_LAUNCH(attention_backward_keys_kernel<D>, keys, key_block<D>::THREADS, key_block<D>::BYTES,
                stream, *a, dots);
    CUDA_LAUNCH(attention_backward_queries_kernel<D>, queries, query_block<D>::THREADS,
                query_block<D>::BYTES, stream, *a, dots);
}

// --- any type, any width ---

// What the scores of a pair become: p the weight, ds the gradient of the scaled score.
struct weights {
    float p, ds;
};

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
    const size_t row = query * a->heads + head;
    const float p = expf(score * a->scale - a->log_sum_exp[row]);
    return {p, p * (grad - dots[row]) * a->scale};
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
    if (a->tokens == 0 || a->sequences.count == 0)
        return;
    float *dots = (float *)cuda_of(device)->scratch;
    assert(a->tokens * a->heads * sizeof *dots <= SCRATCH_BYTES);
    launch_dots(device, a, dots);
    const size_t d = a->head_width;
    const bool tiles = can_tile(a->q, a->stride, d) && can_tile(a->k, a->stride, d) &&
                       can_tile(a->v, a->stride, d) && can_tile(a->grad_out, a->heads * d, d) &&
                       can_tile_out(a->grad_q) && can_tile_out(a->grad_k) &&
                       can_tile_out(a->grad_v);
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
