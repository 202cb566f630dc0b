// SPDX-License-Identifier: Apache-2.0
// One task per token and key head: all heads of the group share one reading of the keys and values,
// in blocks of BLOCK_POSITIONS absolute positions. Each block's partial softmax is merged into what
// came before in position order, so that a token's sums are the same however the cache was filled.
#include "kernels/cpu/isa.h"
#include "kernels/cpu/simd.h"

#include <math.h>

enum { BLOCK_POSITIONS = 64 };

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

// A head's softmax so far, over the blocks that were merged.
struct partial {
    float *sums;    // [d] of weight v
    float *weights; // [BLOCK_POSITIONS] of the present block
    float largest;
    float total;
};

static float dot(const float *q, struct tensor cache, size_t at, size_t d)
{
    vf sum = vf_set(0);
    size_t whole = d / VF_LANES * VF_LANES;
    for (size_t i = 0; i < whole; i += VF_LANES)
        sum = vf_fma(vf_load(q + i), vf_load_any(cache.data, cache.dtype, at + i), sum);
    if (whole < d)
        sum = vf_fma(vf_load_part(q + whole, d - whole),
                     vf_load_any_part(cache.data, cache.dtype, at + whole, d - whole), sum);
    return vf_sum(sum);
}

static void add_scaled(float *sums, float weight, struct tensor cache, size_t at, size_t d)
{
    size_t whole = d / VF_LANES * VF_LANES;
    for (size_t i = 0; i < whole; i += VF_LANES) {
        vf v = vf_load_any(cache.data, cache.dtype, at + i);
        vf_store(sums + i, vf_fma(vf_set(weight), v, vf_load(sums + i)));
    }
    if (whole < d) {
        vf v = vf_load_any_part(cache.data, cache.dtype, at + whole, d - whole);
        vf sum = vf_load_part(sums + whole, d - whole);
        vf_store_part(sums + whole, vf_fma(vf_set(weight), v, sum), d - whole);
    }
}

// The block's scores become weights relative to the new largest score; what came before is
// rescaled.
static void merge_block(struct partial *partial, size_t d)
{
    vf largest = vf_set(partial->largest), total = vf_set(0);
    for (size_t i = 0; i < BLOCK_POSITIONS; i += VF_LANES)
        largest = vf_max(vf_load(partial->weights + i), largest);
    float now = vf_largest(largest);
    float shrink = vf_exp(vf_set(partial->largest - now))[0];
    for (size_t i = 0; i < BLOCK_POSITIONS; i += VF_LANES) {
        vf e = vf_exp(vf_load(partial->weights + i) - now);
        vf_store(partial->weights + i, e);
        total += e;
    }
    partial->largest = now;
    partial->total = partial->total * shrink + vf_sum(total);
    for (size_t i = 0; i < d; i++)
        partial->sums[i] *= shrink;
}

struct cached_job {
    struct device *device;
    const struct attention_cached *a;
};

// Positions [first, end) of one block of the cache of slot `slot`.
static void attend_block(const struct attention_cached *a, struct partial *partials, const float *q,
                         size_t cache_at, size_t first, size_t end)
{
    size_t d = a->head_width, per_group = a->heads / a->kv_heads, row = a->kv_heads * d;
    size_t block = first / BLOCK_POSITIONS * BLOCK_POSITIONS;
    for (size_t h = 0; h < per_group; h++)
        for (size_t i = 0; i < BLOCK_POSITIONS; i++)
            partials[h].weights[i] = -INFINITY;
    for (size_t u = first; u < end; u++)
        for (size_t h = 0; h < per_group; h++)
            partials[h].weights[u - block] =
                a->scale * dot(q + h * d, a->k_cache, cache_at + u * row, d);
    for (size_t h = 0; h < per_group; h++)
        merge_block(&partials[h], d);
    for (size_t u = first; u < end; u++)
        for (size_t h = 0; h < per_group; h++)
            add_scaled(partials[h].sums, partials[h].weights[u - block], a->v_cache,
                       cache_at + u * row, d);
}

static void cached_task(void *argument, size_t task, int thread)
{
    const struct cached_job *job = argument;
    const struct attention_cached *a = job->a;
    size_t t = task / a->kv_heads, group = task % a->kv_heads;
    size_t d = a->head_width, per_group = a->heads / a->kv_heads, head = group * per_group;
    struct scratch *scratch = &device_cpu(job->device)->threads[thread];
    size_t floats = d + BLOCK_POSITIONS;
    struct partial *partials =
        scratch_reserve(scratch, per_group * (sizeof *partials + floats * sizeof(float)));
    float *block = (float *)(partials + per_group);
    for (size_t h = 0; h < per_group; h++) {
        partials[h] = (struct partial){.sums = block + h * floats, .largest = -INFINITY};
        partials[h].weights = partials[h].sums + d;
        memset(partials[h].sums, 0, d * sizeof(float));
    }
    const float *q = (const float *)a->q.data + t * a->stride + head * d;
    size_t cache_at = ((size_t)a->slots[t] * a->capacity * a->kv_heads + group) * d;
    size_t end = (size_t)a->positions[t] + 1;
    size_t first = a->window > 0 && end > a->window ? end - a->window : 0;
    while (first < end) {
        size_t next = (first / BLOCK_POSITIONS + 1) * BLOCK_POSITIONS;
        attend_block(a, partials, q, cache_at, first, min_size(next, end));
        first = next;
    }
    float *out = (float *)a->out.data + (t * a->heads + head) * d;
    for (size_t h = 0; h < per_group; h++)
        for (size_t i = 0; i < d; i++)
            out[h * d + i] = partials[h].sums[i] / partials[h].total;
}

void ISA(attention_cached)(struct device *device, const struct attention_cached *a)
{
    if (!is_plain_f32(a->out, a->q)) {
        ref_attention_cached(device, a);
        return;
    }
    struct cached_job job = {.device = device, .a = a};
    cpu_run(device, a->tokens * a->kv_heads, cached_task, &job);
}
