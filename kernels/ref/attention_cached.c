// SPDX-License-Identifier: Apache-2.0
// Generation with a cache of keys and values in blocks of positions; B = KV_BLOCK_TOKENS:
//     cache[block, g, p % B] = (k_t, v_t) of position p, where the block is tables[s_t, p / B]
//     out[t, h] = sum_u softmax_u(scale q[t, h] . k[u]) v[u]
// over u <= positions[t] with positions[t] - u < window, g = h / (H / H_kv). A block's elements lie
// as [H_kv, B, d] here. The plan is not needed: it only says who can read together.
#include "kernels/ref/ref.h"

#include <math.h>

void ref_kv_write(struct device *device, const struct kv_write *a)
{
    (void)device;
    size_t d = a->head_width;
    for (size_t t = 0; t < a->tokens; t++) {
        if (a->places[t] < 0)
            continue;
        size_t block = (size_t)a->places[t] / KV_BLOCK_TOKENS;
        size_t offset = (size_t)a->places[t] % KV_BLOCK_TOKENS;
        for (size_t group = 0; group < a->kv_heads; group++) {
            size_t to = ((block * a->kv_heads + group) * KV_BLOCK_TOKENS + offset) * d;
            size_t from = t * a->stride + group * d;
            for (size_t i = 0; i < d; i++) {
                store(a->k_cache, to + i, load(a->k, from + i));
                store(a->v_cache, to + i, load(a->v, from + i));
            }
        }
    }
}

void ref_rope_kv_write(struct device *device, const struct rope_kv_write *a)
{
    ref_rope(device, &a->rope);
    ref_kv_write(device, &a->write);
}

// Where the key or value of a position of t's sequence begins.
static size_t cache_row(const struct attention_cached *a, size_t t, size_t group, size_t position)
{
    size_t at = (size_t)a->sequences[t] * a->tables.stride + position / KV_BLOCK_TOKENS;
    size_t head = (size_t)a->tables.blocks[at] * a->kv_heads + group;
    return (head * KV_BLOCK_TOKENS + position % KV_BLOCK_TOKENS) * a->head_width;
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
    for (size_t u = first; u <= last; u++)
        largest = fmax(largest, score(a, q_at, cache_row(a, t, group, u)));
    for (size_t u = first; u <= last; u++) {
        size_t at = cache_row(a, t, group, u);
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
