// SPDX-License-Identifier: Apache-2.0
// JSON by schema with tokenizers of every kind, and with a vocabulary of 151,665 tokens.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/random.h"
#include "tests/test_data.h"
#include "tests/worker/json_fixture.h"

#include <stdlib.h>
#include <string.h>

enum { WALKS = 12, LARGE_WALKS = 14, MASK_CHECKS = 12 };

static struct tokenizer *load(const char *directory)
{
    struct error err = {""};
    struct tokenizer *tokenizer = NULL;
    if (tokenizer_load(directory, &tokenizer, &err))
        fail_msg("%s", err.text);
    return tokenizer;
}

static size_t shortest(struct json_schema *schema)
{
    struct json_output *output = json_output_create(schema);
    const size_t tokens = json_output_shortest(output);
    json_output_destroy(output);
    return tokens;
}

static void check_walks(const struct tokenizer *tokenizer, struct json_vocabulary *vocabulary,
                        const char *text, size_t walks)
{
    struct arena arena = {0};
    struct error err = {""};
    const struct json *tree, *root;
    struct json_walk walk = {0};
    struct json_schema *schema = json_fixture_compile(text, vocabulary);
    assert_int_equal(json_parse(&arena, text, strlen(text), &tree, &err), 0);
    for (uint64_t i = 0; i < walks; i++) {
        const size_t extra = i % 2 == 0 ? i / 2 : 100;
        json_fixture_walk(schema, tokenizer, (size_t)tokenizer_vocabulary_size(tokenizer),
                          shortest(schema) + extra, i, &walk);
        if (json_parse(&arena, walk.text.bytes, walk.text.length, &root, &err))
            fail_msg("%s: %s", walk.text.bytes, err.text);
        assert_int_equal(json_fixture_read(tree, walk.text.bytes, walk.text.length), READING_WHOLE);
    }
    strbuf_release(&walk.text);
    json_schema_destroy(schema);
    arena_release(&arena);
}

static void every_kind_of_tokenizer_writes_what_a_schema_asks(void **state)
{
    (void)state;
    static const char *const names[] = {"tokenizer_gemma",  "tokenizer_gpt2",  "tokenizer_llama2",
                                        "tokenizer_llama3", "tokenizer_marks", "tokenizer_strip"};
    for (size_t n = 0; n < sizeof names / sizeof *names; n++) {
        char *directory = fs_join(GOLDEN_DIRECTORY, names[n]);
        struct tokenizer *tokenizer = load(directory);
        struct json_vocabulary *vocabulary =
            json_vocabulary_create(tokenizer, (size_t)tokenizer_vocabulary_size(tokenizer));
        for (size_t s = 0; s < json_fixture_schema_count; s++)
            check_walks(tokenizer, vocabulary, json_fixture_schemas[s], WALKS);
        json_vocabulary_destroy(vocabulary);
        tokenizer_destroy(tokenizer);
        free(directory);
    }
}

// Every token of the vocabulary behind the text beside a naive reading.
static void check_mask(const struct tokenizer *tokenizer, const struct json *tree,
                       struct json_output *output, struct strbuf *text)
{
    const uint64_t *mask = json_output_mask(output, SIZE_MAX);
    const size_t length = text->length;
    for (int32_t id = 0; id < tokenizer_vocabulary_size(tokenizer); id++) {
        size_t bytes;
        const char *added = tokenizer_token_bytes(tokenizer, id, &bytes);
        bool expected = added && !tokenizer_token_is_added(tokenizer, id);
        if (expected) {
            strbuf_add(text, added, bytes);
            expected = json_fixture_read(tree, text->bytes, text->length) != READING_INVALID;
            text->length = length;
        }
        if (json_fixture_allows(mask, id) != expected)
            fail_msg("token %d behind '%.*s': expected %d", id, (int)length, text->bytes, expected);
    }
}

static void check_masks(const struct tokenizer *tokenizer, struct json_vocabulary *vocabulary)
{
    struct arena arena = {0};
    struct error err = {""};
    struct strbuf text = {0};
    const struct json *tree;
    struct json_schema *schema = json_fixture_compile(json_fixture_pairs, vocabulary);
    struct json_output *output = json_output_create(schema);
    assert_int_equal(
        json_parse(&arena, json_fixture_pairs, strlen(json_fixture_pairs), &tree, &err), 0);
    for (uint64_t step = 0; step < MASK_CHECKS && !json_output_complete(output); step++) {
        check_mask(tokenizer, tree, output, &text);
        const uint64_t *mask = json_output_mask(output, SIZE_MAX);
        uint64_t attempt = 0;
        int32_t id;
        do
            id = (int32_t)(random_u64(5, step, attempt++) %
                           (uint64_t)tokenizer_vocabulary_size(tokenizer));
        while (!json_fixture_allows(mask, id));
        size_t bytes;
        const char *added = tokenizer_token_bytes(tokenizer, id, &bytes);
        strbuf_add(&text, added, bytes);
        json_output_accept(output, id);
    }
    strbuf_release(&text);
    json_output_destroy(output);
    json_schema_destroy(schema);
    arena_release(&arena);
}

static void a_large_vocabulary_is_masked_as_a_naive_reading_says(void **state)
{
    (void)state;
    char *directory = test_data_path("qwen2.5/tokenizer");
    if (!directory)
        skip();
    struct tokenizer *tokenizer = load(directory);
    struct json_vocabulary *vocabulary =
        json_vocabulary_create(tokenizer, (size_t)tokenizer_vocabulary_size(tokenizer));
    check_masks(tokenizer, vocabulary);
    check_walks(tokenizer, vocabulary, json_fixture_pairs, LARGE_WALKS);
    json_vocabulary_destroy(vocabulary);
    tokenizer_destroy(tokenizer);
    free(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_of_tokenizer_writes_what_a_schema_asks),
        cmocka_unit_test(a_large_vocabulary_is_masked_as_a_naive_reading_says),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
