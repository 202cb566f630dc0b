// SPDX-License-Identifier: Apache-2.0
// Exact selection of the largest magnitudes in O(n): a histogram over the upper 16 bits of |x|,
// then one over the lower 16 bits of the bin where the threshold lies. The bits of a non-negative
// float order as integers, so no value is compared and none is moved.
#ifndef MEMO_WORKER_MERGE_SELECT_H
#define MEMO_WORKER_MERGE_SELECT_H

#include <stddef.h>
#include <stdint.h>

// Which elements are kept: all with magnitude bits above `bits`, and of those equal to it the first
// `ties` in index order.
struct magnitude_cut {
    uint32_t bits;
    size_t ties;
};

// Keeps exactly min(keep, count) elements. NaN counts as larger than infinity.
struct magnitude_cut magnitude_select(const float *x, size_t count, size_t keep);

#endif
