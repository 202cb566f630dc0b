// SPDX-License-Identifier: Apache-2.0
#include "worker/http/retry.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static const struct retry_policy policy = {.base_ms = 500, .cap_ms = 60000, .seed = 3};

// Uniform between 0 and the bound: 4,000 draws come near both ends and have its middle as mean.
static void check_uniform_below(uint32_t failures, uint64_t bound)
{
    uint64_t least = UINT64_MAX, most = 0, sum = 0;
    for (uint64_t stream = 0; stream < 4000; stream++) {
        const uint64_t delay = retry_delay_ms(&policy, stream, failures, RETRY_AFTER_NONE);
        least = delay < least ? delay : least;
        most = delay > most ? delay : most;
        sum += delay;
    }
    assert_true(most < bound);
    assert_true(most > bound * 99 / 100 && least < bound / 100);
    assert_in_range(sum / 4000, bound * 47 / 100, bound * 53 / 100);
}

static void delays_are_full_jitter_below_a_bound_that_doubles(void **state)
{
    (void)state;
    check_uniform_below(1, 500);
    check_uniform_below(2, 1000);
    check_uniform_below(5, 8000);
    check_uniform_below(7, 32000);
    check_uniform_below(8, 60000);
    check_uniform_below(100, 60000);
}

static void delays_depend_on_seed_stream_and_failures_alone(void **state)
{
    (void)state;
    struct retry_policy other = policy;
    other.seed = 4;
    const uint64_t delay = retry_delay_ms(&policy, 1, 6, RETRY_AFTER_NONE);
    assert_int_equal(retry_delay_ms(&policy, 1, 6, RETRY_AFTER_NONE), delay);
    assert_int_not_equal(retry_delay_ms(&policy, 2, 6, RETRY_AFTER_NONE), delay);
    assert_int_not_equal(retry_delay_ms(&other, 1, 6, RETRY_AFTER_NONE), delay);
}

static void retry_after_is_the_least_and_the_cap_the_most_that_it_can_say(void **state)
{
    (void)state;
    for (uint64_t stream = 0; stream < 1000; stream++) {
        assert_in_range(retry_delay_ms(&policy, stream, 1, 7000), 7000, 7499);
        assert_in_range(retry_delay_ms(&policy, stream, 1, INT64_MAX), 60000, 60499);
        assert_in_range(retry_delay_ms(&policy, stream, 1, 0), 0, 499);
        const uint64_t backoff = retry_delay_ms(&policy, stream, 8, RETRY_AFTER_NONE);
        const uint64_t told = retry_delay_ms(&policy, stream, 8, 2000);
        assert_true(told >= backoff && told >= 2000);
    }
}

static int64_t parse(const char *value)
{
    return retry_after_parse(value, strlen(value), 784111700); // Sun, 06 Nov 1994 08:48:20 GMT
}

static void retry_after_is_seconds_or_a_date(void **state)
{
    (void)state;
    assert_int_equal(parse("0"), 0);
    assert_int_equal(parse("120"), 120000);
    assert_int_equal(parse(" 3\t\r\n"), 3000);
    assert_int_equal(parse("Sun, 06 Nov 1994 08:49:37 GMT"), 77000);
    assert_int_equal(parse("Sun, 06 Nov 1994 08:48:20 GMT"), 0);
    assert_int_equal(parse("Sat, 05 Nov 1994 08:49:37 GMT"), 0);
    assert_int_equal(parse("Thu, 29 Feb 1996 00:00:00 GMT"), 41440300000);
    assert_int_equal(parse("99999999999999999999999999"), 1000000000000);
    assert_int_equal(parse("Fri, 31 Dec 9999 23:59:59 GMT"), 1000000000000);
}

static void what_is_neither_is_none(void **state)
{
    (void)state;
    static const char *const values[] = {"",
                                         " ",
                                         "-1",
                                         "1.5",
                                         "soon",
                                         "1 2",
                                         "Sunday, 06-Nov-94 08:49:37 GMT",
                                         "Sun Nov  6 08:49:37 1994",
                                         "Sun, 06 Now 1994 08:49:37 GMT",
                                         "Sun, 06 ovD 1994 08:49:37 GMT",
                                         "Sun, 06 Nov 1994 08:49:37 CET",
                                         "Sun, 06 Nov 1994 24:49:37 GMT",
                                         "Sun, 00 Nov 1994 08:49:37 GMT",
                                         "Sun, 06 Nov 1969 08:49:37 GMT",
                                         "Sun, 06 Nov 1994 08:61:37 GMT",
                                         "Sun, 06 Nov 1994 08:49:37 GM"};
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++)
        if (parse(values[i]) != RETRY_AFTER_NONE)
            fail_msg("'%s'", values[i]);
    assert_int_equal(retry_after_parse("1\0002", 3, 0), RETRY_AFTER_NONE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(delays_are_full_jitter_below_a_bound_that_doubles),
        cmocka_unit_test(delays_depend_on_seed_stream_and_failures_alone),
        cmocka_unit_test(retry_after_is_the_least_and_the_cap_the_most_that_it_can_say),
        cmocka_unit_test(retry_after_is_seconds_or_a_date),
        cmocka_unit_test(what_is_neither_is_none),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
