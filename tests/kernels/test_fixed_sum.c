// SPDX-License-Identifier: Apache-2.0
// Sums over ranks on every device, bit for bit as ref.
#include "harness.h"

#include "base/random.h"

#include <math.h>
#include <string.h>

static const size_t counts[] = {0, 1, 31, 33, 1000, 1024, 16384, 50001};

enum { COUNTS = sizeof counts / sizeof counts[0] };

#define LIMIT 0x1p17f

static const int64_t zeros[50001];

// Over all magnitudes that matter: below half a unit of the fixed point, up to the limit.
static float *gradients(struct test_memory *memory, size_t count)
{
    float *values = memory_random(memory, count);
    for (size_t i = 0; i < count; i++)
        values[i] = ldexpf(values[i], (int)(random_u64(5, count, i) % 60) - 46);
    return values;
}

static int64_t *integers(struct test_memory *memory, size_t count, bool large)
{
    int64_t *values = memory_of(memory, zeros, count, sizeof *values);
    for (size_t i = 0; i < count; i++)
        values[i] = (int64_t)random_u64(6, count, i) >> (large ? 0 : 4);
    return values;
}

static void check_accumulate(struct devices *devices, struct test_memory *memory,
                             struct tensor values, size_t count, int32_t want_unfit)
{
    const int64_t *before = integers(memory, count, false);
    int64_t *expected = memory_of(memory, before, count, sizeof *before);
    int32_t clear = 0, *unfit = memory_of(memory, &clear, 1, sizeof clear);
    struct fixed_accumulate a = {expected, values, count, LIMIT, unfit};
    devices->ref->ops->fixed_accumulate(devices->ref, &a);
    assert_int_equal(*unfit, want_unfit);
    for (size_t i = 0; i < devices->count; i++) {
        a.sums = memory_of(memory, before, count, sizeof *before);
        *unfit = 0;
        devices->cpu[i]->ops->fixed_accumulate(devices->cpu[i], &a);
        assert_memory_equal(a.sums, expected, count * sizeof *expected);
        assert_int_equal(*unfit, want_unfit);
    }
}

static void accumulated_integers_are_those_of_ref(void **state)
{
    for (size_t c = 0; c < COUNTS; c++) {
        struct test_memory memory = {.stream = c};
        check_accumulate(*state, &memory, f32(gradients(&memory, counts[c])), counts[c], 0);
        check_accumulate(*state, &memory, memory_tensor(&memory, DTYPE_BF16, counts[c]), counts[c],
                         0);
        memory_release(&memory);
    }
}

static void values_are_rounded_to_the_nearest_multiple(void **state)
{
    struct devices *devices = *state;
    const float unit = 0x1p-44f;
    const float values[] = {0,           unit,        -3 * unit,    unit / 2, 1.5f * unit,
                            2.5f * unit, -unit / 2,   -1.5f * unit, unit / 4, 1,
                            -0.75f,      0x1p17f - 1, 0x1p-149f,    0x1p-20f};
    const int64_t want[] = {0,
                            1,
                            -3,
                            0,
                            2,
                            2,
                            0,
                            -2,
                            0,
                            (int64_t)1 << 44,
                            -((int64_t)3 << 42),
                            (int64_t)131071 << 44,
                            0,
                            (int64_t)1 << 24};
    enum { COUNT = sizeof want / sizeof want[0] };
    for (size_t i = 0; i <= devices->count; i++) {
        struct device *device = i < devices->count ? devices->cpu[i] : devices->ref;
        struct test_memory memory = {0};
        int32_t clear = 0;
        struct fixed_accumulate a = {memory_of(&memory, zeros, COUNT, sizeof *zeros),
                                     f32(memory_copy(&memory, values, COUNT)), COUNT, LIMIT,
                                     memory_of(&memory, &clear, 1, sizeof clear)};
        device->ops->fixed_accumulate(device, &a);
        assert_memory_equal(a.sums, want, sizeof want);
        assert_int_equal(*a.unfit, 0);
        memory_release(&memory);
    }
}

static void what_does_not_fit_is_told_and_adds_nothing(void **state)
{
    static const float odd[] = {LIMIT, -LIMIT, INFINITY, -INFINITY, NAN, 1e30f};
    for (size_t o = 0; o < sizeof odd / sizeof odd[0]; o++) {
        for (size_t at = 0; at < 1000; at += 333) { // the first and the last among them
            struct test_memory memory = {.stream = o};
            float *values = gradients(&memory, 1000);
            values[at] = odd[o];
            check_accumulate(*state, &memory, f32(values), 1000, 1);
            memory_release(&memory);
        }
    }
}

static void integers_are_added_and_wrap_around(void **state)
{
    struct devices *devices = *state;
    for (size_t c = 0; c < COUNTS; c++) {
        struct test_memory memory = {.stream = c};
        const int64_t *before = integers(&memory, counts[c], true);
        const int64_t *terms = integers(&memory, counts[c], true);
        const size_t bytes = counts[c] * sizeof *before;
        struct fixed_add a = {memory_of(&memory, before, counts[c], sizeof *before), terms,
                              counts[c]};
        devices->ref->ops->fixed_add(devices->ref, &a);
        const int64_t *expected = a.sums;
        for (size_t i = 0; i < devices->count; i++) {
            a.sums = memory_of(&memory, before, counts[c], sizeof *before);
            devices->cpu[i]->ops->fixed_add(devices->cpu[i], &a);
            assert_memory_equal(a.sums, expected, bytes);
        }
        memory_release(&memory);
    }
}

static void values_come_back_rounded_as_by_ref(void **state)
{
    struct devices *devices = *state;
    for (size_t c = 0; c < COUNTS; c++) {
        struct test_memory memory = {.stream = c};
        struct fixed_value a = {memory_floats(&memory, counts[c]),
                                integers(&memory, counts[c], true), counts[c]};
        devices->ref->ops->fixed_value(devices->ref, &a);
        const float *expected = a.out;
        for (size_t i = 0; i < devices->count; i++) {
            a.out = memory_floats(&memory, counts[c]);
            devices->cpu[i]->ops->fixed_value(devices->cpu[i], &a);
            assert_memory_equal(a.out, expected, counts[c] * sizeof *expected);
        }
        memory_release(&memory);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(accumulated_integers_are_those_of_ref),
        cmocka_unit_test(values_are_rounded_to_the_nearest_multiple),
        cmocka_unit_test(what_does_not_fit_is_told_and_adds_nothing),
        cmocka_unit_test(integers_are_added_and_wrap_around),
        cmocka_unit_test(values_come_back_rounded_as_by_ref),
    };
    return cmocka_run_group_tests(tests, devices_create, devices_destroy);
}
