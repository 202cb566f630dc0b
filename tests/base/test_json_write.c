// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/json.h"
#include "base/random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void write_sample(struct json_writer *w)
{
    json_begin_object(w);
    json_key(w, "a");
    json_begin_array(w);
    json_int(w, 1);
    json_bool(w, true);
    json_null(w);
    json_begin_object(w);
    json_end_object(w);
    json_begin_array(w);
    json_end_array(w);
    json_end_array(w);
    json_key(w, "b");
    json_text(w, "x");
    json_end_object(w);
}

static void one_line_is_compact(void **state)
{
    (void)state;
    struct strbuf out = {0};
    struct json_writer w = {.out = &out};
    write_sample(&w);
    assert_string_equal(out.bytes, "{\"a\":[1,true,null,{},[]],\"b\":\"x\"}");
    strbuf_release(&out);
}

static void bytes_that_are_not_utf8_become_question_marks(void **state)
{
    (void)state;
    struct strbuf out = {0};
    struct json_writer w = {.out = &out};
    json_text_repaired(&w, "a\xff\xc3\xa9\xe2\x82"
                           "b");
    assert_string_equal(out.bytes, "\"a?\xc3\xa9??b\"");
    strbuf_release(&out);
}

static void indentation_is_two_spaces_per_level(void **state)
{
    (void)state;
    struct strbuf out = {0};
    struct json_writer w = {.out = &out, .indent = 2};
    write_sample(&w);
    assert_string_equal(out.bytes, "{\n  \"a\": [\n    1,\n    true,\n    null,\n    {},\n    []\n"
                                   "  ],\n  \"b\": \"x\"\n}");
    strbuf_release(&out);
}

static void strings_are_escaped(void **state)
{
    (void)state;
    struct strbuf out = {0};
    struct json_writer w = {.out = &out};
    json_string(&w, "\"\\\b\f\n\r\t\0\x1F/\x7F\xE2\x82\xAC", 15 - 1);
    assert_string_equal(out.bytes, "\"\\\"\\\\\\b\\f\\n\\r\\t\\u0000\\u001f/\x7F\xE2\x82\xAC\"");
    strbuf_release(&out);
}

static void check_number(double value, const char *text)
{
    struct strbuf out = {0};
    struct json_writer w = {.out = &out};
    json_number(&w, value);
    if (text)
        assert_string_equal(out.bytes, text);
    double again = strtod(out.bytes, NULL);
    assert_memory_equal(&again, &value, sizeof(value));
    strbuf_release(&out);
}

static void numbers_are_short_and_read_back_equal(void **state)
{
    (void)state;
    check_number(0, "0");
    check_number(-0.0, "-0");
    check_number(0.1, "0.1");
    check_number(2e-5, "2e-05");
    check_number(1.0 / 3, "0.3333333333333333");
    check_number(0.1 + 0.2, "0.30000000000000004");
    check_number(1e300, "1e+300");
    check_number(5e-324, NULL);
    check_number(1.7976931348623157e308, "1.7976931348623157e+308");
    for (uint64_t i = 0; i < 20000; i++) {
        uint64_t bits = random_u64(1, 1, i);
        double value;
        memcpy(&value, &bits, sizeof(value));
        if (isfinite(value))
            check_number(value, NULL);
    }
}

static void numbers_without_a_form_are_null(void **state)
{
    (void)state;
    struct strbuf out = {0};
    struct json_writer w = {.out = &out};
    json_begin_array(&w);
    json_number(&w, NAN);
    json_number(&w, -INFINITY);
    json_end_array(&w);
    assert_string_equal(out.bytes, "[null,null]");
    strbuf_release(&out);
}

static void integers_are_written_whole(void **state)
{
    (void)state;
    struct strbuf out = {0};
    struct json_writer w = {.out = &out};
    json_begin_array(&w);
    json_int(&w, INT64_MIN);
    json_int(&w, INT64_MAX);
    json_end_array(&w);
    assert_string_equal(out.bytes, "[-9223372036854775808,9223372036854775807]");
    strbuf_release(&out);
}

static void json_that_is_there_already_is_one_item(void **state)
{
    (void)state;
    struct strbuf out = {0};
    struct json_writer w = {.out = &out};
    json_begin_object(&w);
    json_key(&w, "a");
    json_raw(&w, "{\"b\": 1}", 8);
    json_key(&w, "c");
    json_raw(&w, "[]", 2);
    json_end_object(&w);
    assert_string_equal(out.bytes, "{\"a\":{\"b\": 1},\"c\":[]}");
    strbuf_release(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_line_is_compact),
        cmocka_unit_test(indentation_is_two_spaces_per_level),
        cmocka_unit_test(strings_are_escaped),
        cmocka_unit_test(numbers_are_short_and_read_back_equal),
        cmocka_unit_test(numbers_without_a_form_are_null),
        cmocka_unit_test(integers_are_written_whole),
        cmocka_unit_test(bytes_that_are_not_utf8_become_question_marks),
        cmocka_unit_test(json_that_is_there_already_is_one_item),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
