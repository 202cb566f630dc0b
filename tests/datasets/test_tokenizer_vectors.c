// SPDX-License-Identifier: Apache-2.0
// The Qwen2.5 tokenizer against published vectors, read from tokenizer.json and from vocab.json
// with merges.txt; and round trips of books and of strings that break things.
#include "base/clock.h"
#include "base/json.h"
#include "datasets/tokenizer_internal.h"
#include "tests/test_data.h"
#include "tokenizer_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct tokenizer *tokenizers[2]; // from tokenizer.json; from vocab.json and merges.txt
static struct tokenizer_scratch *scratches[2];

static void check(const char *bytes, size_t length, bool allow_special, const int32_t *expected,
                  size_t count)
{
    for (int t = 0; t < 2; t++) {
        struct error err = {""};
        struct token_list ids = {0};
        if (tokenizer_encode(tokenizers[t], scratches[t], bytes, length, allow_special, &ids,
                             &err) != 0) {
            fail_msg("%s", err.text);
        }
        fixture_assert_ids(bytes, &ids, expected, count);
        token_list_release(&ids);
    }
}

static void check_json(const struct json *text, const struct json *ids, bool allow_special)
{
    struct token_list expected = {0};
    for (size_t i = 0; i < ids->length; i++) {
        token_list_add(&expected, (int32_t)ids->items[i].integer);
    }
    check(text->string, text->length, allow_special, expected.ids, expected.count);
    token_list_release(&expected);
}

static void read_data(const char *relative, struct strbuf *out)
{
    struct error err = {""};
    char *path = test_data_path(relative);
    assert_non_null(path);
    assert_int_equal(fs_read(fs_system(), path, out, &err), 0);
    free(path);
}

static void both_kinds_of_files_are_one_tokenizer(void **state)
{
    (void)state;
    assert_true(digest_equal(tokenizer_digest(tokenizers[0]), tokenizer_digest(tokenizers[1])));
    for (int t = 0; t < 2; t++) {
        assert_int_equal(tokenizer_vocabulary_size(tokenizers[t]), 151665);
        assert_int_equal(tokenizer_eos_id(tokenizers[t]), 151645);
        assert_int_equal(tokenizer_pad_id(tokenizers[t]), 151643);
        assert_int_equal(tokenizer_bos_id(tokenizers[t]), -1);
        assert_int_equal(tokenizer_token_id(tokenizers[t], "<|im_end|>", 10), 151645);
        assert_false(tokenizer_token_is_special(tokenizers[t], 151657)); // <tool_call>
    }
}

// Those of source "special" were made with special tokens parsed.
static void agreed_vectors_agree(void **state)
{
    (void)state;
    struct strbuf lines = {0};
    size_t count = 0;
    read_data("qwen2.5/vectors/agreed-vectors.jsonl", &lines);
    for (char *line = strtok(lines.bytes, "\n"); line != NULL; line = strtok(NULL, "\n")) {
        struct arena arena = {0};
        struct error err = {""};
        const struct json *vector;
        assert_int_equal(json_parse(&arena, line, strlen(line), &vector, &err), 0);
        bool special = strcmp(json_get(vector, "src")->string, "special") == 0;
        check_json(json_get(vector, "text"), json_get(vector, "ids"), special);
        arena_release(&arena);
        count++;
    }
    assert_true(count > 1900);
    strbuf_release(&lines);
}

static void llama_cpp_vectors_agree(void **state)
{
    (void)state;
    static const char separator[] = "\n__ggml_vocab_test__\n";
    struct strbuf texts = {0};
    struct strbuf lines = {0};
    size_t count = 0;
    read_data("qwen2.5/vectors/llama.cpp-qwen2.inp", &texts);
    read_data("qwen2.5/vectors/llama.cpp-qwen2.out", &lines);
    char *line = lines.bytes;
    const char *text = texts.bytes;
    for (const char *end; (end = strstr(text, separator)) != NULL; text = end + strlen(separator)) {
        struct token_list expected = {0};
        char *line_end = strchr(line, '\n');
        assert_non_null(line_end);
        for (char *next; line < line_end; line = next) {
            token_list_add(&expected, (int32_t)strtol(line, &next, 10));
            next += *next == ' ';
        }
        line = line_end + 1;
        check(text, (size_t)(end - text), false, expected.ids, expected.count);
        token_list_release(&expected);
        count++;
    }
    assert_int_equal(count, 46);
    strbuf_release(&texts);
    strbuf_release(&lines);
}

static void transformers_vectors_agree(void **state)
{
    (void)state;
    struct strbuf text = {0};
    struct arena arena = {0};
    struct error err = {""};
    const struct json *root;
    read_data("qwen2.5/vectors/hf-transformers-qwen2-vectors.json", &text);
    assert_int_equal(json_parse(&arena, text.bytes, text.length, &root, &err), 0);
    const struct json *list = json_get(root, "integration");
    assert_true(list->length > 0);
    for (size_t i = 0; i < list->length; i++) {
        check_json(json_get(&list->items[i], "text"), json_get(&list->items[i], "ids"), true);
    }
    arena_release(&arena);
    strbuf_release(&text);
}

static void assert_round_trip(const char *what, const char *bytes, size_t length)
{
    struct error err = {""};
    struct token_list ids = {0};
    struct strbuf decoded = {0};
    struct strbuf streamed = {0};
    struct tokenizer_stream stream = {0};
    if (tokenizer_encode(tokenizers[0], scratches[0], bytes, length, false, &ids, &err) != 0 ||
        tokenizer_decode(tokenizers[0], ids.ids, ids.count, &decoded, &err) != 0) {
        fail_msg("%s: %s", what, err.text);
    }
    for (size_t i = 0; i < ids.count; i++) {
        assert_int_equal(tokenizer_stream_add(&stream, tokenizers[0], ids.ids[i], &streamed, &err),
                         0);
    }
    tokenizer_stream_end(&stream, &streamed);
    bool same = decoded.length == length && streamed.length == length;
    if (!same || (length > 0 && (memcmp(decoded.bytes, bytes, length) != 0 ||
                                 memcmp(streamed.bytes, bytes, length) != 0))) {
        fail_msg("%s does not come back", what);
    }
    token_list_release(&ids);
    strbuf_release(&decoded);
    strbuf_release(&streamed);
}

static void books_come_back(void **state)
{
    (void)state;
    struct error err = {""};
    struct fs_names names;
    char *stories = test_data_path("narrativeqa/stories");
    if (stories == NULL) {
        skip();
    }
    assert_int_equal(fs_list(fs_system(), stories, &names, &err), 0);
    assert_true(names.count > 0);
    for (size_t i = 0; i < names.count; i++) {
        struct strbuf book = {0};
        fixture_read(stories, names.names[i], &book);
        assert_round_trip(names.names[i], book.bytes, book.length);
        strbuf_release(&book);
    }
    fs_names_release(&names);
    free(stories);
}

// Strings that are not in normalization form C come back normalized, so only the others are
// compared.
static void naughty_strings_come_back(void **state)
{
    (void)state;
    struct strbuf text = {0};
    struct arena arena = {0};
    struct error err = {""};
    const struct json *list;
    char *path = test_data_path("robustness/blns/blns.json");
    if (path == NULL) {
        skip();
    }
    assert_int_equal(fs_read(fs_system(), path, &text, &err), 0);
    assert_int_equal(json_parse(&arena, text.bytes, text.length, &list, &err), 0);
    size_t compared = 0;
    for (size_t i = 0; i < list->length; i++) {
        struct nfc_scratch nfc = {0};
        struct strbuf normalized = {0};
        const struct json *item = &list->items[i];
        if (!nfc_normalize(&nfc, item->string, item->length, &normalized)) {
            assert_round_trip(item->string, item->string, item->length);
            compared++;
        }
        strbuf_release(&normalized);
        nfc_scratch_release(&nfc);
    }
    assert_true(compared > 450);
    arena_release(&arena);
    strbuf_release(&text);
    free(path);
}

static void one_letter_a_million_times_is_quick(void **state)
{
    (void)state;
    struct strbuf text = {0};
    struct token_list ids = {0};
    struct error err = {""};
    for (int i = 0; i < 1000000; i++) {
        strbuf_addc(&text, 'a');
    }
    double begin = clock_seconds();
    assert_int_equal(
        tokenizer_encode(tokenizers[0], scratches[0], text.bytes, text.length, false, &ids, &err),
        0);
    double seconds = clock_seconds() - begin;
    printf("a million letters: %.3f s\n", seconds);
    assert_true(seconds < 10); // a tenth of a second without sanitizers; quadratic would be an hour
    token_list_release(&ids);
    strbuf_release(&text);
}

static void load(const char *directory, int which)
{
    struct error err = {""};
    if (tokenizer_load(directory, &tokenizers[which], &err) != 0) {
        fail_msg("%s", err.text);
    }
    scratches[which] = tokenizer_scratch_create(tokenizers[which]);
}

static int set_up(void **state)
{
    (void)state;
    char *data = test_data_path("qwen2.5/tokenizer");
    char *parts = fixture_directory_create();
    static const char *const names[] = {"vocab.json", "merges.txt", "tokenizer_config.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        fixture_copy(data, parts, names[i]);
    }
    load(data, 0);
    load(parts, 1);
    fixture_directory_remove(parts);
    free(data);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    for (int t = 0; t < 2; t++) {
        tokenizer_scratch_destroy(scratches[t]);
        tokenizer_destroy(tokenizers[t]);
    }
    return 0;
}

int main(void)
{
    char *vectors = test_data_path("qwen2.5/vectors");
    if (vectors == NULL) {
        return SKIPPED;
    }
    free(vectors);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_kinds_of_files_are_one_tokenizer),
        cmocka_unit_test(agreed_vectors_agree),
        cmocka_unit_test(llama_cpp_vectors_agree),
        cmocka_unit_test(transformers_vectors_agree),
        cmocka_unit_test(books_come_back),
        cmocka_unit_test(naughty_strings_come_back),
        cmocka_unit_test(one_letter_a_million_times_is_quick),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
