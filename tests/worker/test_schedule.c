// SPDX-License-Identifier: Apache-2.0
#include "worker/train/schedule.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>

static void assert_near(double value, double expected)
{
    if (!(fabs(value - expected) <= 1e-12))
        fail_msg("%.15g, expected %.15g", value, expected);
}

static const enum schedule_kind kinds[] = {SCHEDULE_CONSTANT, SCHEDULE_COSINE, SCHEDULE_LINEAR};

static void warm_up_rises_linearly_to_the_peak(void **state)
{
    (void)state;
    for (size_t k = 0; k < 3; k++) {
        const struct schedule schedule = {kinds[k], 2.0, 4, 100};
        assert_near(schedule_rate(&schedule, 0), 0.5);
        assert_near(schedule_rate(&schedule, 1), 1.0);
        assert_near(schedule_rate(&schedule, 2), 1.5);
        assert_near(schedule_rate(&schedule, 3), 2.0);
        assert_near(schedule_rate(&schedule, 4), 2.0); // the first step after it
    }
}

static void without_warm_up_the_first_step_has_the_peak(void **state)
{
    (void)state;
    for (size_t k = 0; k < 3; k++) {
        const struct schedule schedule = {kinds[k], 3.0, 0, 10};
        assert_near(schedule_rate(&schedule, 0), 3.0);
    }
}

static void constant_stays(void **state)
{
    (void)state;
    const struct schedule schedule = {SCHEDULE_CONSTANT, 2.0, 5, 1000};
    for (size_t step = 5; step < 1000; step++)
        assert_near(schedule_rate(&schedule, step), 2.0);
}

static void linear_falls_to_zero_at_the_end(void **state)
{
    (void)state;
    const struct schedule schedule = {SCHEDULE_LINEAR, 2.0, 10, 110};
    assert_near(schedule_rate(&schedule, 60), 1.0);
    assert_near(schedule_rate(&schedule, 109), 0.02);
    assert_near(schedule_rate(&schedule, 110), 0.0);
    assert_near(schedule_rate(&schedule, 500), 0.0); // never below
}

static void cosine_falls_to_zero_at_the_end(void **state)
{
    (void)state;
    const struct schedule schedule = {SCHEDULE_COSINE, 2.0, 10, 110};
    assert_near(schedule_rate(&schedule, 60), 1.0);
    assert_near(schedule_rate(&schedule, 35), 1.0 + sqrt(0.5));
    assert_near(schedule_rate(&schedule, 85), 1.0 - sqrt(0.5));
    assert_near(schedule_rate(&schedule, 110), 0.0);
    assert_near(schedule_rate(&schedule, 500), 0.0);
    for (size_t step = 11; step < 110; step++)
        assert_true(schedule_rate(&schedule, step) < schedule_rate(&schedule, step - 1));
}

static void a_run_shorter_than_its_warm_up_only_rises(void **state)
{
    (void)state;
    for (size_t k = 0; k < 3; k++) {
        const struct schedule schedule = {kinds[k], 1.0, 1, 1};
        assert_near(schedule_rate(&schedule, 0), 1.0);
        assert_near(schedule_rate(&schedule, 1), 1.0);
    }
}

static void kinds_are_known_by_name(void **state)
{
    (void)state;
    static const char *const names[] = {"constant", "cosine", "linear"};
    for (size_t k = 0; k < 3; k++) {
        struct error err;
        enum schedule_kind kind;
        assert_int_equal(schedule_parse_kind(names[k], &kind, &err), 0);
        assert_int_equal(kind, kinds[k]);
    }
}

static void other_names_are_refused(void **state)
{
    (void)state;
    static const char *const names[] = {"", "Cosine", "cosin", "cosine ", "constant|cosine"};
    for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++) {
        struct error err;
        enum schedule_kind kind;
        assert_int_equal(schedule_parse_kind(names[i], &kind, &err), -1);
        assert_non_null(strstr(err.text, "use one of constant|cosine|linear"));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(warm_up_rises_linearly_to_the_peak),
        cmocka_unit_test(without_warm_up_the_first_step_has_the_peak),
        cmocka_unit_test(constant_stays),
        cmocka_unit_test(linear_falls_to_zero_at_the_end),
        cmocka_unit_test(cosine_falls_to_zero_at_the_end),
        cmocka_unit_test(a_run_shorter_than_its_warm_up_only_rises),
        cmocka_unit_test(kinds_are_known_by_name),
        cmocka_unit_test(other_names_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
