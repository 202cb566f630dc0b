// SPDX-License-Identifier: Apache-2.0
// The part of cmocka's interface that our tests use, for machines without cmocka (MEMO_MINIMAL).
// A failed assertion jumps back to the runner; every test runs, and the group returns the number of
// those that failed. As with cmocka, tests include stdarg.h, stddef.h, stdint.h and setjmp.h first.
#ifndef MEMO_TESTS_MINIMAL_CMOCKA_H
#define MEMO_TESTS_MINIMAL_CMOCKA_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct CMUnitTest {
    const char *name;
    void (*test_func)(void **state);
    int (*setup_func)(void **state);
    int (*teardown_func)(void **state);
    void *initial_state;
};

enum minimal_outcome { MINIMAL_PASSED, MINIMAL_FAILED, MINIMAL_SKIPPED };

// Weak, so that all files of a test binary share one.
__attribute__((weak)) jmp_buf minimal_runner;

#define cmocka_unit_test(function)                                                                 \
    {                                                                                              \
#function, function, NULL, NULL, NULL                                                      \
    }
#define cmocka_unit_test_setup_teardown(function, setup, teardown)                                 \
    {                                                                                              \
#function, function, setup, teardown, NULL                                                 \
    }
#define cmocka_run_group_tests(tests, group_setup, group_teardown)                                 \
    minimal_run_group(#tests, tests, sizeof(tests) / sizeof((tests)[0]), group_setup,              \
                      group_teardown)

#define skip() longjmp(minimal_runner, MINIMAL_SKIPPED)
#define fail() minimal_fail(__FILE__, __LINE__, "fail()")
#define fail_msg(...) minimal_fail(__FILE__, __LINE__, __VA_ARGS__)
#define assert_true(value) minimal_assert_true(!!(value), #value, __FILE__, __LINE__)
#define assert_false(value) minimal_assert_true(!(value), "!(" #value ")", __FILE__, __LINE__)
#define assert_non_null(value) minimal_assert_true((value) != NULL, #value, __FILE__, __LINE__)
#define assert_null(value) minimal_assert_true((value) == NULL, "!(" #value ")", __FILE__, __LINE__)
#define assert_int_equal(a, b)                                                                     \
    minimal_assert_int((intmax_t)(a), (intmax_t)(b), 1, __FILE__, __LINE__)
#define assert_int_not_equal(a, b)                                                                 \
    minimal_assert_int((intmax_t)(a), (intmax_t)(b), 0, __FILE__, __LINE__)
#define assert_string_equal(a, b) minimal_assert_string(a, b, __FILE__, __LINE__)
#define assert_memory_equal(a, b, bytes) minimal_assert_memory(a, b, bytes, __FILE__, __LINE__)

__attribute__((format(printf, 3, 4))) __attribute__((noreturn)) static inline void minimal_fail(
    const char *file, int line, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr, "\n%s:%d: error: Failure!\n", file, line);
    longjmp(minimal_runner, MINIMAL_FAILED);
}

static inline void minimal_assert_true(int holds, const char *what, const char *file, int line)
{
    if (!holds)
        minimal_fail(file, line, "%s", what);
}

static inline void minimal_assert_int(intmax_t a, intmax_t b, int equal, const char *file, int line)
{
    if ((a == b) != equal)
        minimal_fail(file, line, "%jd %s %jd", a, equal ? "!=" : "==", b);
}

static inline void minimal_assert_string(const char *a, const char *b, const char *file, int line)
{
    if (strcmp(a, b) != 0)
        minimal_fail(file, line, "\"%s\" != \"%s\"", a, b);
}

static inline void minimal_assert_memory(const void *a, const void *b, size_t bytes,
                                         const char *file, int line)
{
    const unsigned char *x = (const unsigned char *)a, *y = (const unsigned char *)b;
    for (size_t i = 0; i < bytes; i++)
        if (x[i] != y[i])
            minimal_fail(file, line, "byte %zu of %zu: 0x%02x != 0x%02x", i, bytes, x[i], y[i]);
}

// Setup, test and teardown, each of which may fail by assertion; teardown runs in any case.
static inline enum minimal_outcome minimal_run_test(const struct CMUnitTest *test, void *state)
{
    void *volatile kept = test->initial_state ? test->initial_state : state;
    volatile enum minimal_outcome outcome = MINIMAL_PASSED;
    void *current = kept;
    int jumped = setjmp(minimal_runner);
    if (jumped) {
        outcome = (enum minimal_outcome)jumped;
    } else if (test->setup_func && test->setup_func(&current)) {
        outcome = MINIMAL_FAILED;
    } else {
        kept = current;
        test->test_func(&current);
        kept = current;
    }
    current = kept;
    jumped = setjmp(minimal_runner);
    if (jumped || (test->teardown_func && test->teardown_func(&current)))
        outcome = MINIMAL_FAILED;
    return outcome;
}

static inline int minimal_run_group(const char *name, const struct CMUnitTest *tests, size_t count,
                                    int (*setup)(void **state), int (*teardown)(void **state))
{
    static const char *const words[] = {"[       OK ]", "[  FAILED  ]", "[  SKIPPED ]"};
    size_t totals[3] = {0};
    void *state = NULL;
    fprintf(stderr, "[==========] Running %zu test(s).\n", count);
    if (setup && setup(&state)) {
        fprintf(stderr, "[  FAILED  ] GROUP SETUP %s\n", name);
        return (int)count;
    }
    for (size_t i = 0; i < count; i++) {
        fprintf(stderr, "[ RUN      ] %s\n", tests[i].name);
        enum minimal_outcome outcome = minimal_run_test(&tests[i], state);
        fprintf(stderr, "%s %s\n", words[outcome], tests[i].name);
        totals[outcome]++;
    }
    int teardown_failed = teardown && teardown(&state);
    if (teardown_failed)
        fprintf(stderr, "[  FAILED  ] GROUP TEARDOWN %s\n", name);
    fprintf(stderr, "[==========] %zu test(s) run.\n[  PASSED  ] %zu test(s).\n", count,
            totals[MINIMAL_PASSED]);
    if (totals[MINIMAL_SKIPPED])
        fprintf(stderr, "[  SKIPPED ] %zu test(s).\n", totals[MINIMAL_SKIPPED]);
    if (totals[MINIMAL_FAILED])
        fprintf(stderr, "[  FAILED  ] %zu test(s).\n", totals[MINIMAL_FAILED]);
    return (int)totals[MINIMAL_FAILED] + teardown_failed;
}

#endif
