// SPDX-License-Identifier: Apache-2.0
#include "datasets/answer_score.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>

static double f1(const char *answer, const char *expected)
{
    return answer_token_f1(answer, strlen(answer), expected, strlen(expected));
}

static bool exact(const char *answer, const char *expected)
{
    return answer_is_exact(answer, strlen(answer), expected, strlen(expected));
}

static void assert_near(double a, double b)
{
    if (fabs(a - b) > 1e-12)
        fail_msg("%.17g is not %.17g", a, b);
}

static void white_space_at_both_ends_does_not_count(void **state)
{
    (void)state;
    assert_true(exact(" 1912\n", "1912"));
    assert_true(exact("1912", "\t1912 "));
    assert_true(exact(" \n", ""));
    assert_false(exact("19 12", "1912"));
    assert_false(exact("1912.", "1912"));
    assert_false(exact("", "1912"));
    assert_false(exact("Nan", "nan"));
}

// What evaluate-v1.1.py of SQuAD computes for the same texts.
static void words_count_as_in_squad(void **state)
{
    (void)state;
    static const struct {
        const char *answer, *expected;
        double f1;
    } cases[] = {
        {"Nan Corrigle", "nan corrigle", 1},
        {"The lighthouse.", "a lighthouse", 1},
        {"in 1912", "1912", 2.0 / 3},
        {"red red blue", "red green", 0.4},       // P 1/3, R 1/2
        {"red red blue", "red red red", 2.0 / 3}, // twice in common
        {"U.S.A.", "usa", 1},
        {"well-known", "well known", 0},
        {"north\xc2\xa0harbour", "north harbour", 1}, // a no-break space is white space
        {"\xc3\x89TUDE", "\xc3\xa9tude", 1},
        {"yes", "no", 0},
        {"anthem", "them", 0},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        assert_near(f1(cases[i].answer, cases[i].expected), cases[i].f1);
        assert_near(f1(cases[i].expected, cases[i].answer), cases[i].f1);
    }
}

static void nothing_is_nothing(void **state)
{
    (void)state;
    assert_near(f1("", ""), 1);
    assert_near(f1("the", "A..."), 1); // no word is left of either
    assert_near(f1("", "one"), 0);
    assert_near(f1("one", ""), 0);
    assert_near(answer_token_f1(NULL, 0, "one", 3), 0);
}

static void any_bytes_are_compared(void **state)
{
    (void)state;
    assert_near(f1("\xff\xfe red", "red"), 2.0 / 3);
    assert_near(f1("\xc3", "\xc3"), 1);
    assert_near(answer_token_f1("a\0red\0blue", 10, "red blue", 8), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(white_space_at_both_ends_does_not_count),
        cmocka_unit_test(words_count_as_in_squad),
        cmocka_unit_test(nothing_is_nothing),
        cmocka_unit_test(any_bytes_are_compared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
