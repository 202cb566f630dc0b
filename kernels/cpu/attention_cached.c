// SPDX-License-Identifier: Apache-2.0
// One task per group of tokens and key head; its rows are the heads of the group of every token. A
// block of keys or values (4 or 8 KiB at width 64) stays in the first cache while tiles of
// HEIGHT rows pass: scores, their softmax, and the weighted values of a tile, before the next.
// Rows keep the partial result of the blocks before and rescale it when their largest score grows.
// What a row computes is one chain of operations in the order of positions, whoever shares the
// tile. A row that sees nothing of a block keeps its bits.
//
// A block lies in the order in which it is read:
//     keys [H_kv, d / P, B, P], values [H_kv, B / P, d, P],  B = KV_BLOCK_TOKENS,
// with P = 1 in float32 and 2 in bfloat16. Pairs are multiplied as such where the processor can
// (bf16_products); then queries and weights are rounded to bfloat16, and the sum of weights is that
// of the rounded ones. Elsewhere they widen to two vectors by a shift and a mask.
#include "kernels/cpu/gemm.h"

#include <math.h>

enum {
    B = KV_BLOCK_TOKENS,
    VECTORS = B / VF_LANES, // of a row of scores, and of a panel of B columns of values
// Rows of a tile, so that its sums are registers.
#if defined(__AVX512F__)
    HEIGHT = 12, // 24 of 32
#elif VF_LANES == 8
    HEIGHT = 3, // 12 of 16
#else
    HEIGHT = 1,
#endif
};

static bool is_plain_f32(struct tensor a, struct tensor b)
{
    return a.dtype == DTYPE_F32 && b.dtype == DTYPE_F32;
}

struct write_job {
    const struct kv_write *a;
    size_t step;
};

// One head of one token. Elements of a key stand B apart (or pairs of them), of a value together
// (or beside those of the neighbouring position).
static void write_head(struct tensor cache, size_t block_head, size_t offset, const float *from,
                       size_t width, bool is_key)
{
    size_t at = block_head * B * width;
    if (cache.dtype == DTYPE_F32) {
        float *to = (float *)cache.data + at;
        for (size_t i = 0; i < width; i++)
            to[is_key ? i * B + offset : offset * width + i] = from[i];
        return;
    }
    uint16_t *to = (uint16_t *)cache.data + at, rounded[HEAD_WIDTH_LIMIT];
    convert_from_f32(rounded, DTYPE_BF16, from, width);
    for (size_t i = 0; i < width; i++)
        to[is_key ? (i / 2 * B + offset) * 2 + i % 2 : (offset / 2 * width + i) * 2 + offset % 2] =
            rounded[i];
}

static void write_task(void *argument, size_t task, int thread)
{
    (void)thread;
    const struct write_job *job = argument;
    const struct kv_write *a = job->a;
    size_t end = min_size((task + 1) * job->step, a->tokens), d = a->head_width;
    for (size_t t = task * job->step; t < end; t++) {
        if (a->places[t] < 0)
            continue;
        size_t block = (size_t)a->places[t] / B, offset = (size_t)a->places[t] % B;
        for (size_t group = 0; group < a->kv_heads; group++) {
            size_t head = block * a->kv_heads + group, from = t * a->stride + group * d;
            write_head(a->k_cache, head, offset, (const float *)a->k.data + from, d, true);
            write_head(a->v_cache, head, offset, (const float *)a->v.data + from, d, false);
        }
    }
}

void ISA(kv_write)(struct device *device, const struct kv_write *a)
{
    assert(is_plain_f32(a->k, a->v) && a->head_width <= HEAD_WIDTH_LIMIT);
    assert(a->k_cache.dtype == DTYPE_F32 || a->k_cache.dtype == DTYPE_BF16);
    assert(a->k_cache.dtype == DTYPE_F32 || a->head_width % 2 == 0);
    struct write_job job = {.a = a, .step = rows_per_task(a->kv_heads * a->head_width)};
    cpu_run(device, ceil_div(a->tokens, job.step), write_task, &job);
}

void ISA(rope_kv_write)(struct device *device, const struct rope_kv_write *a)
{
    ISA(rope)(device, &a->rope);
    ISA(kv_write)(device, &a->write);
}

// The state of a group's rows, token by token.
struct rows {
    void *q;        // [rows, d], float32, or bfloat16 when products are
    float *sums;    // [rows, padded d] of weight v
    float *largest; // [rows]
    float *total;   // [rows]
};

// A segment of a group as one key head sees it.
struct view {
    const struct attention_cached *a;
    const int32_t *order; // of the group's tokens
    size_t group;
    size_t padded; // width of a row of sums
    struct rows rows;
};

// Rows [row, row + count) against one block.
struct tile {
    const void *keys, *values;
    const void *q;
    float *sums;
    size_t width, padded;
    float weights[HEIGHT][B];    // scores, then weights
    uint16_t rounded[HEIGHT][B]; // weights when products are of bfloat16
    float shrink[HEIGHT];        // of what came before
    bool active[HEIGHT];         // sees something of the block
};

// How a cache's elements are multiplied.
enum product { PRODUCT_F32, PRODUCT_WIDENED, PRODUCT_PAIRS };

static inline enum product product_of(enum dtype dtype)
{
    return dtype == DTYPE_F32 ? PRODUCT_F32 : bf16_products ? PRODUCT_PAIRS : PRODUCT_WIDENED;
}

// Two neighbours of a row of bfloat16, in every lane.
static inline vi pair_set(const void *row, size_t i)
{
    int32_t pair;
    memcpy(&pair, (const uint16_t *)row + i, sizeof pair);
    return pair - (vi){0};
}

// sum[r] += x[r][k] y[k], or of the pair k, k + 1. x has rows of x_stride elements.
static inline __attribute__((always_inline)) void tile_step(vf sum[][VECTORS], size_t rows,
                                                            enum product product, const void *x,
                                                            size_t x_stride, size_t k,
                                                            const void *y)
{
#pragma GCC unroll 8
    for (size_t j = 0; j < VECTORS; j++) {
        vi bits;
        memcpy(&bits, (const char *)y + j * sizeof bits, sizeof bits);
        vf even = product == PRODUCT_F32 ? (vf)bits : (vf)(bits << 16);
        vf odd = (vf)(bits & (int32_t)0xffff0000);
#pragma GCC unroll 16
        for (size_t r = 0; r < rows; r++) {
            if (product == PRODUCT_PAIRS) {
                sum[r][j] = vf_dot(pair_set(x, r * x_stride + k), bits, sum[r][j]);
                continue;
            }
            const float *factors = (const float *)x + r * x_stride + k;
            sum[r][j] = vf_fma(vf_set(factors[0]), even, sum[r][j]);
            if (product == PRODUCT_WIDENED)
                sum[r][j] = vf_fma(vf_set(factors[1]), odd, sum[r][j]);
        }
    }
}

static inline __attribute__((always_inline)) void tile_scores(struct tile *t, size_t rows,
                                                              enum product product)
{
    vf sum[HEIGHT][VECTORS];
#pragma GCC unroll 16
    for (size_t r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (size_t j = 0; j < VECTORS; j++)
            sum[r][j] = vf_set(0);
    if (product == PRODUCT_F32)
        for (size_t i = 0; i < t->width; i++)
            tile_step(sum, rows, product, t->q, t->width, i, (const float *)t->keys + i * B);
    else
        for (size_t i = 0; i < t->width; i += 2)
            tile_step(sum, rows, product, t->q, t->width, i, (const uint16_t *)t->keys + i * B);
#pragma GCC unroll 16
    for (size_t r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (size_t j = 0; j < VECTORS; j++)
            vf_store(t->weights[r] + j * VF_LANES, sum[r][j]);
}

// Columns [column, column + B) of the sums; values are `stride` elements wide.
static inline __attribute__((always_inline)) void tile_panel(struct tile *t, const void *values,
                                                             size_t stride, size_t column,
                                                             size_t rows, enum product product)
{
    vf sum[HEIGHT][VECTORS];
#pragma GCC unroll 16
    for (size_t r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (size_t j = 0; j < VECTORS; j++)
            sum[r][j] = vf_load(t->sums + r * t->padded + column + j * VF_LANES) * t->shrink[r];
    const void *weights = product == PRODUCT_PAIRS ? (void *)t->rounded : (void *)t->weights;
    if (product == PRODUCT_F32)
        for (size_t u = 0; u < B; u++)
            tile_step(sum, rows, product, weights, B, u, (const float *)values + u * stride);
    else
        for (size_t u = 0; u < B; u += 2)
            tile_step(sum, rows, product, weights, B, u, (const uint16_t *)values + u * stride);
#pragma GCC unroll 16
    for (size_t r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (size_t j = 0; j < VECTORS; j++)
            if (t->active[r])
                vf_store(t->sums + r * t->padded + column + j * VF_LANES, sum[r][j]);
}

static inline __attribute__((always_inline)) void tile_values(struct tile *t, size_t rows,
                                                              enum product product)
{
    size_t pair = product == PRODUCT_F32 ? 1 : 2, bytes = 4 / pair;
    size_t whole = t->width / B * B, rest = t->width - whole;
    for (size_t column = 0; column < whole; column += B)
        tile_panel(t, (const char *)t->values + column * pair * bytes, t->width, column, rows,
                   product);
    if (rest == 0)
        return;
    _Alignas(64) char last[B * B * sizeof(float)] = {0}; // the values of the last columns, padded
    for (size_t u = 0; u < B; u += pair)
        memcpy(last + u * B * bytes,
               (const char *)t->values + (u * t->width + whole * pair) * bytes,
               rest * pair * bytes);
    tile_panel(t, last, B, whole, rows, product);
}

// Weights of a row's scores relative to `now`, and their sum.
static inline float tile_weigh(struct tile *t, size_t r, float now, enum product product)
{
    vf sum = vf_set(0);
    for (size_t i = 0; i < B; i += VF_LANES) {
        vf weight = vf_exp(vf_load(t->weights[r] + i) - now);
        if (product == PRODUCT_PAIRS) {
            vh rounded = vf_to_bf16(weight);
            memcpy(t->rounded[r] + i, &rounded, sizeof rounded);
            weight = (vf)(__builtin_convertvector(rounded, vi) << 16);
        } else {
            vf_store(t->weights[r] + i, weight);
        }
        sum += weight;
    }
    return vf_sum(sum);
}

// The scores of positions [first, end) of a block become weights relative to the new largest score,
// those of the others 0; what came before shrinks.
static inline void tile_softmax(struct tile *t, size_t r, size_t first, size_t end, float scale,
                                float *largest, float *total, enum product product)
{
    float *scores = t->weights[r];
    t->active[r] = first < end;
    t->shrink[r] = 1;
    if (!t->active[r])
        return;
    vf most = vf_set(*largest);
    for (size_t i = 0; i < B; i += VF_LANES) {
        vi position = vi_lanes() + (int32_t)i;
        vi sees = (position >= (int32_t)first) & (position < (int32_t)end);
        vf score = vf_select(sees, vf_load(scores + i) * scale, vf_set(-INFINITY));
        vf_store(scores + i, score);
        most = vf_max(score, most);
    }
    float now = vf_largest(most);
    float sum = tile_weigh(t, r, now, product);
    if (now != *largest)
        t->shrink[r] = vf_exp(vf_set(*largest - now))[0];
    *largest = now;
    *total = *total * t->shrink[r] + sum;
}

// Which positions of the block from `start` on a row sees.
static void row_range(const struct view *v, size_t row, size_t start, size_t *first, size_t *end)
{
    const struct attention_cached *a = v->a;
    size_t token = row / (a->heads / a->kv_heads);
    size_t position = (size_t)a->positions[v->order[token]];
    size_t from = a->window > 0 && position >= a->window ? position - a->window + 1 : 0;
    *end = position < start ? 0 : min_size(position - start + 1, B);
    *first = from < start ? 0 : min_size(from - start, *end);
}

static inline __attribute__((always_inline)) void tile_run(struct tile *t, const struct view *v,
                                                           size_t row, size_t start, size_t rows,
                                                           enum product product)
{
    tile_scores(t, rows, product);
    for (size_t r = 0; r < rows; r++) {
        size_t first, end;
        row_range(v, row + r, start, &first, &end);
        tile_softmax(t, r, first, end, v->a->scale, &v->rows.largest[row + r],
                     &v->rows.total[row + r], product);
    }
    tile_values(t, rows, product);
}

// `rows` is a constant in each case, so that the accumulators are registers.
static inline __attribute__((always_inline)) void tile_dtype(struct tile *t, const struct view *v,
                                                             size_t row, size_t start, size_t rows)
{
    if (v->a->k_cache.dtype == DTYPE_F32)
        tile_run(t, v, row, start, rows, PRODUCT_F32);
    else
        tile_run(t, v, row, start, rows, product_of(DTYPE_BF16));
}

// The greatest height that tile_any has for as many rows.
static size_t tile_height(size_t rows)
{
    return rows >= 12 ? 12 : rows >= 9 ? 9 : rows >= 7 ? 7 : min_size(rows, 5);
}

static void tile_any(struct tile *t, const struct view *v, size_t row, size_t start, size_t rows)
{
    switch (rows) {
#if defined(__AVX512F__)
    case 12:
        tile_dtype(t, v, row, start, 12);
        return;
    case 9:
        tile_dtype(t, v, row, start, 9);
        return;
    case 7:
        tile_dtype(t, v, row, start, 7);
        return;
    case 5:
        tile_dtype(t, v, row, start, 5);
        return;
    case 4:
        tile_dtype(t, v, row, start, 4);
        return;
#endif
#if defined(__AVX512F__) || VF_LANES == 8
    case 3:
        tile_dtype(t, v, row, start, 3);
        return;
    case 2:
        tile_dtype(t, v, row, start, 2);
        return;
#endif
    default:
        tile_dtype(t, v, row, start, 1);
    }
}

// Of an element of rows.q.
static size_t q_bytes(const struct attention_cached *a)
{
    return product_of(a->k_cache.dtype) == PRODUCT_PAIRS ? sizeof(uint16_t) : sizeof(float);
}

static bool sees_something(const struct view *v, size_t row, size_t rows, size_t start)
{
    for (size_t r = row; r < row + rows; r++) {
        size_t first, end;
        row_range(v, r, start, &first, &end);
        if (first < end)
            return true;
    }
    return false;
}

// Rows [row, row_end) against the block of that number; the first of them says where it lies.
static void attend_block(const struct view *v, size_t row, size_t row_end, size_t number)
{
    const struct attention_cached *a = v->a;
    size_t d = a->head_width, token = (size_t)v->order[row / (a->heads / a->kv_heads)];
    size_t at = (size_t)a->sequences[token] * a->tables.stride + number;
    size_t head = (size_t)a->tables.blocks[at] * a->kv_heads + v->group;
    size_t bytes = head * B * d * dtype_bytes(a->k_cache.dtype);
    struct tile tile;
    tile.keys = (const char *)a->k_cache.data + bytes;
    tile.values = (const char *)a->v_cache.data + bytes;
    tile.width = d;
    tile.padded = v->padded;
    for (size_t rows; row < row_end; row += rows) {
        size_t left = row_end - row;
        rows = tile_height(ceil_div(left, ceil_div(left, HEIGHT))); // even heights
        if (!sees_something(v, row, rows, number * B))
            continue;
        tile.q = (const char *)v->rows.q + row * d * q_bytes(a);
        tile.sums = v->rows.sums + row * v->padded;
        tile_any(&tile, v, row, number * B, rows);
    }
}

static void round_row(uint16_t *to, const float *from, size_t count)
{
    for (size_t i = 0; i < count; i += VF_LANES) {
        size_t lanes = min_size(VF_LANES, count - i);
        vh rounded = vf_to_bf16(vf_load_part(from + i, lanes));
        memcpy(to + i, &rounded, lanes * sizeof *to);
    }
}

static void rows_begin(const struct view *v, size_t tokens)
{
    const struct attention_cached *a = v->a;
    size_t per_group = a->heads / a->kv_heads, width = per_group * a->head_width;
    for (size_t t = 0; t < tokens; t++) {
        const float *from =
            (const float *)a->q.data + (size_t)v->order[t] * a->stride + v->group * width;
        if (q_bytes(a) == sizeof *from)
            memcpy((float *)v->rows.q + t * width, from, width * sizeof *from);
        else
            round_row((uint16_t *)v->rows.q + t * width, from, width);
    }
    memset(v->rows.sums, 0, tokens * per_group * v->padded * sizeof *v->rows.sums);
    for (size_t row = 0; row < tokens * per_group; row++) {
        v->rows.largest[row] = -INFINITY;
        v->rows.total[row] = 0;
    }
}

static void rows_end(const struct view *v, size_t tokens)
{
    const struct attention_cached *a = v->a;
    size_t per_group = a->heads / a->kv_heads, d = a->head_width;
    for (size_t row = 0; row < tokens * per_group; row++) {
        size_t token = (size_t)v->order[row / per_group];
        size_t head = v->group * per_group + row % per_group;
        float *out = (float *)a->out.data + (token * a->heads + head) * d;
        for (size_t i = 0; i < d; i++)
            out[i] = v->rows.sums[row * v->padded + i] / v->rows.total[row];
    }
}

struct cached_job {
    struct device *device;
    const struct attention_cached *a;
};

static struct rows rows_reserve(const struct cached_job *job, size_t padded, int thread)
{
    const struct attention_cached *a = job->a;
    size_t count = a->plan.group_tokens * (a->heads / a->kv_heads), d = a->head_width;
    struct scratch *scratch = &device_cpu(job->device)->threads[thread];
    struct rows rows;
    rows.sums = scratch_reserve(scratch, count * (padded + d + 2) * sizeof(float));
    rows.largest = rows.sums + count * padded;
    rows.total = rows.largest + count;
    rows.q = rows.total + count;
    return rows;
}

static void cached_task(void *argument, size_t task, int thread)
{
    const struct cached_job *job = argument;
    const struct attention_cached *a = job->a;
    const struct attention_group *group = &a->plan.groups[task / a->kv_heads];
    size_t per_group = a->heads / a->kv_heads, padded = ceil_div(a->head_width, B) * B;
    struct view v = {.a = a,
                     .order = a->plan.order + group->first,
                     .group = task % a->kv_heads,
                     .padded = padded,
                     .rows = rows_reserve(job, padded, thread)};
    rows_begin(&v, (size_t)group->tokens);
    for (int32_t s = 0; s < group->segments; s++) {
        const struct attention_segment *segment = &a->plan.segments[group->first_segment + s];
        size_t row = (size_t)(segment->first - group->first) * per_group;
        size_t end = row + (size_t)segment->tokens * per_group;
        for (int32_t block = segment->first_block; block < segment->end_block; block++)
            attend_block(&v, row, end, (size_t)block);
    }
    rows_end(&v, (size_t)group->tokens);
}

void ISA(attention_cached)(struct device *device, const struct attention_cached *a)
{
    assert(is_plain_f32(a->out, a->q) && a->head_width <= HEAD_WIDTH_LIMIT);
    struct cached_job job = {.device = device, .a = a};
    cpu_run(device, a->plan.group_count * a->kv_heads, cached_task, &job);
}
