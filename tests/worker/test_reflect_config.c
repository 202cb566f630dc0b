// SPDX-License-Identifier: Apache-2.0
#include "worker/reflect/reflect_config.h"

#include "base/json.h"
#include "tests/base/temporary_directory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct reflect_config built_in(void)
{
    struct reflect_config config;
    struct error err = {""};
    assert_int_equal(reflect_config_load(NULL, NULL, &config, &err), 0);
    return config;
}

static void built_in_values_are_the_papers(void **state)
{
    (void)state;
    const struct reflect_config config = built_in();
    const enum request_kind writing[] = {REQUEST_DIRECT,   REQUEST_INDIRECT, REQUEST_CONSOLIDATE,
                                         REQUEST_ENTITIES, REQUEST_LOOKUP,   REQUEST_CROSS};
    for (size_t i = 0; i < sizeof writing / sizeof *writing; i++) {
        const struct request_limits *limits = &config.requests[writing[i]];
        assert_true(limits->sampling.temperature == 1.1f);
        assert_true(limits->sampling.top_p == 0.95f);
        assert_int_equal(limits->sampling.top_k, 0);
    }
    assert_true(config.requests[REQUEST_JUDGE].sampling.temperature == 0);
    assert_true(config.requests[REQUEST_REWRITE].sampling.temperature == 0);
    assert_int_equal(config.requests[REQUEST_DIRECT].max_tokens, 32768);
    assert_int_equal(config.requests[REQUEST_CROSS].answer.batch, 20);
    assert_int_equal(config.rounds, 3);
    assert_int_equal(config.least_pairs, 3);
}

static void a_file_changes_what_it_names(void **state)
{
    char *path = fs_join(*state, "mine.json");
    const char text[] = "{\"rounds\": 0, \"cross\": {\"batch\": 5, \"top_p\": 0.5}}";
    struct reflect_config plain = built_in(), mine;
    struct error err = {""};
    assert_int_equal(fs_write_text(fs_system(), path, text, strlen(text), &err), 0);
    assert_int_equal(reflect_config_load(fs_system(), path, &mine, &err), 0);
    assert_int_equal(mine.rounds, 0);
    assert_int_equal(mine.requests[REQUEST_CROSS].answer.batch, 5);
    assert_true(mine.requests[REQUEST_CROSS].sampling.top_p == 0.5f);
    assert_false(digest_equal(reflect_config_digest(&mine), reflect_config_digest(&plain)));
    plain.rounds = 0;
    plain.requests[REQUEST_CROSS].answer.batch = 5;
    plain.requests[REQUEST_CROSS].sampling.top_p = 0.5f;
    assert_true(digest_equal(reflect_config_digest(&mine), reflect_config_digest(&plain)));
    free(path);
}

static void wrong_files_are_refused(void **state)
{
    (void)state;
    const char *const cases[][2] = {
        {"[]", "an array, not an object"},
        {"{\"round\":1}", "unknown key 'round'"},
        {"{\"judge\":{\"batch\":5}}", "'judge': unknown key 'batch'"},
        {"{\"lookup\":{\"answer_chars\":5}}", "'lookup': unknown key 'answer_chars'"},
        {"{\"direct\":7}", "'direct': a number, not an object"},
        {"{\"direct\":{\"top_p\":1.5}}", "'direct': 'top_p' is 1.5, outside 0 to 1"},
        {"{\"direct\":{\"max_tokens\":0}}",
         "'direct': 'max_tokens' is 0, outside 1 to 1.67772e+07"},
        {"{\"tries\":1.5}", "'tries' is 1.5, not a whole number"},
        {"{\"tries\":\"3\"}", "'tries' is a string, not a number"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct reflect_config config = built_in();
        struct error err = {""};
        assert_int_equal(reflect_config_parse(cases[i][0], strlen(cases[i][0]), &config, &err), -1);
        assert_string_equal(err.text, cases[i][1]);
    }
    struct reflect_config config;
    struct error err = {""};
    assert_int_equal(reflect_config_load(fs_system(), "/nowhere.json", &config, &err), -1);
    assert_non_null(strstr(err.text, "/nowhere.json"));
}

// Another number for the key, in the section or (NULL) at the top: the digest must notice.
static void assert_counts(const char *section, const char *key, double value)
{
    struct reflect_config plain = built_in(), other = plain;
    struct error err = {""};
    char text[200];
    value = value == 1 || value == 0 ? 1 - value : value + 1;
    value = strcmp(key, "top_p") == 0 ? 0.5 : value;
    snprintf(text, sizeof text, section ? "{\"%s\":{\"%s\":%g}}" : "{%s\"%s\":%g}",
             section ? section : "", key, value);
    assert_int_equal(reflect_config_parse(text, strlen(text), &other, &err), 0);
    assert_false(digest_equal(reflect_config_digest(&plain), reflect_config_digest(&other)));
}

// Every key of the committed file is part of the digest, and of the README beside it.
static void every_key_counts_and_is_explained(void **state)
{
    (void)state;
    struct strbuf text = {0}, readme = {0};
    struct error err = {""};
    struct arena arena = {0};
    const struct json *root;
    assert_int_equal(
        fs_read(fs_system(), MEMO_SOURCE_DIRECTORY "/datasets/prompts/steps.json", &text, &err), 0);
    assert_int_equal(
        fs_read(fs_system(), MEMO_SOURCE_DIRECTORY "/datasets/prompts/README.md", &readme, &err),
        0);
    assert_int_equal(json_parse(&arena, text.bytes, text.length, &root, &err), 0);
    for (size_t i = 0; i < root->length; i++) {
        const struct json *value = &root->items[i];
        char name[100];
        if (value->type == JSON_NUMBER) {
            assert_counts(NULL, root->keys[i], value->number);
            snprintf(name, sizeof name, "`%s`", root->keys[i]);
            assert_non_null(strstr(readme.bytes, name));
        }
        for (size_t k = 0; value->type == JSON_OBJECT && k < value->length; k++) {
            assert_counts(root->keys[i], value->keys[k], value->items[k].number);
            snprintf(name, sizeof name, "`%s`", value->keys[k]);
            assert_non_null(strstr(readme.bytes, name));
        }
    }
    arena_release(&arena);
    strbuf_release(&text);
    strbuf_release(&readme);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(built_in_values_are_the_papers),
        cmocka_unit_test_setup_teardown(a_file_changes_what_it_names, temporary_directory_setup,
                                        temporary_directory_teardown),
        cmocka_unit_test(wrong_files_are_refused),
        cmocka_unit_test(every_key_counts_and_is_explained),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
