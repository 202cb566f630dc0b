// SPDX-License-Identifier: Apache-2.0
#include "harness.h"

#include <math.h>
#include <string.h>

static const size_t widths[] = {1, 31, 33, 1000, 50257};

enum { WIDTHS = sizeof widths / sizeof widths[0], ROWS = 5 };

static void check_argmax(struct devices *devices, float *x, size_t rows, size_t width)
{
    struct test_memory memory = {0};
    int32_t *expected = memory_ints(&memory, rows, 1), *got = memory_ints(&memory, rows, 1);
    devices->ref->ops->argmax(devices->ref, expected, f32(x), rows, width);
    for (size_t i = 0; i < devices->count; i++) {
        memset(got, 0xff, rows * sizeof *got);
        devices->cpu[i]->ops->argmax(devices->cpu[i], got, f32(x), rows, width);
        assert_memory_equal(got, expected, rows * sizeof *got);
    }
    memory_release(&memory);
}

static void argmax_is_that_of_ref(void **state)
{
    for (size_t w = 0; w < WIDTHS; w++) {
        struct test_memory memory = {.stream = w};
        float *x = memory_random(&memory, ROWS * widths[w]);
        check_argmax(*state, x, ROWS, widths[w]);
        for (size_t i = 0; i < ROWS * widths[w]; i++)
            x[i] = roundf(x[i]); // many ties
        check_argmax(*state, x, ROWS, widths[w]);
        memory_release(&memory);
    }
}

static void argmax_takes_the_lowest_index_on_ties(void **state)
{
    struct devices *devices = *state;
    struct test_memory memory = {0};
    float *x = memory_floats(&memory, 70);
    int32_t *out = memory_ints(&memory, 1, 1);
    for (size_t first = 0; first < 70; first++)
        for (size_t second = first + 1; second < 70; second += 3)
            for (size_t i = 0; i < devices->count; i++) {
                memset(x, 0, 70 * sizeof *x);
                x[first] = x[second] = 2;
                *out = -1;
                devices->cpu[i]->ops->argmax(devices->cpu[i], out, f32(x), 1, 70);
                assert_int_equal(*out, first);
            }
    memory_release(&memory);
}

static void argmax_survives_infinities_and_nan(void **state)
{
    float x[ROWS][33];
    for (size_t i = 0; i < 33; i++) {
        x[0][i] = NAN;
        x[1][i] = -INFINITY;
        x[2][i] = i == 32 ? -5 : -INFINITY;
        x[3][i] = i % 2 ? NAN : (float)i;
        x[4][i] = i == 7 ? INFINITY : 0;
    }
    struct test_memory memory = {0};
    check_argmax(*state, memory_copy(&memory, x[0], ROWS * 33), ROWS, 33);
    memory_release(&memory);
}

static void half_logits_work(void **state)
{
    struct devices *devices = *state;
    struct test_memory memory = {0};
    struct tensor logits = memory_tensor(&memory, DTYPE_BF16, 2 * 33);
    int32_t *expected = memory_ints(&memory, 2, 1), *got = memory_ints(&memory, 2, 1);
    devices->ref->ops->argmax(devices->ref, expected, logits, 2, 33);
    for (size_t i = 0; i < devices->count; i++) {
        devices->cpu[i]->ops->argmax(devices->cpu[i], got, logits, 2, 33);
        assert_memory_equal(got, expected, 2 * sizeof *got);
    }
    memory_release(&memory);
}

static void check_sum_of_squares(struct devices *devices, struct tensor x, size_t count)
{
    struct test_memory memory = {0};
    double expected, first = 0, *got = memory_of(&memory, &first, 1, sizeof first);
    devices->ref->ops->sum_squares(devices->ref, &expected, x, count);
    for (size_t i = 0; i < devices->count; i++) {
        *got = -1;
        devices->cpu[i]->ops->sum_squares(devices->cpu[i], got, x, count);
        assert_true(fabs(*got - expected) <= 1e-12 * expected);
        first = i % 2 == 0 ? *got : first; // one thread, then three
        assert_memory_equal(got, &first, sizeof *got);
    }
    memory_release(&memory);
}

static void sum_of_squares_has_one_order(void **state)
{
    struct devices *devices = *state;
    static const size_t counts[] = {0, 1, 31, 33, 1000, 16384, 100003};
    for (size_t c = 0; c < sizeof counts / sizeof counts[0]; c++) {
        struct test_memory memory = {.stream = c};
        check_sum_of_squares(devices, memory_tensor(&memory, DTYPE_F32, counts[c]), counts[c]);
        check_sum_of_squares(devices, memory_tensor(&memory, DTYPE_BF16, counts[c]), counts[c]);
        memory_release(&memory);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(argmax_is_that_of_ref),
        cmocka_unit_test(argmax_takes_the_lowest_index_on_ties),
        cmocka_unit_test(argmax_survives_infinities_and_nan),
        cmocka_unit_test(half_logits_work),
        cmocka_unit_test(sum_of_squares_has_one_order),
    };
    return cmocka_run_group_tests(tests, devices_create, devices_destroy);
}
