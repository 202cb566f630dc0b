// SPDX-License-Identifier: Apache-2.0
// What is kept of each vector. Thresholds are exact: two histograms over the tensor, and a third
// pass only where equal values stand on both sides of the threshold.
#include "base/mem.h"
#include "base/random.h"
#include "worker/merge/clones.h"
#include "worker/merge/tensor_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// The standard deviation of the vectors at one element, in float32, whose bits are selected.
static void deviation_block(const struct pass *pass, struct scratch *s, size_t count)
{
    const size_t vectors = pass->p->vectors;
    float *deviation = (float *)s->divisor;
    for (size_t i = 0; i < count; i++) {
        double mean = 0, variance = 0;
        for (size_t k = 0; k < vectors; k++)
            mean += (double)s->x[k][i] / (double)vectors;
        for (size_t k = 0; k < vectors; k++) {
            const double x = (double)s->x[k][i] - mean;
            variance += x * x;
        }
        deviation[i] = (float)sqrt(variance / (double)vectors);
    }
}

const float *thin_load_selected(const struct pass *pass, struct scratch *s, struct extent e)
{
    if (pass->k < pass->p->vectors) {
        if (!pass->tensor->is_delta[pass->k] || pass->traits->on_models)
            pass_load_base(pass, s, e);
        pass_load(pass, s, pass->k, e);
        return s->x[pass->k];
    }
    pass_load_all(pass, s, e);
    deviation_block(pass, s, e.count);
    return (float *)s->divisor;
}

static void high_block(void *argument, size_t task, int thread)
{
    struct pass *pass = argument;
    struct scratch *s = &pass->engine->scratch[thread];
    const struct extent e = pass_extent(pass, task);
    const float *x = thin_load_selected(pass, s, e);
    s->counted = true;
    select_add_high(s->bins, x, e.count);
    pass->block_counts[e.index] = select_count_equal(x, e.count, 0);
}

static void low_block(void *argument, size_t task, int thread)
{
    struct pass *pass = argument;
    struct scratch *s = &pass->engine->scratch[thread];
    const struct extent e = pass_extent(pass, task);
    s->counted = true;
    select_add_low(s->bins, thin_load_selected(pass, s, e), e.count, pass->bits);
}

static void tie_block(void *argument, size_t task, int thread)
{
    struct pass *pass = argument;
    struct scratch *s = &pass->engine->scratch[thread];
    const struct extent e = pass_extent(pass, task);
    pass->block_counts[e.index] =
        select_count_equal(thin_load_selected(pass, s, e), e.count, pass->bits);
}

static uint64_t find_end_of_ties(struct pass *pass, uint32_t bits, uint64_t ties)
{
    const size_t blocks = pass_blocks(pass);
    size_t b = 0;
    pass->bits = bits;
    pass_run(pass, tie_block);
    while (b < blocks && ties > pass->block_counts[b])
        ties -= pass->block_counts[b++];
    if (b == blocks)
        return pass->count;
    pass->first = b * pass->block;
    pass->last = pass->count - pass->first < pass->block ? pass->count : pass->first + pass->block;
    const struct extent e = pass_extent(pass, 0);
    const float *x = thin_load_selected(pass, &pass->engine->scratch[0], e);
    return e.begin + select_end_of_ties(x, e.count, bits, ties);
}

// The cut that keeps `keep` of the selected values; high holds their upper bits' histogram.
static struct magnitude_cut find_cut(struct pass *pass, const uint64_t *high, uint64_t keep)
{
    uint64_t above, above_low;
    if (keep == 0)
        return MAGNITUDE_KEEP_NONE;
    if (keep >= pass->count)
        return MAGNITUDE_KEEP_ALL;
    const uint32_t bin = select_bin(high, keep, &above);
    pass->bits = bin;
    pass_run(pass, low_block);
    pass_gather_bins(pass->engine, 0, SELECT_BINS - 1);
    const uint32_t low = select_bin(pass->engine->bins, keep - above, &above_low);
    const uint64_t ties = keep - above - above_low;
    struct magnitude_cut cut = {.bits = bin << 16 | low, .end = UINT64_MAX};
    if (ties < pass->engine->bins[low])
        cut.end = find_end_of_ties(pass, cut.bits, ties);
    return cut;
}

// A tensor of one block is held whole; nearly half of a model's tensors are that small.
static struct magnitude_cut find_small_cut(struct pass *pass, uint64_t keep)
{
    struct scratch *s = &pass->engine->scratch[0];
    pass->first = 0;
    pass->last = pass->count;
    return magnitude_select(thin_load_selected(pass, s, pass_extent(pass, 0)), pass->count, keep);
}

// Two cuts: `dropped` largest, and those with the `kept` ones behind them.
static void select_vector(struct pass *pass, size_t k, uint64_t dropped, uint64_t kept)
{
    pass->k = k;
    pass->upper[k] = MAGNITUDE_KEEP_NONE;
    pass->lower[k] = MAGNITUDE_KEEP_ALL;
    if (pass->count <= pass->block) {
        pass->lower[k] = find_small_cut(pass, dropped + kept);
        if (dropped > 0)
            pass->upper[k] = find_small_cut(pass, dropped);
        return;
    }
    if (dropped + kept >= pass->count && dropped == 0)
        return;
    if (candidates_find_cut(pass, dropped + kept, &pass->lower[k]) &&
        (dropped == 0 || candidates_find_cut(pass, dropped, &pass->upper[k])))
        return;
    uint64_t *high = mem_calloc(SELECT_BINS, sizeof(*high));
    pass_run(pass, high_block);
    pass_gather_bins(pass->engine, 0, SELECT_BINS - 1);
    memcpy(high, pass->engine->bins, SELECT_BINS * sizeof(*high));
    pass->lower[k] = find_cut(pass, high, dropped + kept);
    if (dropped > 0)
        pass->upper[k] = find_cut(pass, high, dropped);
    free(high);
}

static void select_deviation(struct pass *pass)
{
    const size_t blocks = pass_blocks(pass);
    uint64_t varying = pass->count;
    uint64_t *high = mem_calloc(SELECT_BINS, sizeof(*high));
    pass->k = pass->p->vectors;
    pass_run(pass, high_block);
    pass_gather_bins(pass->engine, 0, SELECT_BINS - 1);
    memcpy(high, pass->engine->bins, SELECT_BINS * sizeof(*high));
    for (size_t b = 0; b < blocks; b++)
        varying -= pass->block_counts[b];
    pass->deviation = find_cut(pass, high, (uint64_t)(pass->p->select_topk * (double)varying));
    free(high);
}

static void square_block(void *argument, size_t task, int thread)
{
    struct pass *pass = argument;
    struct scratch *s = &pass->engine->scratch[thread];
    const struct extent e = pass_extent(pass, task);
    pass_load_all(pass, s, e);
    for (size_t k = 0; k < pass->p->vectors; k++) {
        double sum = 0;
        thin_block(pass, s, k, e, s->kept[0]);
        for (size_t i = 0; i < e.count; i++)
            sum += s->kept[0][i] * s->kept[0][i];
        pass->partial[e.index * pass->sums + k] = sum;
    }
}

// c_k: how much of the vectors' energy each one holds.
static void weigh_by_squares(struct pass *pass)
{
    double *squares = mem_calloc(pass->sums, sizeof(*squares)), total = 0;
    pass_run(pass, square_block);
    pass_reduce(pass, squares);
    for (size_t k = 0; k < pass->p->vectors; k++)
        total += squares[k];
    for (size_t k = 0; k < pass->p->vectors; k++)
        pass->weight[k] = total > 0 ? squares[k] / total : 1.0 / (double)pass->p->vectors;
    free(squares);
}

static void magnitude_block(void *argument, size_t task, int thread)
{
    struct pass *pass = argument;
    struct scratch *s = &pass->engine->scratch[thread];
    const struct extent e = pass_extent(pass, task);
    pass_load_all(pass, s, e);
    for (size_t k = 0; k < pass->p->vectors; k++) {
        const float *x = s->x[k];
        double before = 0, after = 0;
        thin_block(pass, s, k, e, s->kept[0]);
        for (size_t i = 0; i < e.count; i++) {
            before += fabs((double)x[i]);
            after += fabs(s->kept[0][i]);
        }
        pass->partial[e.index * pass->sums + 2 * k] = before;
        pass->partial[e.index * pass->sums + 2 * k + 1] = after;
    }
}

static void scale_by_magnitudes(struct pass *pass)
{
    double *sums = mem_calloc(pass->sums, sizeof(*sums));
    pass_run(pass, magnitude_block);
    pass_reduce(pass, sums);
    for (size_t k = 0; k < pass->p->vectors; k++) {
        const double before = sums[2 * k], after = sums[2 * k + 1];
        if (pass->p->density[k] < 1 && before >= 1e-7 && after >= 1e-7)
            pass->scale[k] = before / after;
    }
    free(sums);
}

void thin_prepare(struct pass *pass, const struct magnitude_cut *cuts)
{
    const struct merge_parameters *p = pass->p;
    const enum merge_sparsify how = pass->traits->sparsify;
    for (size_t k = 0; k < p->vectors; k++) {
        uint64_t dropped = 0, kept = pass->count;
        pass->scale[k] = 1;
        pass->weight[k] = pass->traits->family == FAMILY_SCE ? 1 : p->weight[k];
        if (how == SPARSIFY_TRIM)
            kept = merge_kept_count(p->density[k], pass->count);
        if (how == SPARSIFY_OUTLIERS)
            merge_kept_behind(p->density[k], p->gamma[k], pass->count, &dropped, &kept);
        if ((how == SPARSIFY_TRIM && !cuts) || how == SPARSIFY_OUTLIERS)
            select_vector(pass, k, dropped, kept);
        if (how == SPARSIFY_TRIM && cuts) {
            pass->lower[k] = cuts[k];
            pass->upper[k] = MAGNITUDE_KEEP_NONE;
        }
    }
    pass->deviation = MAGNITUDE_KEEP_ALL;
    if (pass->traits->family == FAMILY_SCE && p->select_topk < 1)
        select_deviation(pass);
    if (pass->traits->family == FAMILY_SCE)
        weigh_by_squares(pass);
    if (how != SPARSIFY_NONE && p->rescale == RESCALE_L1)
        scale_by_magnitudes(pass);
}

MERGE_CLONES static void keep_all(double *kept, const float *x, size_t count)
{
    for (size_t i = 0; i < count; i++)
        kept[i] = (double)x[i];
}

// Without a branch: which value stays is as good as chance to the processor.
MERGE_CLONES static void keep_above(double *kept, const float *x, uint32_t least, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        float value;
        memcpy(&bits, &x[i], sizeof(bits));
        bits &= (bits & 0x7fffffffu) >= least ? UINT32_MAX : 0;
        memcpy(&value, &bits, sizeof(value));
        kept[i] = (double)value;
    }
}

// Only the block that holds the last tie looks at indices.
static void keep_between(double *kept, const float *x, struct magnitude_cut lower,
                         struct magnitude_cut upper, struct extent e)
{
    if (upper.bits == UINT32_MAX && e.begin >= lower.end && lower.bits < UINT32_MAX) {
        keep_above(kept, x, lower.bits + 1, e.count);
        return;
    }
    if (upper.bits == UINT32_MAX && e.begin + e.count <= lower.end) {
        keep_above(kept, x, lower.bits, e.count);
        return;
    }
    for (size_t i = 0; i < e.count; i++) {
        const bool stays = magnitude_survives(x[i], e.begin + i, lower) &&
                           !magnitude_survives(x[i], e.begin + i, upper);
        kept[i] = stays ? (double)x[i] : 0;
    }
}

static double rescaled(const struct pass *pass, float x, double probability)
{
    return pass->p->rescale == RESCALE_DENSITY ? (double)x / probability : (double)x;
}

static void keep_random(const struct pass *pass, size_t k, double *kept, const float *x,
                        struct extent e)
{
    const double density = pass->p->density[k];
    uint32_t words[4];
    for (size_t i = 0; i < e.count; i++) {
        const uint64_t at = e.begin + i;
        if (i == 0 || at % 4 == 0)
            random_words(pass->p->seed, pass->p->streams[k], at / 4, words);
        kept[i] = words[at % 4] * 0x1p-32 < density ? rescaled(pass, x[i], density) : 0;
    }
}

// Ascending by key, stable, in four passes over eight bits; the result is in keys[0].
static void sort_keys(uint64_t *keys[2], size_t count)
{
    for (int shift = 32; shift < 64; shift += 8) {
        size_t places[257] = {0};
        for (size_t i = 0; i < count; i++)
            places[(keys[0][i] >> shift & 255) + 1]++;
        for (int b = 0; b < 256; b++)
            places[b + 1] += places[b];
        for (size_t i = 0; i < count; i++)
            keys[1][places[keys[0][i] >> shift & 255]++] = keys[0][i];
        uint64_t *sorted = keys[1];
        keys[1] = keys[0];
        keys[0] = sorted;
    }
}

static void keep_ranked_row(const struct pass *pass, struct scratch *s, size_t k, double *kept,
                            const float *x, size_t begin)
{
    const size_t columns = pass->tensor->columns;
    for (size_t i = 0; i < columns; i++)
        s->keys[0][i] = (uint64_t)magnitude_bits(x[i]) << 32 | i;
    sort_keys(s->keys, columns);
    for (size_t place = 0; place < columns; place++) {
        const size_t i = s->keys[0][place] & UINT32_MAX;
        const double probability =
            merge_ranked_probability(pass->p->density[k], pass->p->epsilon[k], place, columns);
        const bool stays =
            merge_uniform(pass->p->seed, pass->p->streams[k], begin + i) < probability;
        kept[i] = stays ? rescaled(pass, x[i], probability) : 0;
    }
}

static void keep_varying(const struct pass *pass, struct scratch *s, double *kept, const float *x,
                         struct extent e)
{
    const float *deviation = (float *)s->divisor;
    deviation_block(pass, s, e.count);
    for (size_t i = 0; i < e.count; i++)
        kept[i] = magnitude_survives(deviation[i], e.begin + i, pass->deviation) ? (double)x[i] : 0;
}

void thin_block(const struct pass *pass, struct scratch *s, size_t k, struct extent e, double *kept)
{
    const float *x = s->x[k];
    switch (pass->traits->sparsify) {
    case SPARSIFY_NONE:
        if (pass->traits->family == FAMILY_SCE && pass->p->select_topk < 1)
            keep_varying(pass, s, kept, x, e);
        else
            keep_all(kept, x, e.count);
        return;
    case SPARSIFY_TRIM:
    case SPARSIFY_OUTLIERS:
        keep_between(kept, x, pass->lower[k], pass->upper[k], e);
        break;
    case SPARSIFY_RANDOM:
        keep_random(pass, k, kept, x, e);
        break;
    case SPARSIFY_RANKED:
        for (size_t row = 0; row < e.count; row += pass->tensor->columns)
            keep_ranked_row(pass, s, k, kept + row, x + row, e.begin + row);
        break;
    }
    for (size_t i = 0; pass->scale[k] != 1 && i < e.count; i++)
        kept[i] *= pass->scale[k];
}

struct magnitude_cut merge_tensor_cut(struct merge_engine *engine,
                                      const struct merge_tensor *tensor, uint64_t keep)
{
    const struct merge_parameters one = {.method = MERGE_TIES, .vectors = 1};
    struct magnitude_cut lower, upper;
    struct pass pass = pass_begin(engine, &one, tensor);
    pass.lower = &lower;
    pass.upper = &upper;
    pass.block_counts = mem_calloc(pass_blocks(&pass) + 1, sizeof(*pass.block_counts));
    pass.collected = mem_calloc(pass_blocks(&pass) + 1, sizeof(*pass.collected));
    select_vector(&pass, 0, 0, keep);
    free(pass.block_counts);
    free(pass.collected);
    return lower;
}

void merge_tensor_histogram(struct merge_engine *engine, const struct merge_parameters *parameters,
                            const struct merge_tensor *tensor, size_t k, const uint32_t *high,
                            uint64_t *bins)
{
    struct pass pass = pass_begin(engine, parameters, tensor);
    pass.k = k;
    pass.bits = high ? *high : 0;
    pass.block_counts = mem_calloc(pass_blocks(&pass) + 1, sizeof(*pass.block_counts));
    pass_run(&pass, high ? low_block : high_block);
    pass_gather_bins(engine, 0, SELECT_BINS - 1);
    for (size_t i = 0; i < SELECT_BINS; i++)
        bins[i] += engine->bins[i];
    pass_release(&pass);
    free(pass.block_counts);
}

uint64_t merge_tensor_equal(struct merge_engine *engine, const struct merge_parameters *parameters,
                            const struct merge_tensor *tensor, size_t k, uint32_t bits)
{
    struct pass pass = pass_begin(engine, parameters, tensor);
    uint64_t total = 0;
    pass.k = k;
    pass.bits = bits;
    pass.block_counts = mem_calloc(pass_blocks(&pass) + 1, sizeof(*pass.block_counts));
    pass_run(&pass, tie_block);
    for (size_t b = 0; b < pass_blocks(&pass); b++)
        total += pass.block_counts[b];
    pass_release(&pass);
    free(pass.block_counts);
    return total;
}

uint64_t merge_tensor_end_of_ties(struct merge_engine *engine,
                                  const struct merge_parameters *parameters,
                                  const struct merge_tensor *tensor, size_t k, uint32_t bits,
                                  uint64_t ties)
{
    struct pass pass = pass_begin(engine, parameters, tensor);
    pass.k = k;
    pass.block_counts = mem_calloc(pass_blocks(&pass) + 1, sizeof(*pass.block_counts));
    const uint64_t end = find_end_of_ties(&pass, bits, ties);
    pass_release(&pass);
    free(pass.block_counts);
    return end;
}
