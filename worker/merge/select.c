// SPDX-License-Identifier: Apache-2.0
#include "worker/merge/select.h"

#include "base/mem.h"
#include "worker/merge/clones.h"

#include <stdlib.h>

void select_add_high(uint32_t *bins, const float *x, size_t count)
{
    for (size_t i = 0; i < count; i++)
        bins[magnitude_bits(x[i]) >> 16]++;
}

void select_add_low(uint32_t *bins, const float *x, size_t count, uint32_t high)
{
    for (size_t i = 0; i < count; i++) {
        const uint32_t bits = magnitude_bits(x[i]);
        if (bits >> 16 == high)
            bins[bits & 0xffffu]++;
    }
}

uint32_t select_bin(const uint64_t *bins, uint64_t keep, uint64_t *above)
{
    uint64_t seen = 0;
    uint32_t bin = SELECT_BINS;
    while (bin-- > 0) {
        if (seen + bins[bin] >= keep)
            break;
        seen += bins[bin];
    }
    *above = seen;
    return bin;
}

MERGE_CLONES size_t select_count_equal(const float *x, size_t count, uint32_t bits)
{
    uint32_t equal = 0; // counts stay below 2^32: pieces are small
    for (size_t i = 0; i < count; i++)
        equal += magnitude_bits(x[i]) == bits;
    return equal;
}

size_t select_end_of_ties(const float *x, size_t count, uint32_t bits, uint64_t ties)
{
    for (size_t i = 0; i < count; i++) {
        if (ties == 0)
            return i;
        ties -= magnitude_bits(x[i]) == bits;
    }
    return count;
}

static void widen(uint64_t *wide, uint32_t *bins)
{
    for (size_t i = 0; i < SELECT_BINS; i++)
        wide[i] = bins[i];
    memset(bins, 0, SELECT_BINS * sizeof(*bins));
}

struct magnitude_cut magnitude_select(const float *x, size_t count, uint64_t keep)
{
    if (keep == 0 || count == 0)
        return MAGNITUDE_KEEP_NONE;
    if (keep >= count)
        return MAGNITUDE_KEEP_ALL;
    uint32_t *bins = mem_calloc(SELECT_BINS, sizeof(*bins));
    uint64_t *wide = mem_calloc(SELECT_BINS, sizeof(*wide));
    uint64_t above, above_low;
    select_add_high(bins, x, count);
    widen(wide, bins);
    const uint32_t high = select_bin(wide, keep, &above);
    select_add_low(bins, x, count, high);
    widen(wide, bins);
    const uint32_t bits = high << 16 | select_bin(wide, keep - above, &above_low);
    free(bins);
    free(wide);
    return (struct magnitude_cut){
        .bits = bits, .end = select_end_of_ties(x, count, bits, keep - above - above_low)};
}
