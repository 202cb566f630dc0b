// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/json.h"

#include <string.h>

static const char document[] =
    "{\"text\": \"abc\", \"nul\": \"a\\u0000b\", \"count\": 31, \"large\": 1e6, \"half\": 0.5,"
    " \"huge\": 1e300, \"yes\": true, \"nothing\": null, \"list\": [1], \"object\": {\"text\": 1},"
    " \"count\": 33, \"a\\u0000b\": 7}";

struct fixture {
    struct arena arena;
    const struct json *root;
    struct error err;
};

static struct fixture fixture;

static int setup(void **state)
{
    fixture = (struct fixture){0};
    *state = &fixture;
    return json_parse(&fixture.arena, document, strlen(document), &fixture.root, &fixture.err);
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    arena_release(&f->arena);
    return 0;
}

static void get_finds_the_last_of_equal_keys(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(json_get(f->root, "count")->integer, 33);
    assert_null(json_get(f->root, "coun"));
    assert_null(json_get(f->root, "counts"));
    assert_null(json_get(f->root, "a")); // the key "a\0b" is another one
    assert_null(json_get(NULL, "count"));
    assert_null(json_get(json_get(f->root, "list"), "count"));
}

static void missing_and_null_keep_the_default(void **state)
{
    struct fixture *f = *state;
    static const char *const keys[] = {"absent", "nothing"};
    for (size_t i = 0; i < 2; i++) {
        const char *text = "default";
        int64_t integer = 5;
        double number = 1.5;
        bool flag = true;
        assert_int_equal(json_get_string(f->root, keys[i], &text, &f->err), 0);
        assert_int_equal(json_get_int(f->root, keys[i], 0, 1, &integer, &f->err), 0);
        assert_int_equal(json_get_number(f->root, keys[i], &number, &f->err), 0);
        assert_int_equal(json_get_bool(f->root, keys[i], &flag, &f->err), 0);
        assert_string_equal(text, "default");
        assert_int_equal(integer, 5);
        assert_true(number == 1.5 && flag);
    }
}

static void typed_values_are_read(void **state)
{
    struct fixture *f = *state;
    const char *text = NULL;
    int64_t count = 0, large = 0;
    double half = 0, whole = 0;
    bool yes = false;
    assert_int_equal(json_get_string(f->root, "text", &text, &f->err), 0);
    assert_int_equal(json_get_int(f->root, "count", 33, 33, &count, &f->err), 0);
    assert_int_equal(json_get_int(f->root, "large", 0, INT64_MAX, &large, &f->err), 0);
    assert_int_equal(json_get_number(f->root, "half", &half, &f->err), 0);
    assert_int_equal(json_get_number(f->root, "count", &whole, &f->err), 0);
    assert_int_equal(json_get_bool(f->root, "yes", &yes, &f->err), 0);
    assert_string_equal(text, "abc");
    assert_int_equal(count, 33);
    assert_int_equal(large, 1000000);
    assert_true(half == 0.5 && whole == 33 && yes);
}

static void wrong_types_name_key_and_types(void **state)
{
    struct fixture *f = *state;
    const char *text = "kept";
    int64_t integer = 5;
    double number = 1.5;
    bool flag = false;
    assert_int_equal(json_get_string(f->root, "list", &text, &f->err), -1);
    assert_string_equal(f->err.text, "'list' is an array, must be a string");
    assert_int_equal(json_get_int(f->root, "text", 0, 1, &integer, &f->err), -1);
    assert_string_equal(f->err.text, "'text' is a string, must be an integer");
    assert_int_equal(json_get_number(f->root, "object", &number, &f->err), -1);
    assert_string_equal(f->err.text, "'object' is an object, must be a number");
    assert_int_equal(json_get_bool(f->root, "count", &flag, &f->err), -1);
    assert_string_equal(f->err.text, "'count' is a number, must be true or false");
    assert_string_equal(text, "kept");
    assert_true(integer == 5 && number == 1.5 && !flag);
}

static void values_out_of_range_are_errors(void **state)
{
    struct fixture *f = *state;
    int64_t integer = 5;
    const char *text = "kept";
    assert_int_equal(json_get_int(f->root, "count", 0, 32, &integer, &f->err), -1);
    assert_string_equal(f->err.text, "'count' is 33, must be between 0 and 32");
    assert_int_equal(json_get_int(f->root, "half", 0, 32, &integer, &f->err), -1);
    assert_string_equal(f->err.text, "'half' is 0.5, must be an integer");
    assert_int_equal(json_get_int(f->root, "huge", 0, INT64_MAX, &integer, &f->err), -1);
    assert_int_equal(json_get_string(f->root, "nul", &text, &f->err), -1);
    assert_string_equal(f->err.text, "'nul' contains a NUL character");
    assert_int_equal(integer, 5);
    assert_string_equal(text, "kept");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(get_finds_the_last_of_equal_keys),
        TEST(missing_and_null_keep_the_default),
        TEST(typed_values_are_read),
        TEST(wrong_types_name_key_and_types),
        TEST(values_out_of_range_are_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
