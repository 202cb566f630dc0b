// SPDX-License-Identifier: Apache-2.0
// Draws the next token of every row: see struct sample_row. Sums are of integers, and so exact.
#include "kernels/ref/ref.h"

#include "kernels/sample_weight.h"

#include "base/mem.h"

#include <math.h>
#include <stdlib.h>

struct candidate {
    int32_t weight, token;
};

static bool has_bit(const struct sample *a, int32_t row, size_t i)
{
    const uint64_t *bits = a->bits + (size_t)row * ((a->vocabulary + 63) / 64);
    return bits[i / 64] >> (i % 64) & 1;
}

static float adjusted(const struct sample *a, const struct sample_row *row, size_t r, size_t i)
{
    float logit = (float)load(a->logits, r * a->vocabulary + i);
    if (row->mask >= 0 && !has_bit(a, row->mask, i))
        return -INFINITY;
    if (row->seen >= 0 && row->penalty != 0 && has_bit(a, row->seen, i))
        logit = sample_penalise(logit, row->penalty);
    return logit;
}

static int by_weight(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    if (x->weight != y->weight)
        return x->weight < y->weight ? 1 : -1;
    return (x->token > y->token) - (x->token < y->token);
}

static int by_token(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;
    return (x->token > y->token) - (x->token < y->token);
}

static uint64_t sum_of(const struct candidate *candidates, size_t count)
{
    uint64_t sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += (uint64_t)candidates[i].weight;
    return sum;
}

// How many of the candidates, which are sorted, stay.
static size_t kept_of(const struct sample_row *row, const struct candidate *candidates,
                      size_t count)
{
    size_t kept = 0;
    uint64_t sum = 0;
    if (row->top_k > 0 && (size_t)row->top_k < count)
        count = (size_t)row->top_k;
    const double top_p = row->top_p > 0 ? (double)row->top_p : 1;
    const double wanted = (double)sum_of(candidates, count) * top_p;
    while (kept < count && (kept == 0 || (double)sum < wanted))
        sum += (uint64_t)candidates[kept++].weight;
    while (kept > 1 && candidates[kept - 1].weight < sample_least(row->min_p))
        kept--;
    return kept;
}

static int32_t draw(const struct sample *a, size_t r, struct candidate *candidates)
{
    const struct sample_row *row = &a->rows[r];
    float largest = -INFINITY;
    int32_t best = 0;
    size_t count = 0;
    for (size_t i = 0; i < a->vocabulary; i++)
        if (adjusted(a, row, r, i) > largest) {
            largest = adjusted(a, row, r, i);
            best = (int32_t)i;
        }
    if (row->scale == 0)
        return best;
    for (size_t i = 0; i < a->vocabulary && largest > -INFINITY; i++) {
        const float x = sample_exponent(adjusted(a, row, r, i), largest, row->scale);
        if (sample_weight(x) > 0)
            candidates[count++] = (struct candidate){sample_weight(x), (int32_t)i};
    }
    if (count == 0)
        return 0;
    qsort(candidates, count, sizeof *candidates, by_weight);
    count = kept_of(row, candidates, count);
    qsort(candidates, count, sizeof *candidates, by_token);
    uint64_t point = sample_point(row->random, sum_of(candidates, count));
    size_t i = 0;
    while (point >= (uint64_t)candidates[i].weight)
        point -= (uint64_t)candidates[i++].weight;
    return candidates[i].token;
}

void ref_sample(struct device *device, const struct sample *a)
{
    (void)device;
    struct candidate *candidates = mem_calloc(a->vocabulary, sizeof *candidates);
    for (size_t r = 0; r < a->count; r++)
        a->out[r] = draw(a, r, candidates);
    free(candidates);
}
