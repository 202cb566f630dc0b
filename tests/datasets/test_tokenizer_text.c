// SPDX-License-Identifier: Apache-2.0
// What happens to text before BPE: normalization and cutting; and the byte alphabet.
#include "base/utf8.h"
#include "datasets/tokenizer_internal.h"
#include "tokenizer_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include <cmocka.h>

static void assert_normalized_like_the_library(const struct strbuf *text)
{
    struct nfc_scratch scratch = {0};
    struct strbuf got = {0};
    utf8proc_uint8_t *expected;
    utf8proc_ssize_t length =
        utf8proc_map((const utf8proc_uint8_t *)text->bytes, (utf8proc_ssize_t)text->length,
                     &expected, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    assert_true(length >= 0);
    if (!nfc_normalize(&scratch, text->bytes, text->length, &got)) {
        strbuf_add(&got, text->bytes, text->length);
    }
    assert_int_equal(got.length, length);
    assert_memory_equal(got.bytes, expected, (size_t)length);
    free(expected);
    strbuf_release(&got);
    nfc_scratch_release(&scratch);
}

static void normalization_of_random_text_agrees_with_utf8proc(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 3000; seed++) {
        struct strbuf text = {0};
        fixture_unicode(seed, 1 + (size_t)(seed % 40), &text);
        assert_normalized_like_the_library(&text);
        strbuf_release(&text);
    }
}

// Every character alone, and between two that combine with much.
static void normalization_of_every_character_agrees_with_utf8proc(void **state)
{
    (void)state;
    for (uint32_t point = 0; point <= 0x2FFFF; point++) {
        char encoded[4];
        int size = utf8_encode(point, encoded);
        struct strbuf text = {0};
        if (size == 0) {
            continue;
        }
        strbuf_adds(&text, "e");
        strbuf_add(&text, encoded, (size_t)size);
        strbuf_adds(&text, "\xCC\x81");
        strbuf_add(&text, encoded, (size_t)size);
        assert_normalized_like_the_library(&text);
        strbuf_release(&text);
    }
}

static void normalized_text_is_left_alone(void **state)
{
    (void)state;
    static const char *const texts[] = {"", "plain", "na\xC3\xAFve", "\xE6\x9D\xB1\xE4\xBA\xAC",
                                        "\xE2\x80\x9Cquoted\xE2\x80\x9D"};
    struct nfc_scratch scratch = {0};
    struct strbuf out = {0};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        assert_false(nfc_normalize(&scratch, texts[i], strlen(texts[i]), &out));
    }
    assert_true(nfc_normalize(&scratch, "e\xCC\x81", 3, &out));
    assert_string_equal(out.bytes, "\xC3\xA9");
    strbuf_release(&out);
    nfc_scratch_release(&scratch);
}

static struct splitter *make_splitter(const char *pattern)
{
    struct error err = {""};
    struct splitter *splitter = NULL;
    if (splitter_create(pattern, strlen(pattern), &splitter, &err) != 0) {
        fail_msg("%s", err.text);
    }
    return splitter;
}

// Pieces joined by '|'.
static void assert_pieces(const char *pattern, const char *text, const char *expected)
{
    struct error err = {""};
    struct strbuf joined = {0};
    struct splitter *splitter = make_splitter(pattern);
    struct splitter_scratch *scratch = splitter_scratch_create(splitter);
    size_t length = strlen(text);
    size_t end;
    for (size_t begin = 0; begin < length; begin = end) {
        assert_int_equal(splitter_next(splitter, scratch, text, length, begin, &end, &err), 0);
        assert_true(end > begin && end <= length);
        strbuf_addf(&joined, "%s%.*s", begin == 0 ? "" : "|", (int)(end - begin), text + begin);
    }
    assert_string_equal(joined.bytes, expected);
    strbuf_release(&joined);
    splitter_scratch_destroy(scratch);
    splitter_destroy(splitter);
}

static void patterns_cut_as_written(void **state)
{
    (void)state;
    assert_pieces(splitter_pattern_qwen2, "It's 1874,  the\n\n ship",
                  "It|'s| |1|8|7|4|,| | the|\n\n| ship");
    assert_pieces(splitter_pattern_gpt2, "It's 1874,  the\n\n ship",
                  "It|'s| 1874|,| | the|\n\n| ship");
    assert_pieces("\\p{N}{1,3}", "12345", "123|45");
}

static void gaps_and_empty_matches_lose_no_byte(void **state)
{
    (void)state;
    assert_pieces("\\d+", "ab12cd", "ab|12|cd");
    assert_pieces("x*", "ab", "a|b");
    assert_pieces("x*", "axxb", "a|xx|b");
    assert_pieces("x*", "\xC3\xA9\xE6\x9D\xB1", "\xC3\xA9|\xE6\x9D\xB1");
    assert_pieces("(?=b)", "ab", "a|b");
}

// U+180E is a space for PCRE2's \s but not for Unicode's White_Space; U+0085 is for both.
static void space_means_white_space_of_unicode(void **state)
{
    (void)state;
    assert_pieces("\\s+",
                  "a\xE1\xA0\x8E"
                  "b",
                  "a\xE1\xA0\x8E"
                  "b");
    assert_pieces("\\s+",
                  "a\xC2\x85"
                  "b",
                  "a|\xC2\x85|b");
    assert_pieces("[\\S]+",
                  "a\xE1\xA0\x8E\xC2\xA0"
                  "b",
                  "a\xE1\xA0\x8E|\xC2\xA0|b");
    assert_pieces("\\S+",
                  "a\xE3\x80\x80"
                  "b",
                  "a|\xE3\x80\x80|b");
}

static void constructs_that_mean_something_else_are_refused(void **state)
{
    (void)state;
    static const char *const patterns[] = {
        "\\w+",       "\\bx",          "\\h",     "\\1",    "x\\",     "\\p",
        "\\pL",       "\\u12",         "^x",      "x$",     "[a[b]]",  "[a&&b]",
        "[]x]",       "[^]x]",         "(*UTF)x", "(?m:x)", "(?<n>x)", "(?#c)x",
        "(?",         "x{,3}",         "x{1,3}+", "x{2}?",  "[",       "(",
        "x{1,99999}", "\\p{Nonsense}", "",        "*"};
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        struct error err = {""};
        struct splitter *splitter = NULL;
        if (splitter_create(patterns[i], strlen(patterns[i]), &splitter, &err) == 0) {
            fail_msg("'%s' is accepted", patterns[i]);
        }
        assert_non_null(strstr(err.text, "pre-tokenizer's pattern"));
    }
}

static void a_dash_after_a_class_in_a_set_is_a_dash(void **state)
{
    (void)state;
    assert_pieces("[\\s-z]+", "a- zb", "a|- z|b");
    assert_pieces("[a-c]+", "xabcx", "x|abc|x");
}

static void scripts_do_not_include_their_extensions(void **state)
{
    (void)state;
    // U+3001 belongs to script Common and is extended to Han.
    assert_pieces("\\p{Han}+", "\xE6\x9D\xB1\xE3\x80\x81", "\xE6\x9D\xB1|\xE3\x80\x81");
}

static void a_pattern_made_to_explode_fails(void **state)
{
    (void)state;
    struct error err = {""};
    struct splitter *splitter = make_splitter("(?:a+)+[bc]");
    struct splitter_scratch *scratch = splitter_scratch_create(splitter);
    char text[400];
    size_t end;
    memset(text, 'a', sizeof text);
    assert_int_equal(splitter_next(splitter, scratch, text, sizeof text, 0, &end, &err), -1);
    assert_non_null(strstr(err.text, "byte 0 of the text"));
    splitter_scratch_destroy(scratch);
    splitter_destroy(splitter);
}

static void the_byte_alphabet_is_one_to_one(void **state)
{
    (void)state;
    bool seen[256] = {false};
    for (int i = 0; i < 256; i++) {
        char byte = (char)byte_alphabet_nth(i);
        struct strbuf text = {0};
        struct strbuf back = {0};
        assert_false(seen[(unsigned char)byte]);
        seen[(unsigned char)byte] = true;
        byte_alphabet_encode(&byte, 1, &text);
        assert_true(byte_alphabet_decode(text.bytes, text.length, &back));
        assert_int_equal(back.length, 1);
        assert_int_equal(back.bytes[0], byte);
        strbuf_release(&text);
        strbuf_release(&back);
    }
    struct strbuf out = {0};
    byte_alphabet_encode(" \n\xAD", 3, &out);
    assert_string_equal(out.bytes, "\xC4\xA0\xC4\x8A\xC5\x83");
    assert_int_equal(byte_alphabet_nth(0), '!');
    assert_false(byte_alphabet_decode("a b", 3, &out));
    assert_false(byte_alphabet_decode("\xC5\x84", 2, &out));
    assert_false(byte_alphabet_decode("\xFF", 1, &out));
    assert_string_equal(out.bytes, "\xC4\xA0\xC4\x8A\xC5\x83");
    strbuf_release(&out);
}

static void the_map_finds_what_was_inserted(void **state)
{
    (void)state;
    const size_t counts[] = {0, 1, 31, 33, 1000};
    static char keys[1000][8];
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
        struct bytes_map map = {0};
        bool added;
        for (size_t i = 0; i < counts[c]; i++) {
            int length = snprintf(keys[i], sizeof keys[i], "%zx", i * 31);
            bytes_map_insert(&map, keys[i], (size_t)length, (int32_t)i, &added);
            assert_true(added);
        }
        for (size_t i = 0; i < counts[c]; i++) {
            assert_int_equal(bytes_map_get(&map, keys[i], strlen(keys[i])), i);
            assert_int_equal(bytes_map_insert(&map, keys[i], strlen(keys[i]), 7, &added)->value, i);
            assert_false(added);
        }
        assert_int_equal(bytes_map_get(&map, "absent", 6), -1);
        bytes_map_release(&map);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(normalization_of_random_text_agrees_with_utf8proc),
        cmocka_unit_test(normalization_of_every_character_agrees_with_utf8proc),
        cmocka_unit_test(normalized_text_is_left_alone),
        cmocka_unit_test(patterns_cut_as_written),
        cmocka_unit_test(gaps_and_empty_matches_lose_no_byte),
        cmocka_unit_test(space_means_white_space_of_unicode),
        cmocka_unit_test(constructs_that_mean_something_else_are_refused),
        cmocka_unit_test(a_dash_after_a_class_in_a_set_is_a_dash),
        cmocka_unit_test(scripts_do_not_include_their_extensions),
        cmocka_unit_test(a_pattern_made_to_explode_fails),
        cmocka_unit_test(the_byte_alphabet_is_one_to_one),
        cmocka_unit_test(the_map_finds_what_was_inserted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
