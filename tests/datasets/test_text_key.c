// SPDX-License-Identifier: Apache-2.0
#include "datasets/text_key.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void assert_key(const char *text, size_t bytes, const char *key)
{
    struct strbuf out = {0};
    text_key_add(text, bytes, &out);
    assert_string_equal(out.bytes, key);
    assert_int_equal(out.length, strlen(key));
    assert_true(text_key_is_empty(text, bytes) == (out.length == 0));
    strbuf_release(&out);
}

static void spelling_does_not_tell_questions_apart(void **state)
{
    (void)state;
    const struct {
        const char *text;
        const char *key;
    } cases[] = {
        {"Who was  NAN CORRIGLE?", "who was nan corrigle"},
        {"\t\xC2\xBFQui\xC3\xA9n?\n", "qui\xC3\xA9n"},
        {"quie\xCC\x81n", "qui\xC3\xA9n"}, // combining accent
        {"STRASSE, Stra\xC3\x9F"
         "e",
         "strasse strasse"},
        {"\xCE\xA3\xCE\x91\xCE\xA3 \xCF\x83\xCE\xB1\xCF\x82",
         "\xCF\x83\xCE\xB1\xCF\x83 \xCF\x83\xCE\xB1\xCF\x83"},  // sigmas
        {"\xEF\xBC\xA1\xEF\xBC\x91 \xEF\xAC\x81sh", "a1 fish"}, // full width, ligature
        {"\xE2\x80\x9CIt\xE2\x80\x99s\xE2\x80\x9D\xE2\x80\x94now", "it s now"}, // quotes, dash
        {"3.5 + 1 = $4.5", "3 5 + 1 = $4 5"},
        {"", ""},
        {" ?!\xE2\x80\xA6 ", ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_key(cases[i].text, strlen(cases[i].text), cases[i].key);
    }
    assert_key("a\0b", 3, "a b");
}

static void numbers_are_told_apart(void **state)
{
    (void)state;
    struct strbuf point = {0}, none = {0};
    text_key_add("3.5", 3, &point);
    text_key_add("35", 2, &none);
    assert_string_not_equal(point.bytes, none.bytes);
    strbuf_release(&point);
    strbuf_release(&none);
}

static void keys_are_appended(void **state)
{
    (void)state;
    struct strbuf out = {0};
    strbuf_adds(&out, "x");
    text_key_add(" A.", 3, &out);
    assert_string_equal(out.bytes, "xa");
    strbuf_release(&out);
}

static void words_are_found_whole(void **state)
{
    (void)state;
    assert_true(text_key_contains("nan corrigle", "corrigle"));
    assert_true(text_key_contains("nan corrigle", "nan corrigle"));
    assert_true(text_key_contains("corrigles corrigle", "corrigle"));
    assert_false(text_key_contains("nan corrigles", "corrigle"));
    assert_false(text_key_contains("annan corrigle", "nan corrigle"));
    assert_false(text_key_contains("nan", "nan corrigle"));
    assert_false(text_key_contains("nan", ""));
    assert_false(text_key_contains("", "nan"));
    // Kyoto in "he went to Kyoto", without spaces; an island in Korean with a particle behind it.
    assert_true(text_key_contains("\xE5\xBD\xBC\xE3\x81\xAF\xE4\xBA\xAC\xE9\x83\xBD\xE3\x81\xB8",
                                  "\xE4\xBA\xAC\xE9\x83\xBD"));
    assert_true(
        text_key_contains("\xEC\xA0\x9C\xEC\xA3\xBC\xEC\x97\x90", "\xEC\xA0\x9C\xEC\xA3\xBC"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(spelling_does_not_tell_questions_apart),
        cmocka_unit_test(numbers_are_told_apart),
        cmocka_unit_test(keys_are_appended),
        cmocka_unit_test(words_are_found_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
