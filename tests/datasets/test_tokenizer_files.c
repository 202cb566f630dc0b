// SPDX-License-Identifier: Apache-2.0
// Files: what is saved is loaded, what is damaged or foreign is an error, never a crash.
#include "base/random.h"
#include "datasets/chat_template.h"
#include "datasets/tokenizer_internal.h"
#include "tokenizer_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MUTATIONS 2000

static char *directory;
static struct tokenizer *original;
static struct strbuf saved; // its tokenizer.json
static struct strbuf saved_config;

static int set_up(void **state)
{
    (void)state;
    struct error err = {""};
    original = fixture_tokenizer(420);
    directory = fixture_directory_create();
    assert_int_equal(tokenizer_save(original, fs_system(), directory, &err), 0);
    fixture_read(directory, "tokenizer.json", &saved);
    fixture_read(directory, "tokenizer_config.json", &saved_config);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    fixture_directory_remove(directory);
    tokenizer_destroy(original);
    strbuf_release(&saved);
    strbuf_release(&saved_config);
    return 0;
}

static void assert_same(const struct tokenizer *a, const struct tokenizer *b)
{
    struct error err = {""};
    struct strbuf text = {0};
    struct token_list x = {0};
    struct token_list y = {0};
    assert_true(digest_equal(tokenizer_digest(a), tokenizer_digest(b)));
    assert_int_equal(tokenizer_eos_id(a), tokenizer_eos_id(b));
    assert_int_equal(tokenizer_pad_id(a), tokenizer_pad_id(b));
    fixture_text(3, 5000, &text);
    fixture_unicode(3, 1000, &text);
    strbuf_adds(&text, "<|im_start|>");
    for (int special = 0; special < 2; special++) {
        assert_int_equal(tokenizer_encode(a, NULL, text.bytes, text.length, special, &x, &err), 0);
        assert_int_equal(tokenizer_encode(b, NULL, text.bytes, text.length, special, &y, &err), 0);
    }
    fixture_assert_ids("reloaded", &y, x.ids, x.count);
    token_list_release(&x);
    token_list_release(&y);
    strbuf_release(&text);
}

static void what_is_saved_is_loaded(void **state)
{
    (void)state;
    struct error err = {""};
    struct tokenizer *loaded = NULL;
    assert_int_equal(tokenizer_load(directory, &loaded, &err), 0);
    assert_same(original, loaded);
    tokenizer_destroy(loaded);
}

static void saving_twice_writes_the_same_bytes(void **state)
{
    (void)state;
    struct error err = {""};
    struct strbuf again = {0};
    struct tokenizer *loaded = NULL;
    assert_int_equal(tokenizer_load(directory, &loaded, &err), 0);
    assert_int_equal(tokenizer_save(loaded, fs_system(), directory, &err), 0);
    fixture_read(directory, "tokenizer.json", &again);
    assert_int_equal(again.length, saved.length);
    assert_memory_equal(again.bytes, saved.bytes, saved.length);
    tokenizer_destroy(loaded);
    strbuf_release(&again);
}

static void a_full_disk_is_an_error_and_leaves_no_file(void **state)
{
    (void)state;
    struct error err = {""};
    char *empty = fixture_directory_create();
    struct fs_fault fault = {.inner = fs_system(), .write_budget_bytes = 5000};
    struct fs fs = fs_with_faults(&fault);
    assert_int_equal(tokenizer_save(original, &fs, empty, &err), -1);
    char *path = fs_join(empty, "tokenizer.json");
    assert_false(fs_exists(fs_system(), path));
    free(path);
    fixture_directory_remove(empty);
}

static void assert_loads_the_same(const char *parts)
{
    struct error err = {""};
    struct tokenizer *loaded = NULL;
    if (tokenizer_load(parts, &loaded, &err) != 0) {
        fail_msg("%s", err.text);
    }
    assert_same(original, loaded);
    tokenizer_destroy(loaded);
}

// merges.txt without the version line, and with it and without it with CRLF.
static void check_line_ends(const char *parts, const struct strbuf *merges)
{
    size_t version = (size_t)(strchr(merges->bytes, '\n') - merges->bytes) + 1;
    struct strbuf crlf = {0};
    for (size_t i = 0; i < merges->length; i++) {
        strbuf_adds(&crlf, merges->bytes[i] == '\n' ? "\r" : "");
        strbuf_addc(&crlf, merges->bytes[i]);
    }
    fixture_write(parts, "merges.txt", merges->bytes + version, merges->length - version);
    assert_loads_the_same(parts);
    fixture_write(parts, "merges.txt", crlf.bytes, crlf.length);
    assert_loads_the_same(parts);
    fixture_write(parts, "merges.txt", crlf.bytes + version + 1, crlf.length - version - 1);
    assert_loads_the_same(parts);
    strbuf_release(&crlf);
}

// Older directories: added_tokens.json, whose special tokens others name.
static void check_added_apart(const char *parts)
{
    struct error err = {""};
    struct tokenizer *loaded = NULL;
    struct token_list ids = {0};
    static const char config[] =
        "{\"tokenizer_class\": \"Qwen2Tokenizer\", \"eos_token\": \"<|end|>\"}";
    static const char map[] = "{\"additional_special_tokens\": [\"<|one|>\"], \"pad_token\": "
                              "{\"content\": \"<|two|>\"}, \"x_tokens\": 3}";
    static const char added[] =
        "{\"<|end|>\": 500, \"<|one|>\": 501, \"<|two|>\": 502, \"<call>\": 503}";
    static const char text[] = "<|end|><|one|><|two|><call>";
    fixture_write(parts, "tokenizer_config.json", config, strlen(config));
    fixture_write(parts, "added_tokens.json", added, strlen(added));
    fixture_write(parts, "special_tokens_map.json", map, strlen(map));
    if (tokenizer_load(parts, &loaded, &err) != 0) {
        fail_msg("%s", err.text);
    }
    assert_int_equal(tokenizer_eos_id(loaded), 500);
    for (int32_t id = 500; id < 504; id++) {
        assert_int_equal(tokenizer_token_is_special(loaded, id), id < 503);
    }
    assert_int_equal(tokenizer_encode(loaded, NULL, text, strlen(text), true, &ids, &err), 0);
    assert_int_equal(ids.count, 4);
    token_list_release(&ids);
    tokenizer_destroy(loaded);
    static const char *const bad[] = {"[]", "{\"x\": \"y\"}", "{\"x\": 0}", "{"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        fixture_write(parts, "added_tokens.json", bad[i], strlen(bad[i]));
        assert_int_equal(tokenizer_load(parts, &loaded, &err), -1);
        assert_non_null(strstr(err.text, "added_tokens.json"));
    }
}

// The vocabulary is cut from the saved file, the merges are spelled anew.
static void vocab_and_merges_files_give_the_same_tokenizer(void **state)
{
    (void)state;
    struct error err = {""};
    char *parts = fixture_directory_create();
    struct strbuf vocab = {0};
    struct strbuf merges = {0};
    const char *begin = strstr(saved.bytes, "\"vocab\": ") + strlen("\"vocab\": ");
    const char *end = strstr(begin, "\n    }");
    strbuf_add(&vocab, begin, (size_t)(end - begin));
    strbuf_adds(&vocab, "}");
    strbuf_adds(&merges, "#version: 0.2\n");
    for (size_t i = 0; i < original->merge_count; i++) {
        const struct merge *merge = &original->merges[i];
        const int32_t halves[2] = {merge->left, merge->right};
        for (int side = 0; side < 2; side++) {
            size_t length;
            const char *bytes = tokenizer_token_bytes(original, halves[side], &length);
            byte_alphabet_encode(bytes, length, &merges);
            strbuf_adds(&merges, side == 0 ? " " : "\n");
        }
    }
    fixture_write(parts, "vocab.json", vocab.bytes, vocab.length);
    fixture_write(parts, "merges.txt", merges.bytes, merges.length);
    struct tokenizer *loaded = NULL;
    assert_int_equal(tokenizer_load(parts, &loaded, &err), -1); // which pre-tokenizer?
    fixture_write(parts, "tokenizer_config.json", saved_config.bytes, saved_config.length);
    assert_loads_the_same(parts);
    check_line_ends(parts, &merges);
    check_added_apart(parts);
    fixture_directory_remove(parts);
    strbuf_release(&vocab);
    strbuf_release(&merges);
}

// Returns whether the bytes are a tokenizer.
static bool try_bytes(const char *bytes, size_t length, const char *config, size_t config_length)
{
    struct error err = {""};
    struct tokenizer *t = NULL;
    if (tokenizer_parse(bytes, length, config, config_length, &t, &err) != 0) {
        assert_true(err.text[0] != '\0');
        return false;
    }
    // Harmless damage: what was accepted must work.
    struct token_list ids = {0};
    struct strbuf decoded = {0};
    static const char text[] = "The lantern keeper, 1874: naïve <|im_end|> 東京";
    if (tokenizer_encode(t, NULL, text, strlen(text), true, &ids, &err) == 0) {
        assert_int_equal(tokenizer_decode(t, ids.ids, ids.count, &decoded, &err), 0);
    }
    token_list_release(&ids);
    strbuf_release(&decoded);
    tokenizer_destroy(t);
    return true;
}

static void every_truncation_is_an_error(void **state)
{
    (void)state;
    struct error err;
    size_t step = 7;
    size_t meaningful = saved.length - 1; // the last byte is a line break
    for (size_t length = 0; length < meaningful; length += length < 3000 ? 1 : step) {
        struct tokenizer *t = NULL;
        err.text[0] = '\0';
        assert_int_equal(tokenizer_parse(saved.bytes, length, NULL, 0, &t, &err), -1);
        assert_true(err.text[0] != '\0');
    }
    for (size_t length = 0; length + 2 < saved_config.length; length++) {
        struct tokenizer *t = NULL;
        assert_int_equal(
            tokenizer_parse(saved.bytes, saved.length, saved_config.bytes, length, &t, &err), -1);
        assert_non_null(strstr(err.text, "tokenizer_config.json"));
    }
}

// One to four changes each: a flipped bit, another byte, a byte removed, a stretch repeated.
static void mutate(uint64_t seed, struct strbuf *bytes)
{
    static const char likely[] = "{}[]\",:0123456789-. \\pLsS*+?(|)^$&nulltruefals\xC4\xA0";
    size_t changes = 1 + random_u64(seed, 0, 0) % 4;
    for (size_t c = 1; c <= changes; c++) {
        // Half of the changes fall on the part before the vocabulary, which is short.
        size_t reach = random_u64(seed, c, 0) % 2 == 0 ? 2000 : bytes->length;
        size_t at = random_u64(seed, c, 1) % (reach < bytes->length ? reach : bytes->length);
        switch (random_u64(seed, c, 2) % 4) {
        case 0:
            bytes->bytes[at] ^= (char)(1 << random_u64(seed, c, 3) % 8);
            break;
        case 1:
            bytes->bytes[at] = likely[random_u64(seed, c, 3) % (sizeof likely - 1)];
            break;
        case 2:
            memmove(bytes->bytes + at, bytes->bytes + at + 1, bytes->length - at);
            bytes->length--;
            break;
        default: {
            size_t length = 1 + random_u64(seed, c, 3) % 200;
            length = length < bytes->length - at ? length : bytes->length - at;
            struct strbuf tail = {0};
            strbuf_add(&tail, bytes->bytes + at, bytes->length - at);
            bytes->length = at + length;
            strbuf_add(bytes, tail.bytes, tail.length);
            strbuf_release(&tail);
        }
        }
    }
}

static void mutated_files_never_crash(void **state)
{
    (void)state;
    size_t accepted = 0;
    for (uint64_t seed = 0; seed < MUTATIONS; seed++) {
        struct strbuf bytes = {0};
        bool config = seed % 10 == 9;
        const struct strbuf *source = config ? &saved_config : &saved;
        strbuf_add(&bytes, source->bytes, source->length);
        mutate(seed, &bytes);
        accepted += config ? try_bytes(saved.bytes, saved.length, bytes.bytes, bytes.length)
                           : try_bytes(bytes.bytes, bytes.length, NULL, 0);
        strbuf_release(&bytes);
    }
    printf("%zu of %d mutated files are still tokenizers\n", accepted, MUTATIONS);
    assert_true(accepted > 20 && accepted < MUTATIONS / 2);
}

// The saved file with one piece of text replaced.
static void assert_refused(const char *from, const char *to, const char *expected)
{
    struct error err = {""};
    struct strbuf bytes = {0};
    struct tokenizer *t = NULL;
    const char *at = strstr(saved.bytes, from);
    if (at == NULL) {
        fail_msg("the saved file has no '%s'", from);
    }
    strbuf_add(&bytes, saved.bytes, (size_t)(at - saved.bytes));
    strbuf_adds(&bytes, to);
    strbuf_adds(&bytes, at + strlen(from));
    assert_int_equal(tokenizer_parse(bytes.bytes, bytes.length, NULL, 0, &t, &err), -1);
    if (strstr(err.text, expected) == NULL) {
        fail_msg("'%s' does not say '%s'", err.text, expected);
    }
    strbuf_release(&bytes);
}

static void kinds_that_we_do_not_implement_are_refused(void **state)
{
    (void)state;
    assert_refused("\"type\": \"BPE\"", "\"type\": \"Unigram\"", "'Unigram'; only BPE");
    assert_refused("\"type\": \"BPE\"", "\"type\": \"WordPiece\"", "WordPiece");
    assert_refused("\"byte_fallback\": false", "\"byte_fallback\": true", "byte_fallback");
    assert_refused("\"decoder\": {\n    \"type\": \"ByteLevel\"",
                   "\"decoder\": {\n    \"type\": \"WordPiece\"", "decoder is 'WordPiece'");
    assert_refused("\"dropout\": null", "\"dropout\": 0.1", "dropout");
    assert_refused("\"end_of_word_suffix\": null", "\"end_of_word_suffix\": \"</w>\"", "suffix");
    assert_refused("\"NFC\"", "\"Lowercase\"", "normalizer 'Lowercase'");
    assert_refused("\"Isolated\"", "\"Removed\"", "Isolated");
    assert_refused("\"Split\"", "\"Metaspace\"", "Metaspace");
    assert_refused("\"use_regex\": false", "\"use_regex\": true", "two patterns");
    assert_refused("\"lstrip\": false", "\"lstrip\": 7", "lstrip");
    assert_refused("[^\\\\s", "[^\\\\w", "'\\w'");
    assert_refused("[^\\\\s", "[^[a]", "'[a]'");
    assert_refused("(?i:", "(*ACCEPT)(?i:", "'(*A'");
    assert_refused("(?i:", "((?i:", "does not compile");
}

static void wrong_vocabularies_are_refused(void **state)
{
    (void)state;
    assert_refused("\"!\": 0", "\"!\": 1", "given twice");
    assert_refused("\"!\": 0", "\"!\": -1", "outside");
    assert_refused("\"!\": 0", "\"!\": 0.5", "whole number");
    assert_refused("\"!\": 0", "\"!\": 2000000000", "outside");
    assert_refused("\"!\": 0", "\"!!\": 0", "byte 0x21");
    assert_refused("\"id\": 417", "\"id\": 3", "belongs to");
    assert_refused("\"merges\": [", "\"merges\": [\"a\", ", "one space");
    assert_refused("\"merges\": [", "\"merges\": [\"a  b\", ", "one space");
    assert_refused("\"merges\": [", "\"merges\": [\"q zqzq\", ", "not in the vocabulary");
    assert_refused("\"merges\": [", "\"merges\": [7, ", "neither");
}

static void a_missing_directory_is_named(void **state)
{
    (void)state;
    struct error err = {""};
    struct tokenizer *t = NULL;
    assert_int_equal(tokenizer_load("/nonexistent/model", &t, &err), -1);
    assert_string_equal(err.text, "tokenizer in '/nonexistent/model': there is neither "
                                  "tokenizer.json nor vocab.json");
}

static void special_names_must_be_tokens(void **state)
{
    (void)state;
    struct error err = {""};
    struct tokenizer *t = NULL;
    static const char good[] = "{\"eos_token\": {\"content\": \"<|im_end|>\"}}";
    static const char bad[] = "{\"eos_token\": \"</s>\"}";
    assert_int_equal(tokenizer_parse(saved.bytes, saved.length, good, strlen(good), &t, &err), 0);
    assert_int_equal(tokenizer_eos_id(t), 419);
    assert_int_equal(tokenizer_pad_id(t), -1);
    tokenizer_destroy(t);
    assert_int_equal(tokenizer_parse(saved.bytes, saved.length, bad, strlen(bad), &t, &err), -1);
    assert_string_equal(err.text, "eos_token '</s>' is not a token of the vocabulary");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_saved_is_loaded),
        cmocka_unit_test(saving_twice_writes_the_same_bytes),
        cmocka_unit_test(a_full_disk_is_an_error_and_leaves_no_file),
        cmocka_unit_test(vocab_and_merges_files_give_the_same_tokenizer),
        cmocka_unit_test(every_truncation_is_an_error),
        cmocka_unit_test(mutated_files_never_crash),
        cmocka_unit_test(kinds_that_we_do_not_implement_are_refused),
        cmocka_unit_test(wrong_vocabularies_are_refused),
        cmocka_unit_test(a_missing_directory_is_named),
        cmocka_unit_test(special_names_must_be_tokens),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
