// SPDX-License-Identifier: Apache-2.0
// A cut by one reading of the tensor. A sample tells two magnitudes between which the cut almost
// certainly lies; one pass counts what is above them and collects what is between, a few per cent.
// The cut is then selected among those, exactly, with its ties. When the cut lies elsewhere or more
// is between than there is room for, nothing is found and histograms over the tensor decide.
//
// The sample: 256 pieces of 256 values, evenly spaced. With p the share that is kept, the bracket
// goes 5 standard deviations of p n to either side, and 1/64 of the sample for values that are
// alike inside a row.
#include "worker/merge/clones.h"
#include "worker/merge/tensor_private.h"

#include <math.h>
#include <string.h>

#define PIECE 256
#define PIECES 256
#define SAMPLE ((size_t)PIECE * PIECES)
#define LEAST (4 * SAMPLE) // elements; a smaller tensor is read several times sooner than sampled

// Touching a page may map many: those of a large tensor go before they become too many.
static void take_sample(struct pass *pass)
{
    const struct merge_tensor *tensor = pass->tensor;
    const size_t stride = pass->count / PIECES;
    struct scratch *s = &pass->engine->scratch[0];
    s->counted = true;
    for (size_t piece = 0; piece < PIECES; piece++) {
        const struct extent e = {stride * piece, PIECE, 0};
        select_add_high(s->bins, thin_load_selected(pass, s, e), e.count);
        if (tensor->release && pass->count > pass->engine->tile && piece % 8 == 7)
            tensor->release(tensor->context, stride * (piece - 7), 8 * stride);
    }
}

// Bounds that hold whole bins of the upper bits.
static void find_bracket(struct pass *pass, uint64_t keep)
{
    const double n = (double)SAMPLE, p = (double)keep / (double)pass->count;
    const double margin = 5 * sqrt(n * p * (1 - p)) + n / 64;
    const double most = n * p + margin, least = n * p - margin;
    const uint64_t *bins = pass->engine->bins;
    uint64_t above;
    take_sample(pass);
    pass_gather_bins(pass->engine, 0, SELECT_BINS - 1);
    pass->bracket_low = most < n ? select_bin(bins, (uint64_t)most, &above) << 16 : 0;
    pass->bracket_high =
        least >= 1 ? select_bin(bins, (uint64_t)least, &above) << 16 | 0xffffu : UINT32_MAX;
}

MERGE_CLONES static uint64_t count_above(const float *x, size_t count, uint32_t high)
{
    uint32_t above = 0; // counts stay below 2^32: pieces are small
    for (size_t i = 0; i < count; i++)
        above += magnitude_bits(x[i]) > high;
    return above;
}

// Without a branch; out has room for all of them.
static size_t collect(const float *x, size_t count, uint32_t low, uint32_t high, float *out)
{
    size_t found = 0;
    for (size_t i = 0; i < count; i++) {
        out[found] = x[i];
        found += magnitude_bits(x[i]) - low <= high - low;
    }
    return found;
}

static void collect_block(void *argument, size_t task, int thread)
{
    struct pass *pass = argument;
    struct scratch *s = &pass->engine->scratch[thread];
    const struct extent e = pass_extent(pass, task);
    if (s->candidate_count + e.count > pass->engine->candidates) {
        s->overflowed = true;
        return;
    }
    const float *x = thin_load_selected(pass, s, e);
    struct collected *collected = &pass->collected[e.index];
    collected->values = s->candidates + s->candidate_count;
    collected->count = collect(x, e.count, pass->bracket_low, pass->bracket_high,
                               s->candidates + s->candidate_count);
    s->candidate_count += collected->count;
    s->above += count_above(x, e.count, pass->bracket_high);
}

// One task for each thread's candidates, whoever runs it.
static void high_candidates(void *argument, size_t task, int thread)
{
    struct pass *pass = argument;
    struct scratch *s = &pass->engine->scratch[thread];
    const struct scratch *from = &pass->engine->scratch[task];
    s->counted = true;
    select_add_high(s->bins, from->candidates, from->candidate_count);
}

static void low_candidates(void *argument, size_t task, int thread)
{
    struct pass *pass = argument;
    struct scratch *s = &pass->engine->scratch[thread];
    const struct scratch *from = &pass->engine->scratch[task];
    s->counted = true;
    select_add_low(s->bins, from->candidates, from->candidate_count, pass->bits);
}

static uint64_t end_of_ties(struct pass *pass, uint32_t bits, uint64_t ties)
{
    size_t b = 0;
    for (;; b++) { // there are more than ties
        const struct collected *collected = &pass->collected[b];
        const uint64_t equal = select_count_equal(collected->values, collected->count, bits);
        if (ties <= equal)
            break;
        ties -= equal;
    }
    pass->first = b * pass->block;
    pass->last = pass->count - pass->first < pass->block ? pass->count : pass->first + pass->block;
    const struct extent e = pass_extent(pass, 0);
    const float *x = thin_load_selected(pass, &pass->engine->scratch[0], e);
    return e.begin + select_end_of_ties(x, e.count, bits, ties);
}

// The rank-th largest candidate, and where its equals end.
static struct magnitude_cut select_candidate(struct pass *pass, uint64_t rank)
{
    struct merge_engine *engine = pass->engine;
    uint64_t above, above_low;
    pool_run(engine->pool, (size_t)engine->threads, high_candidates, pass);
    pass_gather_bins(engine, pass->bracket_low >> 16, pass->bracket_high >> 16);
    pass->bits = select_bin(engine->bins, rank, &above);
    pool_run(engine->pool, (size_t)engine->threads, low_candidates, pass);
    pass_gather_bins(engine, 0, SELECT_BINS - 1);
    const uint32_t low = select_bin(engine->bins, rank - above, &above_low);
    const uint64_t ties = rank - above - above_low;
    struct magnitude_cut cut = {.bits = pass->bits << 16 | low, .end = UINT64_MAX};
    if (ties < engine->bins[low])
        cut.end = end_of_ties(pass, cut.bits, ties);
    return cut;
}

bool candidates_find_cut(struct pass *pass, uint64_t keep, struct magnitude_cut *out)
{
    struct merge_engine *engine = pass->engine;
    uint64_t above = 0, between = 0;
    bool overflowed = false;
    if (pass->count < LEAST || keep == 0 || keep >= pass->count)
        return false;
    find_bracket(pass, keep);
    for (int t = 0; t < engine->threads; t++) {
        struct scratch *s = &engine->scratch[t];
        s->candidate_count = 0;
        s->above = 0;
        s->overflowed = false;
    }
    pass_run(pass, collect_block);
    for (int t = 0; t < engine->threads; t++) {
        const struct scratch *s = &engine->scratch[t];
        above += s->above;
        between += s->candidate_count;
        overflowed = overflowed || s->overflowed;
    }
    if (overflowed || keep <= above || keep > above + between)
        return false;
    *out = select_candidate(pass, keep - above);
    return true;
}
