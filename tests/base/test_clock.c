// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"

#include <math.h>
#include <string.h>
#include <time.h>

static void time_does_not_run_backwards(void **state)
{
    (void)state;
    int64_t before_ns = clock_ns();
    double before = clock_seconds();
    for (int i = 0; i < 1000; i++) {
        int64_t now_ns = clock_ns();
        double now = clock_seconds();
        assert_true(now_ns >= before_ns && now >= before);
        before_ns = now_ns;
        before = now;
    }
}

static void seconds_and_nanoseconds_agree(void **state)
{
    (void)state;
    int64_t start_ns = clock_ns();
    double start = clock_seconds();
    struct timespec pause = {.tv_nsec = 20000000};
    nanosleep(&pause, NULL);
    double seconds = clock_seconds() - start;
    double from_ns = (double)(clock_ns() - start_ns) * 1e-9;
    assert_true(seconds >= 0.019 && from_ns >= seconds - 1e-6 && from_ns < seconds + 1);
}

static void utc_reads_back_as_now(void **state)
{
    (void)state;
    char text[24];
    clock_format_utc(text);
    assert_int_equal(strlen(text), 20);
    struct tm parsed = {0};
    char *end = strptime(text, "%Y-%m-%dT%H:%M:%SZ", &parsed);
    assert_true(end == text + 20);
    time_t difference = time(NULL) - timegm(&parsed);
    assert_true(difference >= 0 && difference <= 5);
}

static void durations_are_readable(void **state)
{
    (void)state;
    static const struct {
        double seconds;
        const char *text;
    } cases[] = {
        {-1, "0.0 s"},         {0, "0.0 s"},      {12.34, "12.3 s"},  {59.94, "59.9 s"},
        {59.96, "1m00s"},      {200, "3m20s"},    {3599.4, "59m59s"}, {3599.6, "1h00m"},
        {3720, "1h02m"},       {86399, "24h00m"}, {1e6, "277h47m"},   {NAN, "unknown"},
        {INFINITY, "unknown"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char text[32];
        clock_format_duration(cases[i].seconds, text, sizeof(text));
        assert_string_equal(text, cases[i].text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(time_does_not_run_backwards),
        cmocka_unit_test(seconds_and_nanoseconds_agree),
        cmocka_unit_test(utc_reads_back_as_now),
        cmocka_unit_test(durations_are_readable),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
