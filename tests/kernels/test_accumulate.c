// SPDX-License-Identifier: Apache-2.0
#include "harness.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const size_t counts[] = {0, 1, 31, 33, 1000, 4096, 70001};

enum { COUNTS = sizeof counts / sizeof counts[0] };

static struct tensor copy_of(struct test_memory *memory, struct tensor x, size_t count)
{
    return (struct tensor){memory_of(memory, x.data, count, dtype_bytes(x.dtype)), x.dtype};
}

static void assert_as_ref(struct devices *devices, struct device *device, enum dtype sums,
                          enum dtype terms, size_t count)
{
    struct test_memory memory = {.stream = count};
    struct tensor start = memory_tensor(&memory, sums, count);
    struct accumulate expected = {.sums = copy_of(&memory, start, count),
                                  .terms = memory_tensor(&memory, terms, count),
                                  .count = count,
                                  .first = 0xfffffff0u, // numbers pass 2^32
                                  .draw = 7};
    struct accumulate got = expected;
    struct error err;
    got.sums = copy_of(&memory, start, count);
    devices->ref->ops->accumulate(devices->ref, &expected);
    device->ops->accumulate(device, &got);
    assert_int_equal(device_sync(device, &err), 0);
    assert_memory_equal(got.sums.data, expected.sums.data, count * dtype_bytes(sums));
    memory_release(&memory);
}

static void every_type_gives_the_bits_of_ref(void **state)
{
    struct devices *devices = *state;
    for (size_t c = 0; c < COUNTS; c++)
        for (size_t i = 0; i < devices->count; i++)
            for (int sums = DTYPE_F32; sums <= DTYPE_BF16; sums++)
                for (int terms = DTYPE_F32; terms <= DTYPE_BF16; terms++)
                    assert_as_ref(devices, devices->cpu[i], (enum dtype)sums, (enum dtype)terms,
                                  counts[c]);
}

static void adding_nothing_changes_nothing(void **state)
{
    struct devices *devices = *state;
    enum { COUNT = 1000 };
    struct test_memory memory = {0};
    struct tensor start = memory_tensor(&memory, DTYPE_BF16, COUNT);
    struct tensor zero = f32(memory_copy(&memory, (float[COUNT]){0}, COUNT));
    for (size_t i = 0; i <= devices->count; i++) {
        struct device *device = i < devices->count ? devices->cpu[i] : devices->ref;
        struct error err;
        struct accumulate a = {copy_of(&memory, start, COUNT), zero, COUNT, 0, 1};
        device->ops->accumulate(device, &a);
        assert_int_equal(device_sync(device, &err), 0);
        assert_memory_equal(a.sums.data, start.data, COUNT * sizeof(uint16_t));
    }
    memory_release(&memory);
}

// Of a NaN whose bits are all ones adding random bits would make a zero.
static void what_is_not_finite_stays_so(void **state)
{
    struct devices *devices = *state;
    static const uint32_t bits[] = {0x7fffffff, 0xffffffff, 0x7f800001, 0x7f800000, 0xff800000};
    enum { COUNT = sizeof bits / sizeof bits[0] };
    for (size_t i = 0; i <= devices->count; i++) {
        struct device *device = i < devices->count ? devices->cpu[i] : devices->ref;
        struct test_memory memory = {0};
        struct error err;
        const uint16_t zeros[COUNT] = {0};
        struct accumulate a = {.sums = {memory_of(&memory, zeros, COUNT, 2), DTYPE_BF16},
                               .terms = {memory_of(&memory, bits, COUNT, 4), DTYPE_F32},
                               .count = COUNT,
                               .draw = 3};
        device->ops->accumulate(device, &a);
        assert_int_equal(device_sync(device, &err), 0);
        for (int j = 0; j < COUNT; j++) {
            const float got = bf16_to_f32(((const uint16_t *)a.sums.data)[j]);
            assert_true(j < 3 ? isnan(got) : isinf(got) && (got > 0) == (j == 3));
        }
        memory_release(&memory);
    }
}

// --- many terms ---

enum { SUMS = 40000 };

// Relative to the exact sums, over all elements.
struct deviation {
    double mean, root_mean_square;
};

static struct deviation deviation_of(const uint16_t *sums, const double *exact)
{
    struct deviation d = {0};
    for (size_t i = 0; i < SUMS; i++) {
        const double e = ((double)bf16_to_f32(sums[i]) - exact[i]) / exact[i];
        d.mean += e / SUMS;
        d.root_mean_square += e * e / SUMS;
    }
    d.root_mean_square = sqrt(d.root_mean_square);
    return d;
}

static void add_to_the_nearest(uint16_t *sums, const float *terms)
{
    for (size_t i = 0; i < SUMS; i++)
        sums[i] = bf16_from_f32(bf16_to_f32(sums[i]) + terms[i]);
}

// Every micro-batch gives an element the same gradient, which is what a sum must not lose.
static void add_terms(struct device *device, int micro_batches, struct deviation *stochastic,
                      struct deviation *nearest)
{
    struct test_memory memory = {0};
    float *terms = memory_random(&memory, SUMS);
    uint16_t *sums = memset(devices_memory(SUMS * sizeof *sums), 0, SUMS * sizeof *sums);
    uint16_t *rounded = calloc(SUMS, sizeof *rounded);
    double *exact = calloc(SUMS, sizeof *exact);
    struct error err;
    for (int m = 0; m < micro_batches; m++) {
        device->ops->accumulate(device, &(struct accumulate){.sums = {sums, DTYPE_BF16},
                                                             .terms = f32(terms),
                                                             .count = SUMS,
                                                             .first = 1000,
                                                             .draw = m});
        assert_int_equal(device_sync(device, &err), 0);
        add_to_the_nearest(rounded, terms);
    }
    for (size_t i = 0; i < SUMS; i++)
        exact[i] = (double)terms[i] * micro_batches;
    *stochastic = deviation_of(sums, exact);
    *nearest = deviation_of(rounded, exact);
    devices_free(sums);
    free(rounded);
    free(exact);
    memory_release(&memory);
}

// A unit of the last place is at most 2^-7 of its number. Rounding x up with the probability of
// what is cut off has mean x and a variance of at most a quarter of a unit's square: after M equal
// terms the variance, relative to the sum, is at most
//     2^-16 (1^2 + ... + M^2) / M^2 = 2^-16 (M / 3 + 1 / 2 + 1 / (6 M)),
// and that of the mean over n elements 1 / n of it; six deviations are enough for ever. Rounding to
// the nearest loses more from 64 terms on, and every fourth part of a sum of 512.
static void a_sum_of_many_terms_has_no_bias(void **state)
{
    struct devices *devices = *state;
    static const int micro_batches[] = {1, 8, 64, 512};
    for (int i = 0; i < 4; i++) {
        const double m = micro_batches[i];
        const double bound = 0x1p-8 * sqrt(m / 3 + 0.5 + 1 / (6 * m));
        struct deviation stochastic, nearest;
        add_terms(devices->cpu[0], micro_batches[i], &stochastic, &nearest);
        printf("%d micro-batches: stochastic %+.5f, %.5f; to nearest %+.5f, %.5f\n",
               micro_batches[i], stochastic.mean, stochastic.root_mean_square, nearest.mean,
               nearest.root_mean_square);
        assert_true(fabs(stochastic.mean) <= 6 * bound / sqrt(SUMS));
        assert_true(stochastic.root_mean_square <= bound);
        if (micro_batches[i] >= 64)
            assert_true(fabs(nearest.mean) > 6 * bound / sqrt(SUMS));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_type_gives_the_bits_of_ref),
        cmocka_unit_test(adding_nothing_changes_nothing),
        cmocka_unit_test(what_is_not_finite_stays_so),
        cmocka_unit_test(a_sum_of_many_terms_has_no_bias),
    };
    return cmocka_run_group_tests(tests, devices_create, devices_destroy);
}
