// SPDX-License-Identifier: Apache-2.0
#include "worker/merge/select.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

#define BINS 65536

static uint32_t magnitude_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    return bits & 0x7fffffffu;
}

// The highest bin such that the bins above it hold fewer than keep; *above is how many those hold.
static uint32_t find_bin(const size_t *histogram, size_t keep, size_t *above)
{
    size_t seen = 0;
    for (uint32_t bin = BINS; bin-- > 0;) {
        if (seen + histogram[bin] >= keep) {
            *above = seen;
            return bin;
        }
        seen += histogram[bin];
    }
    *above = seen;
    return 0;
}

struct magnitude_cut magnitude_select(const float *x, size_t count, size_t keep)
{
    if (keep == 0 || count == 0)
        return (struct magnitude_cut){.bits = UINT32_MAX};
    if (keep > count)
        keep = count;
    size_t *histogram = mem_calloc(BINS, sizeof(*histogram));
    size_t above, above_low;
    for (size_t i = 0; i < count; i++)
        histogram[magnitude_bits(x[i]) >> 16]++;
    const uint32_t high = find_bin(histogram, keep, &above);

    memset(histogram, 0, BINS * sizeof(*histogram));
    for (size_t i = 0; i < count; i++) {
        const uint32_t bits = magnitude_bits(x[i]);
        if (bits >> 16 == high)
            histogram[bits & 0xffffu]++;
    }
    const uint32_t low = find_bin(histogram, keep - above, &above_low);
    free(histogram);
    return (struct magnitude_cut){.bits = high << 16 | low, .ties = keep - above - above_low};
}
