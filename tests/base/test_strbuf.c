// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/strbuf.h"

#include <stdlib.h>
#include <string.h>

static void pieces_are_appended(void **state)
{
    (void)state;
    struct strbuf buf = {0};
    strbuf_adds(&buf, "ab");
    strbuf_addc(&buf, 'c');
    strbuf_add(&buf, "d\0e", 3);
    strbuf_addf(&buf, "%d%s", 31, "f");
    assert_int_equal(buf.length, 9);
    assert_memory_equal(buf.bytes, "abcd\0e31f\0", 10);
    strbuf_release(&buf);
    assert_null(buf.bytes);
}

static void every_length_ends_with_a_nul(void **state)
{
    (void)state;
    struct strbuf buf = {0};
    for (size_t i = 0; i < 1000; i++) {
        strbuf_addc(&buf, (char)('a' + i % 26));
        assert_int_equal(buf.length, i + 1);
        assert_true(buf.capacity > buf.length);
        assert_int_equal(buf.bytes[buf.length], 0);
    }
    for (size_t i = 0; i < 1000; i++)
        assert_int_equal(buf.bytes[i], 'a' + i % 26);
    strbuf_release(&buf);
}

static void formatting_grows_the_buffer(void **state)
{
    (void)state;
    struct strbuf buf = {0};
    strbuf_addf(&buf, "%s%*d", "", 1000, 7);
    strbuf_addf(&buf, "%s", "");
    assert_int_equal(buf.length, 1000);
    assert_int_equal(buf.bytes[999], '7');
    strbuf_release(&buf);
}

static void reset_keeps_memory(void **state)
{
    (void)state;
    struct strbuf buf = {0};
    strbuf_reset(&buf);
    assert_null(buf.bytes);
    strbuf_reserve(&buf, 1000);
    assert_string_equal(buf.bytes, "");
    char *before = buf.bytes;
    strbuf_adds(&buf, "text");
    strbuf_reset(&buf);
    assert_int_equal(buf.length, 0);
    assert_string_equal(buf.bytes, "");
    assert_true(buf.bytes == before);
    strbuf_release(&buf);
}

static void empty_addition_makes_an_empty_text(void **state)
{
    (void)state;
    struct strbuf buf = {0};
    strbuf_add(&buf, NULL, 0);
    assert_string_equal(buf.bytes, "");
    strbuf_release(&buf);
}

static void detached_text_belongs_to_the_caller(void **state)
{
    (void)state;
    struct strbuf buf = {0};
    char *empty = strbuf_detach(&buf);
    strbuf_adds(&buf, "text");
    char *text = strbuf_detach(&buf);
    assert_string_equal(empty, "");
    assert_string_equal(text, "text");
    assert_null(buf.bytes);
    assert_int_equal(buf.length + buf.capacity, 0);
    free(empty);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pieces_are_appended),
        cmocka_unit_test(every_length_ends_with_a_nul),
        cmocka_unit_test(formatting_grows_the_buffer),
        cmocka_unit_test(reset_keeps_memory),
        cmocka_unit_test(empty_addition_makes_an_empty_text),
        cmocka_unit_test(detached_text_belongs_to_the_caller),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
