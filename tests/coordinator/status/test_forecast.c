// SPDX-License-Identifier: Apache-2.0
#include "coordinator/status/curve.h"
#include "coordinator/status/forecast.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void nothing_is_known_before_something_is_done(void **state)
{
    (void)state;
    struct forecast forecast = {0};
    struct forecast_work work = {.left_weight = 10, .left_tasks = 1, .workers = 1};
    assert_true(forecast_remaining_seconds(&forecast, &work) < 0);
    forecast_observe(&forecast, 5, 1);
    assert_true(forecast_remaining_seconds(&forecast, &work) < 0);
    work.done_weight = 5;
    assert_true(forecast_remaining_seconds(&forecast, &work) == 10);
    work.workers = 0;
    assert_true(forecast_remaining_seconds(&forecast, &work) < 0);
    work.left_tasks = 0;
    assert_true(forecast_remaining_seconds(&forecast, &work) == 0);
}

static void workers_that_come_and_go_are_counted_while_they_are_there(void **state)
{
    (void)state;
    struct forecast forecast = {0};
    forecast_observe(&forecast, 10, 1); // 10 worker-seconds
    forecast_observe(&forecast, 20, 3); // and 30
    forecast_observe(&forecast, 20, 3);
    forecast_observe(&forecast, 15, 3); // time does not run backwards
    const struct forecast_work work = {
        .done_weight = 400, .left_weight = 600, .left_tasks = 6, .workers = 2};
    assert_true(fabs(forecast_remaining_seconds(&forecast, &work) - 30) < 1e-12);
}

static void a_limit_of_tasks_per_second_bounds_it_from_below(void **state)
{
    (void)state;
    struct forecast forecast = {0};
    forecast_observe(&forecast, 10, 2);
    const struct forecast_work work = {.done_weight = 1000,
                                       .left_weight = 100,
                                       .left_tasks = 50,
                                       .workers = 2,
                                       .tasks_per_second_per_worker = 5};
    assert_true(fabs(forecast_remaining_seconds(&forecast, &work) - 5) < 1e-12);
}

// Long tasks first, time in proportion to weight: a tenth of the tasks is more of the work.
static void a_mixed_run_is_forecast_from_its_first_tenth(void **state)
{
    (void)state;
    enum { TASKS = 1000 };
    double weights[TASKS], total = 0, done = 0;
    for (int t = 0; t < TASKS; t++)
        total += weights[t] = 4000.0 / (1 + t / 50); // 4000 down to 200
    struct forecast forecast = {0};
    for (int t = 0; t < TASKS / 10; t++)
        done += weights[t];
    forecast_observe(&forecast, done / 100 / 4, 4); // each of four workers: 100 per second
    const struct forecast_work work = {.done_weight = done,
                                       .left_weight = total - done,
                                       .left_tasks = TASKS - TASKS / 10,
                                       .workers = 4};
    const double end = done / 400 + forecast_remaining_seconds(&forecast, &work);
    assert_true(fabs(end / (total / 400) - 1) < 1e-9);
}

static void a_curve_keeps_its_span_in_bounded_memory(void **state)
{
    (void)state;
    struct status_curve curve = {0};
    for (int second = 0; second < 100000; second++) {
        status_curve_add(&curve, (struct status_sample){second, 2 * second, 3 * second});
        assert_true(curve.count <= STATUS_CURVE_SAMPLES);
    }
    assert_true(curve.count > STATUS_CURVE_SAMPLES / 2 - 2);
    for (size_t i = 0; i < curve.count; i++) {
        assert_true(curve.samples[i].tokens_per_second == 2 * curve.samples[i].seconds);
        if (i > 0)
            assert_true(curve.samples[i].seconds - curve.samples[i - 1].seconds <=
                        1.5 * curve.interval_seconds);
    }
    assert_true(curve.samples[curve.count - 1].seconds > 100000 - 2 * curve.interval_seconds);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_known_before_something_is_done),
        cmocka_unit_test(workers_that_come_and_go_are_counted_while_they_are_there),
        cmocka_unit_test(a_limit_of_tasks_per_second_bounds_it_from_below),
        cmocka_unit_test(a_mixed_run_is_forecast_from_its_first_tenth),
        cmocka_unit_test(a_curve_keeps_its_span_in_bounded_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
