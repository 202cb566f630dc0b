// SPDX-License-Identifier: Apache-2.0
// Generation with a cache of keys and values, one slot per sequence:
//     cache[slots[t], positions[t]] = (k_t, v_t)
//     out[t, h] = sum_u softmax_u(scale q[t, h] . k_cache[slot, u, g]) v_cache[slot, u, g]
// over u <= positions[t] with positions[t] - u < window, g = h / (H / H_kv).
#include "kernels/ref/ref.h"

#include <math.h>

static size_t cache_row(int32_t slot, size_t capacity, size_t position)
{
    return (size_t)slot * capacity + position;
}

void ref_kv_write(struct device *device, const struct kv_write *a)
{
    (void)device;
    size_t width = a->kv_heads * a->head_width;
    for (size_t t = 0; t < a->tokens; t++) {
        size_t row = cache_row(a->slots[t], a->capacity, (size_t)a->positions[t]);
        for (size_t i = 0; i < width; i++) {
            store(a->k_cache, row * width + i, load(a->k, t * a->stride + i));
            store(a->v_cache, row * width + i, load(a->v, t * a->stride + i));
        }
    }
}

static double score(const struct attention_cached *a, size_t q_at, size_t k_at)
{
    double sum = 0;
    for (size_t i = 0; i < a->head_width; i++)
        sum += load(a->q, q_at + i) * load(a->k_cache, k_at + i);
    return sum * a->scale;
}

static void attend(const struct attention_cached *a, size_t t, size_t head)
{
    size_t d = a->head_width, group = head / (a->heads / a->kv_heads);
    size_t q_at = t * a->stride + head * d, last = (size_t)a->positions[t];
    size_t first = a->window > 0 && last >= a->window ? last - a->window + 1 : 0;
    double largest = -INFINITY, sum = 0, out[HEAD_WIDTH_LIMIT] = {0};
    for (size_t u = first; u <= last; u++) {
        size_t row = cache_row(a->slots[t], a->capacity, u);
        largest = fmax(largest, score(a, q_at, (row * a->kv_heads + group) * d));
    }
    for (size_t u = first; u <= last; u++) {
        size_t at = (cache_row(a->slots[t], a->capacity, u) * a->kv_heads + group) * d;
        double weight = exp(score(a, q_at, at) - largest);
        sum += weight;
        for (size_t i = 0; i < d; i++)
            out[i] += weight * load(a->v_cache, at + i);
    }
    for (size_t i = 0; i < d; i++)
        store(a->out, (t * a->heads + head) * d + i, out[i] / sum);
}

void ref_attention_cached(struct device *device, const struct attention_cached *a)
{
    (void)device;
    assert(a->head_width <= HEAD_WIDTH_LIMIT);
    for (size_t t = 0; t < a->tokens; t++)
        for (size_t head = 0; head < a->heads; head++)
            attend(a, t, head);
}
