// SPDX-License-Identifier: Apache-2.0
#include "base/time_limit.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static void job_without_limit_is_never_near_it(void **state)
{
    (void)state;
    struct time_limit limit = time_limit_after(100, 0);
    time_limit_observe(&limit, 1e9);
    assert_false(time_limit_is_near(&limit, 1e12));
}

static void margin_follows_the_longest_observation(void **state)
{
    (void)state;
    struct time_limit limit = time_limit_after(1000, 600);
    const double end = 1600 - TIME_LIMIT_END_SECONDS;
    assert_false(time_limit_is_near(&limit, end - 1));
    assert_true(time_limit_is_near(&limit, end));
    time_limit_observe(&limit, 50);
    time_limit_observe(&limit, 20);
    assert_false(time_limit_is_near(&limit, end - 50 * TIME_LIMIT_FACTOR - 1));
    assert_true(time_limit_is_near(&limit, end - 50 * TIME_LIMIT_FACTOR));
}

static void limit_that_is_too_short_is_near_at_once(void **state)
{
    (void)state;
    const struct time_limit limit = time_limit_after(5, TIME_LIMIT_END_SECONDS);
    assert_true(time_limit_is_near(&limit, 5));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(job_without_limit_is_never_near_it),
        cmocka_unit_test(margin_follows_the_longest_observation),
        cmocka_unit_test(limit_that_is_too_short_is_near_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
