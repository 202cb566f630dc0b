// SPDX-License-Identifier: Apache-2.0
// Rates on a busy machine cannot be asserted, only their order of magnitude.
#include "harness.h"

#include "kernels/bench.h"

#include <string.h>

static void rates_have_the_order_of_the_limit(void **state)
{
    struct devices *devices = *state;
    struct error err;
    struct bench_limits limits;
    assert_int_equal(bench_limits(devices->cpu[0], &limits, &err), 0);
    assert_true(limits.flops > 1e8 && limits.read_bytes > 1e8);
    for (enum bench_pass pass = BENCH_FORWARD; pass <= BENCH_BACKWARD_WEIGHT; pass++) {
        struct bench_linear shape = {pass, DTYPE_F32, 64, 128, 96};
        double flops = 0;
        assert_int_equal(bench_linear(devices->cpu[0], &shape, &flops, &err), 0);
        assert_true(flops > limits.flops / 1e4 && flops < limits.flops * 20);
    }
}

static void other_devices_are_measured_by_their_operations(void **state)
{
    struct devices *devices = *state;
    struct error err;
    struct bench_limits limits;
    assert_int_equal(bench_limits(devices->ref, &limits, &err), 0);
    assert_true(limits.flops > 1e6 && limits.dot_flops > 1e6 && limits.read_bytes > 1e8);
}

static void every_operation_has_a_rate(void **state)
{
    struct devices *devices = *state;
    struct error err;
    static const struct bench_sizes sizes = {64, 32, 4, 2, 8, 48, 99, 3, 96};
    struct bench_operation operations[BENCH_OPERATIONS];
    assert_int_equal(bench_operations(devices->cpu[0], &sizes, operations, &err), 0);
    for (size_t i = 0; i < BENCH_OPERATIONS; i++)
        if (!(operations[i].rate > 1e6 && operations[i].amount > 0))
            fail_msg("%s: %g at %g a second", operations[i].name, operations[i].amount,
                     operations[i].rate);
}

static void a_layers_weight_is_read_at_some_rate(void **state)
{
    struct devices *devices = *state;
    struct error err;
    for (int codes = 0; codes < 2; codes++) {
        const struct bench_product product = {2, 64, 32, codes, PRODUCTS_FASTEST};
        double rate;
        assert_int_equal(bench_product(devices->cpu[0], &product, &rate, &err), 0);
        assert_true(rate > 1e6);
    }
}

static void impossible_shape_is_an_error(void **state)
{
    struct devices *devices = *state;
    struct error err;
    double flops;
    struct bench_linear shape = {BENCH_FORWARD, DTYPE_F32, 1, SIZE_MAX / sizeof(float), 1};
    assert_int_equal(bench_linear(devices->cpu[0], &shape, &flops, &err), -1);
    assert_non_null(strstr(err.text, "cannot allocate"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rates_have_the_order_of_the_limit),
        cmocka_unit_test(other_devices_are_measured_by_their_operations),
        cmocka_unit_test(every_operation_has_a_rate),
        cmocka_unit_test(a_layers_weight_is_read_at_some_rate),
        cmocka_unit_test(impossible_shape_is_an_error),
    };
    return cmocka_run_group_tests(tests, devices_create, devices_destroy);
}
