// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/json.h"

#include <stdlib.h>
#include <string.h>

struct fixture {
    struct arena arena;
    struct error err;
};

static int setup(void **state)
{
    *state = calloc(1, sizeof(struct fixture));
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    arena_release(&f->arena);
    free(f);
    return 0;
}

// Parses a copy that ends where the text ends, so that a sanitizer sees every read beyond it.
static const struct json *parse_bytes(struct fixture *f, const char *bytes, size_t length)
{
    char *copy = malloc(length ? length : 1);
    memcpy(copy, bytes, length);
    const struct json *root = NULL;
    f->err.text[0] = '\0';
    int rc = json_parse(&f->arena, copy, length, &root, &f->err);
    free(copy);
    assert_int_equal(rc, root ? 0 : -1);
    assert_int_equal(f->err.text[0] == '\0', rc == 0);
    return root;
}

static const struct json *parse(struct fixture *f, const char *text)
{
    return parse_bytes(f, text, strlen(text));
}

static void literals_are_read(void **state)
{
    assert_int_equal(parse(*state, "null")->type, JSON_NULL);
    assert_int_equal(parse(*state, " true\r\n")->boolean, true);
    assert_int_equal(parse(*state, "\tfalse ")->boolean, false);
    static const char *const bad[] = {"", " ", "tru", "True", "nullx", "true false", "nul", "#"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_null(parse(*state, bad[i]));
}

static void integers_are_exact_to_64_bits(void **state)
{
    static const struct {
        const char *text;
        bool is_integer;
        int64_t integer;
        double number;
    } cases[] = {
        {"0", true, 0, 0.0},
        {"-1", true, -1, -1.0},
        {"9007199254740993", true, 9007199254740993, 9007199254740992.0},
        {"9223372036854775807", true, INT64_MAX, 9223372036854775807.0},
        {"-9223372036854775808", true, INT64_MIN, -9223372036854775808.0},
        {"9223372036854775808", false, 0, 9223372036854775808.0},
        {"-9223372036854775809", false, 0, -9223372036854775808.0},
        {"1.0", false, 0, 1.0},
        {"1e3", false, 0, 1000.0},
        {"-2.5E-3", false, 0, -0.0025},
        {"1e-400", false, 0, 0.0},
        {"0.1000000000000000055511151231257827021181583404541015625000000000000001", false, 0, 0.1},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const struct json *value = parse(*state, cases[i].text);
        assert_non_null(value);
        assert_int_equal(value->is_integer, cases[i].is_integer);
        if (value->is_integer)
            assert_true(value->integer == cases[i].integer);
        assert_true(value->number == cases[i].number);
    }
}

static void malformed_numbers_are_rejected(void **state)
{
    static const char *const bad[] = {"-",        "+1",  ".5",  "1.",    "01",     "-01",
                                      "1e",       "1e+", "0x1", "1e400", "-1e400", "NaN",
                                      "Infinity", "1_0", "--1", "1.e2"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_null(parse(*state, bad[i]));
}

static void string_escapes_are_resolved(void **state)
{
    const struct json *value =
        parse(*state, "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0041\\u00e9\\u20AC\\ud83d\\ude00\\u0000x\"");
    static const char wanted[] = "\"\\/\b\f\n\r\tA\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80\0x";
    assert_int_equal(value->length, sizeof(wanted) - 1);
    assert_memory_equal(value->string, wanted, sizeof(wanted));
}

static void bad_strings_are_rejected(void **state)
{
    static const char *const bad[] = {
        "\"",
        "\"abc",
        "\"\\",
        "\"\\\"",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\u12G4\"",
        "\"\\ud800\"",
        "\"\\udc00\"",
        "\"\\ud800\\u0041\"",
        "\"\\ud800x\"",
        "\"a\nb\"",
        "\"\x01\"",
        "\"\xFF\"",
        "\"\xC0\x80\"",
        "\"\xED\xA0\x80\"",
        "\"\\ud800\\",
        "\"\\ud800\\udc",
        "\"\\\xC3\xA9\"",
        "'a'",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_null(parse(*state, bad[i]));
    assert_null(parse(*state, "\"\\ud800\\ud800\""));
}

static void raw_control_characters_are_rejected(void **state)
{
    char text[] = "\"a?b\"";
    for (char c = 0; c < 0x20; c++) {
        text[2] = c;
        assert_null(parse_bytes(*state, text, 5));
    }
    text[2] = ' ';
    assert_string_equal(parse_bytes(*state, text, 5)->string, "a b");
}

static void containers_keep_the_order_of_the_file(void **state)
{
    const struct json *root = parse(*state, "{\"b\":[1,[],{}],\"a\":{\"x\":\"y\"} , \"\":null}");
    assert_int_equal(root->type, JSON_OBJECT);
    assert_int_equal(root->length, 3);
    assert_string_equal(root->keys[0], "b");
    assert_string_equal(root->keys[1], "a");
    assert_string_equal(root->keys[2], "");
    assert_int_equal(root->key_lengths[2], 0);
    assert_int_equal(root->items[0].length, 3);
    assert_int_equal(root->items[0].items[1].type, JSON_ARRAY);
    assert_int_equal(root->items[0].items[2].type, JSON_OBJECT);
    assert_string_equal(root->items[1].items[0].string, "y");
}

static void bad_containers_are_rejected(void **state)
{
    static const char *const bad[] = {"[",      "]",       "[1",        "[1,",        "[1,]",
                                      "[,1]",   "[1 2]",   "[1}",       "{",          "{]",
                                      "{\"a\"", "{\"a\":", "{\"a\":1",  "{\"a\":1,",  "{\"a\":1,}",
                                      "{a:1}",  "{1:1}",   "{\"a\" 1}", "{\"a\"::1}", "{,}",
                                      "[]]",    "{}[]",    "[1],"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_null(parse(*state, bad[i]));
}

static void errors_name_byte_and_line(void **state)
{
    struct fixture *f = *state;
    assert_null(parse(f, "{\n  \"a\": 1,\n  \"b\" 2\n}"));
    assert_string_equal(f->err.text,
                        "not valid JSON at byte 18 (line 3): expected ':' after a key");
    assert_null(parse(f, "[1, 1e999]"));
    assert_string_equal(f->err.text, "not valid JSON at byte 4 (line 1): the number is beyond the "
                                     "range of a double");
}

static void duplicate_keys_are_kept(void **state)
{
    const struct json *root = parse(*state, "{\"a\":1,\"b\":2,\"a\":3}");
    assert_int_equal(root->length, 3);
    assert_int_equal(root->items[0].integer, 1);
    assert_int_equal(json_get(root, "a")->integer, 3);
}

static void depth_is_limited(void **state)
{
    struct fixture *f = *state;
    static char text[100000];
    memset(text, '[', JSON_MAX_DEPTH);
    memset(text + JSON_MAX_DEPTH, ']', JSON_MAX_DEPTH);
    assert_non_null(parse_bytes(f, text, 2 * JSON_MAX_DEPTH));
    memset(text, '[', JSON_MAX_DEPTH + 1);
    memset(text + JSON_MAX_DEPTH + 1, ']', JSON_MAX_DEPTH + 1);
    assert_null(parse_bytes(f, text, 2 * JSON_MAX_DEPTH + 2));
    memset(text, '[', sizeof(text));
    assert_null(parse_bytes(f, text, sizeof(text)));
    assert_non_null(strstr(f->err.text, "nested too deeply"));
}

static void siblings_do_not_add_depth(void **state)
{
    struct strbuf text = {0};
    strbuf_addc(&text, '[');
    for (int i = 0; i < 1000; i++)
        strbuf_adds(&text, i ? ",[{}]" : "[{}]");
    strbuf_addc(&text, ']');
    const struct json *root = parse_bytes(*state, text.bytes, text.length);
    strbuf_release(&text);
    assert_non_null(root);
    assert_int_equal(root->length, 1000);
}

static void every_truncation_is_rejected(void **state)
{
    static const char text[] = "{\"a\": [1, -2.5e3, \"x\\u00e9\\ud83d\\ude00y\", true, null], "
                               "\"\xE2\x82\xAC\": {\"b\": false}}";
    size_t length = sizeof(text) - 1;
    assert_non_null(parse_bytes(*state, text, length));
    for (size_t i = 0; i < length; i++)
        assert_null(parse_bytes(*state, text, i));
}

// A tokenizer's vocabulary: one object of 151,000 members. A quadratic reader would need minutes.
static void large_objects_take_linear_time(void **state)
{
    struct fixture *f = *state;
    struct strbuf text = {0};
    strbuf_addc(&text, '{');
    for (int i = 0; i < 151000; i++)
        strbuf_addf(&text, "%s\"token \\u0120%d\": %d", i ? ",\n" : "", i, i);
    strbuf_addc(&text, '}');
    double start = clock_seconds();
    const struct json *root = parse_bytes(f, text.bytes, text.length);
    assert_true(clock_seconds() - start < 10);
    assert_int_equal(root->length, 151000);
    for (size_t i = 0; i < root->length; i++)
        assert_int_equal(root->items[i].integer, i);
    assert_string_equal(root->keys[150999], "token \xC4\xA0"
                                            "150999");
    strbuf_release(&text);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

// A copy that ends where the text ends, so that a sanitizer sees every read beyond it.
static enum json_next next_of(struct fixture *f, const char *text, size_t length, size_t *at,
                              const struct json **out)
{
    char *copy = malloc(length ? length : 1);
    memcpy(copy, text, length);
    const enum json_next next = json_parse_next(&f->arena, copy, length, at, out);
    free(copy);
    return next;
}

static void values_in_the_middle_of_text_are_read_one_by_one(void **state)
{
    const char *text = "  {\"a\":[1]}, \"b\" 12,true] rest";
    static const enum json_type types[] = {JSON_OBJECT, JSON_STRING, JSON_NUMBER, JSON_BOOL};
    static const size_t ends[] = {11, 16, 19, 24};
    size_t at = 0;
    for (size_t i = 0; i < 4; i++) {
        const struct json *value;
        assert_int_equal(next_of(*state, text, strlen(text), &at, &value), JSON_NEXT_VALUE);
        assert_int_equal(value->type, types[i]);
        assert_int_equal(at, ends[i]);
        at += text[at] == ',';
    }
    const struct json *none;
    assert_int_equal(next_of(*state, text, strlen(text), &at, &none), JSON_NEXT_MALFORMED);
    assert_int_equal(at, 24);
}

static void every_prefix_of_a_value_is_cut(void **state)
{
    static const char *const values[] = {
        "{\"a\": [1, -2.5e3, \"\\u00e9\\ud83d\\ude00\\n\", {}], \"b\" : null}",
        "\"M\xc3\xbcller\\\\\"",
        "[true,false,[null]]",
        "true",
        "-12.5E+3",
        "null"};
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        const size_t length = strlen(values[i]);
        const bool has_end = strchr("{[\"", values[i][0]) != NULL;
        const struct json *value;
        for (size_t n = 0; n <= length; n++) {
            size_t at = 0;
            assert_int_equal(next_of(*state, values[i], n, &at, &value),
                             n == length && has_end ? JSON_NEXT_VALUE : JSON_NEXT_CUT);
        }
    }
}

static void the_byte_that_cannot_be_there_is_named(void **state)
{
    static const struct {
        const char *text;
        size_t at;
    } cases[] = {{"x", 0},        {" nul]", 1},     {"trux", 0},   {"{\"a\" 1}", 5},
                 {"[1 2]", 3},    {"[01]", 2},      {"{'a'}", 1},  {"\"a\nb\"", 2},
                 {"\"\xff\"", 1}, {"\"ab\\x\"", 3}, {"1e999 ", 0}, {"[1,]", 3}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        size_t at = 0;
        const struct json *value;
        assert_int_equal(next_of(*state, cases[i].text, strlen(cases[i].text), &at, &value),
                         JSON_NEXT_MALFORMED);
        assert_int_equal(at, cases[i].at);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(literals_are_read),
        TEST(values_in_the_middle_of_text_are_read_one_by_one),
        TEST(every_prefix_of_a_value_is_cut),
        TEST(the_byte_that_cannot_be_there_is_named),
        TEST(integers_are_exact_to_64_bits),
        TEST(malformed_numbers_are_rejected),
        TEST(string_escapes_are_resolved),
        TEST(bad_strings_are_rejected),
        TEST(raw_control_characters_are_rejected),
        TEST(containers_keep_the_order_of_the_file),
        TEST(bad_containers_are_rejected),
        TEST(errors_name_byte_and_line),
        TEST(duplicate_keys_are_kept),
        TEST(depth_is_limited),
        TEST(siblings_do_not_add_depth),
        TEST(every_truncation_is_rejected),
        TEST(large_objects_take_linear_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
