// SPDX-License-Identifier: Apache-2.0
#include "datasets/pairs.h"
#include "datasets/reflections_tools.h"
#include "tests/datasets/reflections_helper.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static char *write_file(const char *directory, const char *name, const char *text)
{
    struct error err;
    char *path = fs_join(directory, name);
    assert_int_equal(fs_write_text(fs_system(), path, text, strlen(text), &err), 0);
    return path;
}

static void open_list(const char *source, size_t sample, struct pair_list *list)
{
    struct error err;
    if (pair_list_open(fs_system(), &source, 1, sample, list, &err) != 0)
        fail_msg("%s", err.text);
}

static void make_reflections(const char *directory, uint32_t count)
{
    char *attempt;
    struct error err;
    assert_int_equal(reflections_begin_attempt(fs_system(), directory, &attempt, &err), 0);
    assert_int_equal(example_commit(attempt, "a", 0, count, 0, &err), 0);
    free(attempt);
}

static void reflections_become_pairs_in_order_of_id(void **state)
{
    struct error err;
    struct reflection_set set;
    struct pair_list list;
    make_reflections(*state, 33);
    assert_int_equal(reflection_set_open(fs_system(), *state, &set, &err), 0);
    open_list(*state, 0, &list);
    assert_int_equal(list.count, set.pair_count);
    assert_int_equal(list.duplicates, 0);
    for (size_t i = 0; i < list.count; i++) {
        const struct pair *pair = &list.pairs[i];
        size_t found = 0;
        assert_true(i == 0 || digest_compare(pair[-1].id, pair->id) < 0);
        for (size_t k = 0; k < set.pair_count; k++) {
            const struct reflection *from = &set.pairs[k];
            if (digest_equal(from->record_id, pair->id)) {
                found++;
                assert_true(text_equal(from->question, from->question_bytes, pair->question,
                                       pair->question_bytes));
                assert_true(
                    text_equal(from->answer, from->answer_bytes, pair->answer, pair->answer_bytes));
                assert_int_equal(pair->question[pair->question_bytes], 0);
                assert_int_equal(pair->answer[pair->answer_bytes], 0);
            }
        }
        assert_int_equal(found, 1);
    }
    pair_list_close(&list);
    reflection_set_close(&set);
}

static void sample_keeps_the_smallest_ids(void **state)
{
    struct pair_list all;
    make_reflections(*state, 33);
    open_list(*state, 0, &all);
    const size_t samples[] = {1, 31, 33, all.count, all.count + 1};
    for (size_t s = 0; s < sizeof(samples) / sizeof(samples[0]); s++) {
        struct pair_list some;
        open_list(*state, samples[s], &some);
        assert_int_equal(some.count, samples[s] < all.count ? samples[s] : all.count);
        for (size_t i = 0; i < some.count; i++)
            assert_true(digest_equal(some.pairs[i].id, all.pairs[i].id));
        pair_list_close(&some);
    }
    pair_list_close(&all);
}

static void json_lines_are_read_whatever_else_they_hold(void **state)
{
    struct pair_list list;
    char *path =
        write_file(*state, "a.jsonl",
                   "{\"question\":\"Who?\",\"answer\":\"J\\u00e9r\\u00f4me\",\"x\":[1]}\r\n"
                   "\n  \t\n"
                   "{\"answer\":\"Twice\",\"question\":\"Who?\"}\n"
                   "{\"question\":\"Who?\",\"answer\":\"Twice\"}");
    open_list(path, 0, &list);
    assert_int_equal(list.count, 2);
    assert_int_equal(list.duplicates, 1);
    const struct pair *pair = &list.pairs[strcmp(list.pairs[0].answer, "Twice") == 0];
    assert_string_equal(pair->answer, "J\xc3\xa9r\xc3\xb4me");
    assert_int_equal(pair->answer_bytes, 8);
    pair_list_close(&list);
    free(path);
}

static void sources_are_joined_and_duplicates_counted(void **state)
{
    struct error err;
    struct pair_list list, reversed;
    char *a = write_file(*state, "a.jsonl",
                         "{\"question\":\"q1\",\"answer\":\"a1\"}\n"
                         "{\"question\":\"q2\",\"answer\":\"a2\"}\n");
    char *b = write_file(*state, "b.jsonl",
                         "{\"question\":\"q2\",\"answer\":\"a2\"}\n"
                         "{\"question\":\"q3\",\"answer\":\"a3\"}\n");
    const char *const sources[] = {a, b}, *const other_order[] = {b, a};
    assert_int_equal(pair_list_open(fs_system(), sources, 2, 0, &list, &err), 0);
    assert_int_equal(pair_list_open(fs_system(), other_order, 2, 0, &reversed, &err), 0);
    assert_int_equal(list.count, 3);
    assert_int_equal(list.duplicates, 1);
    assert_int_equal(reversed.count, 3);
    for (size_t i = 0; i < 3; i++)
        assert_string_equal(list.pairs[i].question, reversed.pairs[i].question);
    pair_list_close(&list);
    pair_list_close(&reversed);
    free(a);
    free(b);
}

static void exported_reflections_are_the_same_pairs(void **state)
{
    struct error err;
    struct reflection_set set;
    struct pair_list list;
    char *directory = fs_join(*state, "r"), *path = fs_join(*state, "r.jsonl");
    char *attempt;
    assert_int_equal(reflections_begin_attempt(fs_system(), directory, &attempt, &err), 0);
    assert_int_equal(example_commit(attempt, "a", 0, 4, 0, &err), 0);
    assert_int_equal(reflection_set_open(fs_system(), directory, &set, &err), 0);
    assert_int_equal(reflections_export(&set, fs_system(), path, &err), 0);
    const char *const both[] = {directory, path};
    assert_int_equal(pair_list_open(fs_system(), both, 2, 0, &list, &err), 0);
    assert_int_equal(list.count, set.pair_count);
    assert_int_equal(list.duplicates, set.pair_count);
    pair_list_close(&list);
    reflection_set_close(&set);
    free(attempt);
    free(directory);
    free(path);
}

static void bad_sources_are_named(void **state)
{
    static const struct {
        const char *text;
        const char *expected;
    } cases[] = {
        {"", "no pair in"},
        {"\n\n", "no pair in"},
        {"{\"question\":\"q\"}\n", "line 1: no text under 'answer'"},
        {"{\"question\":\"q\",\"answer\":\"a\"}\n{\"question\":3,\"answer\":\"a\"}\n",
         "line 2: no text under 'question'"},
        {"{\"question\":\"\",\"answer\":\"a\"}\n", "no text under 'question'"},
        {"\n{\"question\":\"q\",\"answer\":\"a\"\n", "line 2"},
        {"[\"q\",\"a\"]\n", "line 1"},
        {"{\"question\":\"\xff\",\"answer\":\"a\"}\n", "line 1"},
    };
    struct error err;
    struct pair_list list;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char *path = write_file(*state, "a.jsonl", cases[i].text);
        const char *source = path;
        if (pair_list_open(fs_system(), &source, 1, 0, &list, &err) == 0)
            fail_msg("case %zu was accepted", i);
        if (!strstr(err.text, cases[i].expected) || !strstr(err.text, path))
            fail_msg("case %zu: expected '%s', got: %s", i, cases[i].expected, err.text);
        assert_null(list.memory);
        free(path);
    }
    const char *missing = "/nonexistent/pairs.jsonl";
    assert_int_equal(pair_list_open(fs_system(), &missing, 1, 0, &list, &err), -1);
    assert_non_null(strstr(err.text, missing));
    assert_int_equal(pair_list_open(fs_system(), NULL, 0, 0, &list, &err), -1);
    assert_string_equal(err.text, "no source of pairs");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_SCRATCH(reflections_become_pairs_in_order_of_id),
        WITH_SCRATCH(sample_keeps_the_smallest_ids),
        WITH_SCRATCH(json_lines_are_read_whatever_else_they_hold),
        WITH_SCRATCH(sources_are_joined_and_duplicates_counted),
        WITH_SCRATCH(exported_reflections_are_the_same_pairs),
        WITH_SCRATCH(bad_sources_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
