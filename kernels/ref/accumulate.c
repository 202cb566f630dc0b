// SPDX-License-Identifier: Apache-2.0
// sums = sums + terms, added in float32. Rounding to the nearest bfloat16 would lose every term
// below half a unit of its sum, 2^-9 of it; so the sum is rounded up with the probability of what
// is cut off (stochastic rounding, Gupta et al. 2015): 16 random bits are added to the lower 16,
// which are then cut. The mean is the exact sum; a sum that is a bfloat16 already stays what it is.
#include "kernels/moment_code.h"
#include "kernels/ref/ref.h"

#include <string.h>

static uint16_t round_stochastically(float value, uint32_t random)
{
    uint32_t bits;
    if (value != value)
        return 0x7fc0; // adding to the bits of a NaN may give a number
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)((bits + (random & 0xffffu)) >> 16);
}

void ref_accumulate(struct device *device, const struct accumulate *a)
{
    (void)device;
    for (size_t i = 0; i < a->count; i++) {
        const float sum = (float)load(a->sums, i) + (float)load(a->terms, i);
        if (a->sums.dtype == DTYPE_BF16)
            ((uint16_t *)a->sums.data)[i] =
                round_stochastically(sum, moment_random(a->first + i, a->draw));
        else
            store(a->sums, i, sum);
    }
}
