// SPDX-License-Identifier: Apache-2.0
// One task per few tokens and key head. Consecutive tokens of one slot (a prompt) and all heads of
// the group share one reading of the keys and values, as products of small matrices over blocks of
// BLOCK_POSITIONS absolute positions. Each block's partial softmax is merged into what came before
// in position order, and positions that a token does not see have weight 0, which changes no bit of
// a finite sum: a token's result is the same however the cache was filled and whoever shares the
// task.
#include "kernels/cpu/gemm.h"

#include <math.h>

enum {
    BLOCK_POSITIONS = 64,
    RUN_TOKENS = 8, // share one packing of the keys and values; more would leave the first cache
};

static bool is_plain_f32(struct tensor a, struct tensor b)
{
    return a.dtype == DTYPE_F32 && b.dtype == DTYPE_F32;
}

struct write_job {
    const struct kv_write *a;
    size_t step;
};

static void write_task(void *argument, size_t task, int thread)
{
    (void)thread;
    const struct write_job *job = argument;
    const struct kv_write *a = job->a;
    size_t width = a->kv_heads * a->head_width;
    size_t end = min_size((task + 1) * job->step, a->tokens);
    for (size_t t = task * job->step; t < end; t++) {
        size_t row = (size_t)a->slots[t] * a->capacity + (size_t)a->positions[t];
        size_t k_at = row * width * dtype_bytes(a->k_cache.dtype);
        size_t v_at = row * width * dtype_bytes(a->v_cache.dtype);
        convert_from_f32((char *)a->k_cache.data + k_at, a->k_cache.dtype,
                         (const float *)a->k.data + t * a->stride, width);
        convert_from_f32((char *)a->v_cache.data + v_at, a->v_cache.dtype,
                         (const float *)a->v.data + t * a->stride, width);
    }
}

void ISA(kv_write)(struct device *device, const struct kv_write *a)
{
    if (!is_plain_f32(a->k, a->v)) {
        ref_kv_write(device, a);
        return;
    }
    struct write_job job = {.a = a, .step = rows_per_task(a->kv_heads * a->head_width)};
    cpu_run(device, ceil_div(a->tokens, job.step), write_task, &job);
}

// Rows are the heads of a group of all tokens of a run, token by token.
struct rows {
    float *q;       // [rows, d]
    float *weights; // [rows, BLOCK_POSITIONS] of the present block: scores, then weights
    float *sums;    // [rows, d] of weight v
    float *largest; // [rows]
    float *total;   // [rows]
    float *block;   // [BLOCK_POSITIONS, d] keys or values in float32
    float *panels;  // the same, packed
};

struct cached_job {
    struct device *device;
    const struct attention_cached *a;
    size_t step; // tokens of a task
};

// Consecutive tokens of the call that look into the same slot, for one key head.
struct run {
    const struct attention_cached *a;
    size_t token, tokens, group;
};

static size_t run_first(const struct attention_cached *a, size_t token)
{
    size_t end = (size_t)a->positions[token] + 1;
    return a->window > 0 && end > a->window ? end - a->window : 0;
}

static struct rows rows_reserve(const struct cached_job *job, int thread)
{
    const struct attention_cached *a = job->a;
    size_t d = a->head_width, count = job->step * (a->heads / a->kv_heads);
    size_t panels = panels_elements(BLOCK_POSITIONS, d) + panels_elements(d, BLOCK_POSITIONS);
    size_t floats = count * (2 * d + BLOCK_POSITIONS + 2) + BLOCK_POSITIONS * d + panels;
    struct scratch *scratch = &device_cpu(job->device)->threads[thread];
    struct rows rows = {.panels = scratch_reserve(scratch, floats * sizeof(float))};
    rows.block = rows.panels + panels;
    rows.q = rows.block + BLOCK_POSITIONS * d;
    rows.sums = rows.q + count * d;
    rows.weights = rows.sums + count * d;
    rows.largest = rows.weights + count * BLOCK_POSITIONS;
    rows.total = rows.largest + count;
    return rows;
}

// Positions [first, end) of the run's key head, in float32.
static void load_block(const struct run *run, struct rows *rows, struct tensor cache, size_t first,
                       size_t end)
{
    const struct attention_cached *a = run->a;
    size_t d = a->head_width;
    for (size_t u = first; u < end; u++) {
        size_t row = (size_t)a->slots[run->token] * a->capacity + u;
        size_t at = (row * a->kv_heads + run->group) * d, i = 0;
        float *to = rows->block + (u - first) * d;
        for (; i + VF_LANES <= d; i += VF_LANES)
            vf_store(to + i, vf_load_any(cache.data, cache.dtype, at + i));
        for (; i < d; i++)
            to[i] = load_any(cache.data, cache.dtype, at + i);
    }
}

// weights[row][u - block] = scale q[row] . k[u] for u in [first, end).
static void score_block(const struct run *run, struct rows *rows, size_t first, size_t end)
{
    const struct attention_cached *a = run->a;
    size_t d = a->head_width, count = run->tokens * (a->heads / a->kv_heads);
    struct panels panels = {
        .data = rows->panels, .dtype = DTYPE_F32, .panel_stride = d * TILE_COLUMNS};
    struct matrix keys = {.data = rows->block, .dtype = DTYPE_F32, .row = 1, .column = d};
    load_block(run, rows, a->k_cache, first, end);
    ISA(gemm_pack)(&panels, keys, d, end - first);
    ISA(gemm)
    (&(struct gemm){.c = rows->weights + first % BLOCK_POSITIONS,
                    .c_stride = BLOCK_POSITIONS,
                    .a = {.data = rows->q, .dtype = DTYPE_F32, .row = d, .column = 1},
                    .panels = panels,
                    .rows = count,
                    .columns = end - first,
                    .depth = d},
     NULL);
}

// sums[row] += sum over u in [first, end) of weights[row][u - block] v[u]
static void add_block(const struct run *run, struct rows *rows, size_t first, size_t end)
{
    const struct attention_cached *a = run->a;
    size_t d = a->head_width, count = run->tokens * (a->heads / a->kv_heads);
    struct panels panels = {
        .data = rows->panels, .dtype = DTYPE_F32, .panel_stride = (end - first) * TILE_COLUMNS};
    struct matrix values = {.data = rows->block, .dtype = DTYPE_F32, .row = d, .column = 1};
    load_block(run, rows, a->v_cache, first, end);
    ISA(gemm_pack)(&panels, values, end - first, d);
    ISA(gemm)
    (&(struct gemm){.c = rows->sums,
                    .c_stride = d,
                    .a = {.data = rows->weights + first % BLOCK_POSITIONS,
                          .dtype = DTYPE_F32,
                          .row = BLOCK_POSITIONS,
                          .column = 1},
                    .panels = panels,
                    .rows = count,
                    .columns = d,
                    .depth = end - first,
                    .keep = true},
     NULL);
}

// The scores of positions [first, end) of a row become weights relative to the new largest score,
// those of the block's other positions 0; what came before is rescaled.
static void merge_block(const struct run *run, struct rows *rows, size_t row, size_t first,
                        size_t end)
{
    size_t d = run->a->head_width, block = first / BLOCK_POSITIONS * BLOCK_POSITIONS;
    float *weights = rows->weights + row * BLOCK_POSITIONS, *sums = rows->sums + row * d;
    for (size_t i = 0; i < BLOCK_POSITIONS; i++)
        weights[i] = block + i >= first && block + i < end ? weights[i] * run->a->scale : -INFINITY;
    vf largest = vf_set(rows->largest[row]), total = vf_set(0);
    for (size_t i = 0; i < BLOCK_POSITIONS; i += VF_LANES)
        largest = vf_max(vf_load(weights + i), largest);
    float now = vf_largest(largest);
    float shrink = vf_exp(vf_set(rows->largest[row] - now))[0];
    for (size_t i = 0; i < BLOCK_POSITIONS; i += VF_LANES) {
        vf e = vf_exp(vf_load(weights + i) - now);
        vf_store(weights + i, e);
        total += e;
    }
    rows->largest[row] = now;
    rows->total[row] = rows->total[row] * shrink + vf_sum(total);
    for (size_t i = 0; i < d; i++)
        sums[i] *= shrink;
}

// Positions [first, end) of one block. A token that sees none of them leaves them weight 0.
static void attend_block(const struct run *run, struct rows *rows, size_t first, size_t end)
{
    const struct attention_cached *a = run->a;
    size_t per_group = a->heads / a->kv_heads;
    score_block(run, rows, first, end);
    for (size_t row = 0; row < run->tokens * per_group; row++) {
        size_t token = run->token + row / per_group, own_first = run_first(a, token);
        size_t own_end = min_size(end, (size_t)a->positions[token] + 1);
        own_first = own_first > first ? own_first : first;
        if (own_first < own_end)
            merge_block(run, rows, row, own_first, own_end);
        else
            memset(rows->weights + row * BLOCK_POSITIONS, 0, BLOCK_POSITIONS * sizeof(float));
    }
    add_block(run, rows, first, end);
}

static void attend_run(const struct run *run, struct rows *rows)
{
    const struct attention_cached *a = run->a;
    size_t d = a->head_width, per_group = a->heads / a->kv_heads, width = per_group * d;
    size_t first = SIZE_MAX, end = 0;
    for (size_t t = 0; t < run->tokens; t++) {
        size_t token = run->token + t;
        const float *q = (const float *)a->q.data + token * a->stride + run->group * width;
        memcpy(rows->q + t * width, q, width * sizeof *q);
        first = min_size(first, run_first(a, token));
        end = (size_t)a->positions[token] >= end ? (size_t)a->positions[token] + 1 : end;
    }
    memset(rows->sums, 0, run->tokens * width * sizeof *rows->sums);
    for (size_t row = 0; row < run->tokens * per_group; row++) {
        rows->largest[row] = -INFINITY;
        rows->total[row] = 0;
    }
    while (first < end) {
        size_t next = (first / BLOCK_POSITIONS + 1) * BLOCK_POSITIONS;
        attend_block(run, rows, first, min_size(next, end));
        first = next;
    }
    for (size_t row = 0; row < run->tokens * per_group; row++) {
        size_t token = run->token + row / per_group;
        size_t head = run->group * per_group + row % per_group;
        float *out = (float *)a->out.data + (token * a->heads + head) * d;
        for (size_t i = 0; i < d; i++)
            out[i] = rows->sums[row * d + i] / rows->total[row];
    }
}

static void cached_task(void *argument, size_t task, int thread)
{
    const struct cached_job *job = argument;
    const struct attention_cached *a = job->a;
    struct rows rows = rows_reserve(job, thread);
    size_t token = task / a->kv_heads * job->step, end = min_size(token + job->step, a->tokens);
    for (size_t next; token < end; token = next) {
        for (next = token + 1; next < end && a->slots[next] == a->slots[token];)
            next++;
        attend_run(&(struct run){a, token, next - token, task % a->kv_heads}, &rows);
    }
}

void ISA(attention_cached)(struct device *device, const struct attention_cached *a)
{
    if (!is_plain_f32(a->out, a->q)) {
        ref_attention_cached(device, a);
        return;
    }
    // Few enough tokens a task that every thread has several.
    size_t share = a->tokens * a->kv_heads / (4 * (size_t)device->threads);
    struct cached_job job = {
        .device = device, .a = a, .step = share < 1 ? 1 : min_size(share, RUN_TOKENS)};
    cpu_run(device, ceil_div(a->tokens, job.step) * a->kv_heads, cached_task, &job);
}
