// SPDX-License-Identifier: Apache-2.0
// Small tokenizers of several kinds, made and run by the Python package `tokenizers`
// (tests/oracle/tokenizer_golden.py): plain ByteLevel as GPT-2's, Llama 3's with ignore_merges, one
// with NFC and marks in its pattern; added tokens that are special, plain and normalized. Also the
// toy of transformers' own tests.
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

static void check_line(const struct tokenizer *tokenizer, struct tokenizer_scratch *scratch,
                       const char *line)
{
    struct arena arena = {0};
    struct error err = {""};
    struct token_list got = {0};
    struct token_list expected = {0};
    const struct json *vector;
    assert_int_equal(json_parse(&arena, line, strlen(line), &vector, &err), 0);
    const struct json *text = json_get(vector, "text");
    const struct json *ids = json_get(vector, "ids");
    for (size_t i = 0; i < ids->length; i++) {
        token_list_add(&expected, (int32_t)ids->items[i].integer);
    }
    assert_int_equal(
        tokenizer_encode(tokenizer, scratch, text->string, text->length, true, &got, &err), 0);
    fixture_assert_ids(text->string, &got, expected.ids, expected.count);
    token_list_release(&got);
    token_list_release(&expected);
    arena_release(&arena);
}

// Encodes the vectors with the tokenizer as given, and with what we save of it.
static void check_kind(const char *name)
{
    struct error err = {""};
    struct strbuf lines = {0};
    struct tokenizer *loaded = NULL;
    struct tokenizer *saved = NULL;
    char *directory = fs_join(GOLDEN_DIRECTORY, name);
    char *copy = fixture_directory_create();
    size_t count = 0;
    if (tokenizer_load(directory, &loaded, &err) != 0 ||
        tokenizer_save(loaded, fs_system(), copy, &err) != 0 ||
        tokenizer_load(copy, &saved, &err) != 0) {
        fail_msg("%s", err.text);
    }
    struct tokenizer_scratch *scratch = tokenizer_scratch_create(loaded);
    struct tokenizer_scratch *saved_scratch = tokenizer_scratch_create(saved);
    fixture_read(directory, "vectors.jsonl", &lines);
    for (char *line = strtok(lines.bytes, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        check_line(loaded, scratch, line);
        check_line(saved, saved_scratch, line);
        count++;
    }
    assert_true(count > 100);
    tokenizer_scratch_destroy(scratch);
    tokenizer_scratch_destroy(saved_scratch);
    tokenizer_destroy(loaded);
    tokenizer_destroy(saved);
    strbuf_release(&lines);
    fixture_directory_remove(copy);
    free(directory);
}

static void plain_byte_level_agrees(void **state)
{
    (void)state;
    check_kind("tokenizer_gpt2");
}

static void llama3_with_ignored_merges_agrees(void **state)
{
    (void)state;
    check_kind("tokenizer_llama3");
}

static void marks_and_normalization_agree(void **state)
{
    (void)state;
    check_kind("tokenizer_marks");
}

static const char *const toy_tokens[] = {
    "\xC4\xA0l",      "\xC4\xA0n",        "\xC4\xA0lo",    "\xC4\xA0low", "er",
    "\xC4\xA0lowest", "\xC4\xA0newer",    "\xC4\xA0wider", "01",          ";}",
    ";}\xC4\x8A",     "\xC3\x8F\xC4\xB5", "\xC4\xA0#",     "##"};
static const char toy_merges[] = "#version: 0.2\n\xC4\xA0 l\n\xC4\xA0l o\n\xC4\xA0lo w\ne r\n0 1\n"
                                 "; }\n;} \xC4\x8A\n\xC3\x8F \xC4\xB5\n\xC4\xA0 #\n# #\n";
static const char toy_config[] =
    "{\"tokenizer_class\": \"Qwen2Tokenizer\", \"added_tokens_decoder\": {"
    "\"270\": {\"content\": \"<|endoftext|>\", \"special\": true, \"normalized\": false},"
    "\"271\": {\"content\": \"<|im_start|>\", \"special\": true, \"normalized\": false}}}";

static void write_toy(const char *directory)
{
    struct strbuf vocab = {0};
    struct strbuf text = {0};
    struct json_writer w = {.out = &vocab};
    json_begin_object(&w);
    for (int id = 0; id < 256; id++) {
        char byte = (char)byte_alphabet_nth(id);
        strbuf_reset(&text);
        byte_alphabet_encode(&byte, 1, &text);
        json_key(&w, text.bytes);
        json_int(&w, id);
    }
    for (size_t i = 0; i < sizeof toy_tokens / sizeof *toy_tokens; i++) {
        json_key(&w, toy_tokens[i]);
        json_int(&w, 256 + (int64_t)i);
    }
    json_end_object(&w);
    fixture_write(directory, "vocab.json", vocab.bytes, vocab.length);
    fixture_write(directory, "merges.txt", toy_merges, strlen(toy_merges));
    fixture_write(directory, "tokenizer_config.json", toy_config, strlen(toy_config));
    strbuf_release(&vocab);
    strbuf_release(&text);
}

static void the_toy_of_transformers_agrees(void **state)
{
    (void)state;
    static const int32_t expected[] = {75, 78,  86,  260, 259, 260, 220, 77,  68,
                                       86, 260, 220, 15,  16,  15,  266, 270, 267};
    static const int32_t hashes[] = {268, 269};
    static const int32_t decoded_ids[] = {259, 260, 270, 271, 26};
    static const char text[] = "lower lower newer 010;}\n<|endoftext|>\xCF\x92\xCC\x81";
    struct error err = {""};
    struct token_list ids = {0};
    struct strbuf decoded = {0};
    struct tokenizer *toy = NULL;
    char *directory = fixture_directory_create();
    write_toy(directory);
    if (tokenizer_load(directory, &toy, &err) != 0) {
        fail_msg("%s", err.text);
    }
    assert_int_equal(tokenizer_encode(toy, NULL, text, strlen(text), true, &ids, &err), 0);
    fixture_assert_ids(text, &ids, expected, sizeof expected / sizeof *expected);
    ids.count = 0;
    assert_int_equal(tokenizer_encode(toy, NULL, " ###", 4, true, &ids, &err), 0);
    fixture_assert_ids(" ###", &ids, hashes, 2);
    assert_int_equal(tokenizer_decode(toy, decoded_ids, 5, &decoded, &err), 0);
    assert_string_equal(decoded.bytes, " lower<|endoftext|><|im_start|>;");
    token_list_release(&ids);
    strbuf_release(&decoded);
    tokenizer_destroy(toy);
    fixture_directory_remove(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_byte_level_agrees),
        cmocka_unit_test(llama3_with_ignored_merges_agrees),
        cmocka_unit_test(marks_and_normalization_agree),
        cmocka_unit_test(the_toy_of_transformers_agrees),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
