// SPDX-License-Identifier: Apache-2.0
// Exact selection of the largest magnitudes in O(n), for values that arrive in pieces: a histogram
// over the upper 15 bits of |x|, then one over the lower 16 bits of the bin where the threshold
// lies. The bits of a non-negative float order as integers, so no value is moved.
#ifndef MEMO_WORKER_MERGE_SELECT_H
#define MEMO_WORKER_MERGE_SELECT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define SELECT_BINS 65536

// Which elements are kept: those with magnitude bits above `bits`, and of those equal to it the
// ones with an index below `end`.
struct magnitude_cut {
    uint32_t bits;
    uint64_t end;
};

static inline uint32_t magnitude_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    return bits & 0x7fffffffu;
}

static inline int magnitude_survives(float x, uint64_t index, struct magnitude_cut cut)
{
    const uint32_t bits = magnitude_bits(x);
    return bits > cut.bits || (bits == cut.bits && index < cut.end);
}

// Add count values to bins [SELECT_BINS]: by their upper bits; those whose upper bits are `high`,
// by their lower bits. 32 bits a bin: at most 2^32 - 1 values between two emptyings.
void select_add_high(uint32_t *bins, const float *x, size_t count);
void select_add_low(uint32_t *bins, const float *x, size_t count, uint32_t high);

// The highest bin such that the bins above it hold fewer than keep; *above is how many those hold.
// keep must not exceed the total, nor be 0.
uint32_t select_bin(const uint64_t *bins, uint64_t keep, uint64_t *above);

size_t select_count_equal(const float *x, size_t count, uint32_t bits);

// Behind the place of the ties-th value equal to bits, from 0; count when there are fewer.
size_t select_end_of_ties(const float *x, size_t count, uint32_t bits, uint64_t ties);

// All in memory: keeps exactly min(keep, count) elements. NaN counts as larger than infinity.
struct magnitude_cut magnitude_select(const float *x, size_t count, uint64_t keep);

#define MAGNITUDE_KEEP_NONE ((struct magnitude_cut){.bits = UINT32_MAX})
#define MAGNITUDE_KEEP_ALL ((struct magnitude_cut){.end = UINT64_MAX})

#endif
