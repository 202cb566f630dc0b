// SPDX-License-Identifier: Apache-2.0
// Sums over ranks:
//     fixed_accumulate   sums += round(values 2^44), of values below the limit
//     fixed_add          sums += terms, modulo 2^64
//     fixed_value        out = sums 2^-44
// Integers have one sum in any order and grouping; 2^44 is a power of two, so that only the
// rounding to an integer and the one back to float32 lose anything.
#include "kernels/ref/ref.h"

#include <math.h>

void ref_fixed_accumulate(struct device *device, const struct fixed_accumulate *a)
{
    (void)device;
    for (size_t i = 0; i < a->count; i++) {
        const float value = load(a->values, i);
        if (fabsf(value) < a->limit)
            a->sums[i] += (int64_t)rint((double)value * FIXED_SCALE);
        else
            *a->unfit = 1;
    }
}

void ref_fixed_add(struct device *device, const struct fixed_add *a)
{
    (void)device;
    for (size_t i = 0; i < a->count; i++)
        a->sums[i] = (int64_t)((uint64_t)a->sums[i] + (uint64_t)a->terms[i]);
}

void ref_fixed_value(struct device *device, const struct fixed_value *a)
{
    (void)device;
    for (size_t i = 0; i < a->count; i++)
        a->out[i] = (float)((double)a->sums[i] * (1 / FIXED_SCALE));
}
