// SPDX-License-Identifier: Apache-2.0
// The additions of the collectives. IEEE addition commutes bit for bit (NaN payloads aside), but
// does not associate: the transports may swap the operands of one addition, never the order of
// terms.
#include "collectives/group_internal.h"

static void add_f32(void *sum, const void *term, size_t count)
{
    float *restrict a = sum;
    const float *restrict b = term;
    for (size_t i = 0; i < count; i++) {
        a[i] += b[i];
    }
}

static void add_f64(void *sum, const void *term, size_t count)
{
    double *restrict a = sum;
    const double *restrict b = term;
    for (size_t i = 0; i < count; i++) {
        a[i] += b[i];
    }
}

static void add_i64(void *sum, const void *term, size_t count)
{
    uint64_t *restrict a = sum; // unsigned: overflow wraps instead of being undefined
    const uint64_t *restrict b = term;
    for (size_t i = 0; i < count; i++) {
        a[i] += b[i];
    }
}

const struct group_element group_f32 = {sizeof(float), add_f32};
const struct group_element group_f64 = {sizeof(double), add_f64};
const struct group_element group_i64 = {sizeof(int64_t), add_i64};
