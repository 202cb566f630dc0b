// SPDX-License-Identifier: Apache-2.0
// Tokenizers with byte fallback and added tokens with rules, made and run by the Python package
// `tokenizers` (tests/oracle/tokenizer_fallback_golden.py).
#include "base/json.h"
#include "datasets/tokenizer_internal.h"
#include "tokenizer_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct tokenizer *load(const char *name)
{
    struct error err = {""};
    struct tokenizer *loaded = NULL;
    char *directory = fs_join(GOLDEN_DIRECTORY, name);
    if (tokenizer_load(directory, &loaded, &err) != 0) {
        fail_msg("%s", err.text);
    }
    free(directory);
    return loaded;
}

static void check_ids(const struct tokenizer *t, struct tokenizer_scratch *scratch,
                      const struct json *vector, const char *key, bool allow_special)
{
    struct error err = {""};
    struct token_list got = {0};
    struct token_list expected = {0};
    const struct json *text = json_get(vector, "text");
    const struct json *ids = json_get(vector, key);
    for (size_t i = 0; i < ids->length; i++) {
        token_list_add(&expected, (int32_t)ids->items[i].integer);
    }
    assert_int_equal(
        tokenizer_encode(t, scratch, text->string, text->length, allow_special, &got, &err), 0);
    fixture_assert_ids(text->string, &got, expected.ids, expected.count);
    token_list_release(&got);
    token_list_release(&expected);
}

// Decoding at once and token by token. Where bytes make no character, Python has U+FFFD.
static void check_decoded(const struct tokenizer *t, const struct json *vector)
{
    struct error err = {""};
    struct strbuf whole = {0};
    struct strbuf streamed = {0};
    struct tokenizer_stream stream = {0};
    const struct json *ids = json_get(vector, "ids");
    const struct json *decoded = json_get(vector, "decoded");
    for (size_t i = 0; i < ids->length; i++) {
        int32_t id = (int32_t)ids->items[i].integer;
        assert_int_equal(tokenizer_stream_add(&stream, t, id, &streamed, &err), 0);
    }
    tokenizer_stream_end(&stream, &streamed);
    struct token_list list = {0};
    for (size_t i = 0; i < ids->length; i++) {
        token_list_add(&list, (int32_t)ids->items[i].integer);
    }
    assert_int_equal(tokenizer_decode(t, list.ids, list.count, &whole, &err), 0);
    assert_int_equal(whole.length, decoded->length);
    assert_int_equal(streamed.length, decoded->length);
    if (whole.length > 0) {
        assert_memory_equal(whole.bytes, decoded->string, whole.length);
        assert_memory_equal(streamed.bytes, decoded->string, whole.length);
    }
    token_list_release(&list);
    strbuf_release(&whole);
    strbuf_release(&streamed);
}

static void check_kind(const char *name)
{
    struct tokenizer *loaded = load(name);
    struct tokenizer_scratch *scratch = tokenizer_scratch_create(loaded);
    struct strbuf lines = {0};
    size_t count = 0;
    char *directory = fs_join(GOLDEN_DIRECTORY, name);
    fixture_read(directory, "vectors.jsonl", &lines);
    for (char *line = strtok(lines.bytes, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        struct arena arena = {0};
        struct error err = {""};
        const struct json *vector;
        assert_int_equal(json_parse(&arena, line, strlen(line), &vector, &err), 0);
        check_ids(loaded, scratch, vector, "ids", true);
        check_ids(loaded, scratch, vector, "plain", false);
        check_decoded(loaded, vector);
        arena_release(&arena);
        count++;
    }
    assert_true(count > 100);
    strbuf_release(&lines);
    free(directory);
    tokenizer_scratch_destroy(scratch);
    tokenizer_destroy(loaded);
}

static void the_gemma_kind_agrees(void **state)
{
    (void)state;
    check_kind("tokenizer_gemma");
}

static void the_llama2_kind_agrees(void **state)
{
    (void)state;
    check_kind("tokenizer_llama2");
}

static void stripping_and_single_words_agree(void **state)
{
    (void)state;
    check_kind("tokenizer_strip");
}

static void rules_of_added_tokens_are_saved(void **state)
{
    (void)state;
    struct error err = {""};
    struct tokenizer *original = load("tokenizer_strip");
    struct tokenizer *saved = NULL;
    char *copy = fixture_directory_create();
    assert_int_equal(tokenizer_save(original, fs_system(), copy, &err), 0);
    assert_int_equal(tokenizer_load(copy, &saved, &err), 0);
    assert_true(digest_equal(tokenizer_digest(original), tokenizer_digest(saved)));
    tokenizer_destroy(saved);
    tokenizer_destroy(original);
    fixture_directory_remove(copy);
}

static void text_comes_back(void **state)
{
    (void)state;
    struct tokenizer *t = load("tokenizer_gemma");
    for (uint64_t seed = 0; seed < 200; seed++) {
        struct error err = {""};
        struct strbuf text = {0};
        struct strbuf decoded = {0};
        struct token_list ids = {0};
        fixture_text(seed, seed * 3, &text);
        fixture_unicode(seed, seed % 50, &text);
        strbuf_adds(&text, "  \n\n<0x41> ");
        assert_int_equal(tokenizer_encode(t, NULL, text.bytes, text.length, false, &ids, &err), 0);
        assert_int_equal(tokenizer_decode(t, ids.ids, ids.count, &decoded, &err), 0);
        assert_int_equal(decoded.length, text.length);
        assert_memory_equal(decoded.bytes, text.bytes, text.length);
        strbuf_release(&text);
        strbuf_release(&decoded);
        token_list_release(&ids);
    }
    tokenizer_destroy(t);
}

static void a_megabyte_without_a_space_is_encoded(void **state)
{
    (void)state;
    struct error err = {""};
    struct token_list ids = {0};
    struct tokenizer *t = load("tokenizer_gemma");
    char *text = malloc(1000000);
    assert_non_null(text);
    memset(text, 'e', 1000000);
    assert_int_equal(tokenizer_encode(t, NULL, text, 1000000, true, &ids, &err), 0);
    assert_int_equal(ids.count, 500000); // "ee" is a token, "eeee" is none
    memset(text, '\n', 1000000);
    ids.count = 0;
    assert_int_equal(tokenizer_encode(t, NULL, text, 1000000, true, &ids, &err), 0);
    assert_int_equal(ids.count, (1000000 + 6) / 7);
    free(text);
    token_list_release(&ids);
    tokenizer_destroy(t);
}

// The golden file with every `from` replaced.
static void assert_refused(const char *name, const char *from, const char *to, const char *expected)
{
    struct error err = {""};
    struct strbuf json = {0};
    struct strbuf changed = {0};
    struct tokenizer *t = NULL;
    char *directory = fs_join(GOLDEN_DIRECTORY, name);
    fixture_read(directory, "tokenizer.json", &json);
    const char *at = json.bytes;
    for (const char *hit; (hit = strstr(at, from)) != NULL; at = hit + strlen(from)) {
        strbuf_add(&changed, at, (size_t)(hit - at));
        strbuf_adds(&changed, to);
    }
    assert_true(at != json.bytes);
    strbuf_adds(&changed, at);
    assert_int_equal(tokenizer_parse(changed.bytes, changed.length, NULL, 0, &t, &err), -1);
    if (strstr(err.text, expected) == NULL) {
        fail_msg("'%s' does not say '%s'", err.text, expected);
    }
    strbuf_release(&json);
    strbuf_release(&changed);
    free(directory);
}

static void shapes_that_we_do_not_implement_are_refused(void **state)
{
    (void)state;
    assert_refused("tokenizer_gemma", "\"Replace\"", "\"Lowercase\"", "normalizer");
    assert_refused("tokenizer_gemma", "\"Replace\", \"pattern\": {\"String\": \" \"}",
                   "\"Replace\", \"pattern\": {\"String\": \"x\"}", "normalizer");
    assert_refused("tokenizer_gemma", "\"type\": \"Split\"", "\"type\": \"Metaspace\"",
                   "pre-tokenizer");
    assert_refused("tokenizer_gemma", "\"Fuse\"", "\"Other\"", "decoder");
    assert_refused("tokenizer_llama2", "\"start\": 1", "\"start\": 2", "decoder");
    assert_refused("tokenizer_llama2", "\"ignore_merges\": false", "\"ignore_merges\": true",
                   "ignore_merges");
    assert_refused("tokenizer_llama2", "<0x7F>", "<0x7f>", "'<0x7F>'");
}

static void a_truncated_or_flipped_file_is_no_crash(void **state)
{
    (void)state;
    struct strbuf json = {0};
    struct error err = {""};
    char *directory = fs_join(GOLDEN_DIRECTORY, "tokenizer_llama2");
    fixture_read(directory, "tokenizer.json", &json);
    for (size_t length = 0; length + 1 < json.length; length += 37) {
        struct tokenizer *t = NULL;
        assert_int_equal(tokenizer_parse(json.bytes, length, NULL, 0, &t, &err), -1);
    }
    for (size_t at = 0; at < json.length; at += 23) {
        struct tokenizer *t = NULL;
        struct token_list ids = {0};
        json.bytes[at] ^= (char)(1 << at % 7);
        if (tokenizer_parse(json.bytes, json.length, NULL, 0, &t, &err) == 0) {
            tokenizer_encode(t, NULL, "the ship <bos> \xC3\x9F", 17, true, &ids, &err);
        }
        json.bytes[at] ^= (char)(1 << at % 7);
        token_list_release(&ids);
        tokenizer_destroy(t);
    }
    strbuf_release(&json);
    free(directory);
}

static void saving_is_refused(void **state)
{
    (void)state;
    struct error err = {""};
    struct tokenizer *t = load("tokenizer_gemma");
    assert_int_equal(tokenizer_save(t, fs_system(), "/nonexistent", &err), -1);
    assert_non_null(strstr(err.text, "copy its files"));
    tokenizer_destroy(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_gemma_kind_agrees),
        cmocka_unit_test(the_llama2_kind_agrees),
        cmocka_unit_test(stripping_and_single_words_agree),
        cmocka_unit_test(rules_of_added_tokens_are_saved),
        cmocka_unit_test(text_comes_back),
        cmocka_unit_test(a_megabyte_without_a_space_is_encoded),
        cmocka_unit_test(shapes_that_we_do_not_implement_are_refused),
        cmocka_unit_test(a_truncated_or_flipped_file_is_no_crash),
        cmocka_unit_test(saving_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
