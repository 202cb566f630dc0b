// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/error.h"
#include "base/utf8.h"

#include <errno.h>
#include <string.h>

static void set_formats_and_returns_minus_one(void **state)
{
    (void)state;
    struct error err = {"old"};
    assert_int_equal(error_set(&err, "tensor '%s' has %d dimensions", "wte", 3), -1);
    assert_string_equal(err.text, "tensor 'wte' has 3 dimensions");
}

static void set_may_quote_the_old_text(void **state)
{
    (void)state;
    struct error err = {"inner"};
    error_set(&err, "outer (%s)", err.text);
    assert_string_equal(err.text, "outer (inner)");
}

static void errno_text_follows_in_lower_case(void **state)
{
    (void)state;
    struct error err = {""};
    assert_int_equal(error_set_errno(&err, ENOENT, "cannot open '%s'", "x.h5"), -1);
    assert_string_equal(err.text, "cannot open 'x.h5': no such file or directory");
}

static void prefixes_accumulate_outermost_first(void **state)
{
    (void)state;
    struct error err = {""};
    error_set(&err, "cause");
    error_prefix(&err, "reading '%s'", "a");
    assert_int_equal(error_prefix(&err, "job"), -1);
    assert_string_equal(err.text, "job: reading 'a': cause");
}

static void long_text_is_cut_between_characters(void **state)
{
    (void)state;
    char text[4000];
    for (size_t shift = 0; shift < 4; shift++) { // the cut falls on each byte of a character
        memset(text, 'x', shift);
        for (size_t i = shift; i + 3 < sizeof(text); i += 3)
            memcpy(text + i, "\xE2\x82\xAC", 4);
        struct error err = {""};
        error_set(&err, "%s", text);
        size_t length = strlen(err.text);
        assert_true(length > sizeof(err.text) - 8 && length < sizeof(err.text));
        assert_int_equal(utf8_valid_prefix(err.text, length), length);
        assert_memory_equal(err.text, text, length);
    }
}

static void long_prefix_keeps_the_text_bounded(void **state)
{
    (void)state;
    struct error err = {"cause"};
    for (int i = 0; i < 1000; i++)
        error_prefix(&err, "layer %d", i);
    assert_true(strlen(err.text) < sizeof(err.text));
    assert_memory_equal(err.text, "layer 999: layer 998: ", 22);
}

static void null_error_is_accepted(void **state)
{
    (void)state;
    assert_int_equal(error_set(NULL, "x"), -1);
    assert_int_equal(error_set_errno(NULL, EIO, "x"), -1);
    assert_int_equal(error_prefix(NULL, "x"), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(set_formats_and_returns_minus_one),
        cmocka_unit_test(set_may_quote_the_old_text),
        cmocka_unit_test(errno_text_follows_in_lower_case),
        cmocka_unit_test(prefixes_accumulate_outermost_first),
        cmocka_unit_test(long_text_is_cut_between_characters),
        cmocka_unit_test(long_prefix_keeps_the_text_bounded),
        cmocka_unit_test(null_error_is_accepted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
