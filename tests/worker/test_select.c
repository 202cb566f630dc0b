// SPDX-License-Identifier: Apache-2.0
// Selection of the largest magnitudes against a full sort.
#include "base/mem.h"
#include "base/random.h"
#include "worker/merge/select.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static uint32_t magnitude(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    return bits & 0x7fffffffu;
}

struct ranked {
    uint32_t bits;
    size_t index;
};

// Largest first; equal ones by lowest index.
static int compare(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->bits != y->bits)
        return x->bits < y->bits ? 1 : -1;
    return x->index < y->index ? -1 : 1;
}

static void check(const float *x, size_t count, size_t keep)
{
    struct ranked *sorted = mem_calloc(count, sizeof(*sorted));
    bool *expected = mem_calloc(count, sizeof(*expected));
    const struct magnitude_cut cut = magnitude_select(x, count, keep);
    size_t kept = 0;
    for (size_t i = 0; i < count; i++)
        sorted[i] = (struct ranked){magnitude(x[i]), i};
    qsort(sorted, count, sizeof(*sorted), compare);
    for (size_t i = 0; i < keep && i < count; i++)
        expected[sorted[i].index] = true;
    for (size_t i = 0; i < count; i++) {
        const bool survives = magnitude_survives(x[i], i, cut);
        if (survives != expected[i])
            fail_msg("element %zu of %zu, keep %zu: %d", i, count, keep, survives);
        kept += survives;
    }
    assert_int_equal(kept, keep < count ? keep : count);
    free(sorted);
    free(expected);
}

static void check_every_keep(const float *x, size_t count)
{
    for (size_t keep = 0; keep <= count + 2; keep += count > 100 ? 37 : 1)
        check(x, count, keep);
    check(x, count, count);
}

static void random_numbers_are_selected_as_by_sorting(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 2, 31, 33, 1000};
    float x[1000];
    for (uint64_t s = 0; s < 6; s++) {
        for (size_t i = 0; i < sizes[s]; i++)
            x[i] = (float)random_normal(s, 0, i);
        check_every_keep(x, sizes[s]);
    }
}

static void equal_magnitudes_are_kept_by_lowest_index(void **state)
{
    (void)state;
    float x[1000];
    for (size_t i = 0; i < 1000; i++)
        x[i] = (random_u64(1, 0, i) % 2 ? 1.f : -1.f) * (float)(random_u64(1, 1, i) % 4);
    check_every_keep(x, 1000);
    for (size_t i = 0; i < 33; i++)
        x[i] = i % 2 ? 0.5f : -0.5f;
    check_every_keep(x, 33);
}

static void zeros_of_both_signs_are_equal(void **state)
{
    (void)state;
    const float x[] = {0.f, -0.f, 1e-45f, -0.f, 0.f, -1e-45f, 0.f};
    check_every_keep(x, 7);
}

static void subnormals_infinity_and_nan_have_their_place(void **state)
{
    (void)state;
    const float x[] = {
        1e-45f, -3e-45f, 1e-38f,  -1.1754944e-38f, INFINITY, -INFINITY, NAN, -NAN, 3.4e38f,
        -0.f,   1.f,     65504.f, 1e-40f,          -1e-41f,  -3.4e38f,  2.f, 1.f,  -1.f};
    check_every_keep(x, sizeof(x) / sizeof(x[0]));
    assert_int_equal(magnitude_select(x, 18, 2).bits >= 0x7f800001u, 1); // the two NaNs come first
}

// Both halves of the bits decide: values that differ in the lower 16 bits only.
static void values_of_one_bin_are_told_apart(void **state)
{
    (void)state;
    float x[1000];
    for (size_t i = 0; i < 1000; i++) {
        const uint32_t bits = 0x3f800000u | (uint32_t)(random_u64(5, 0, i) & 0xffff);
        memcpy(&x[i], &bits, sizeof(bits));
    }
    check_every_keep(x, 1000);
}

static void random_bits_are_selected_as_by_sorting(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 200; seed++) {
        float x[257];
        const size_t count = random_u64(seed, 1, 0) % 257;
        for (size_t i = 0; i < count; i++) {
            const uint32_t bits = (uint32_t)random_u64(seed, 0, i);
            memcpy(&x[i], &bits, sizeof(bits));
        }
        check(x, count, random_u64(seed, 1, 1) % (count + 2));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_numbers_are_selected_as_by_sorting),
        cmocka_unit_test(equal_magnitudes_are_kept_by_lowest_index),
        cmocka_unit_test(zeros_of_both_signs_are_equal),
        cmocka_unit_test(subnormals_infinity_and_nan_have_their_place),
        cmocka_unit_test(values_of_one_bin_are_told_apart),
        cmocka_unit_test(random_bits_are_selected_as_by_sorting),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
