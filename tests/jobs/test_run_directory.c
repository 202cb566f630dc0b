// SPDX-License-Identifier: Apache-2.0
#include "base/json.h"
#include "base/mem.h"
#include "jobs/run_directory.h"
#include "jobs/verbs.h"
#include "tests/base/temporary_directory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct none {
    int64_t n;
};
static const struct option no_options[] = {
    {"n", OPTION_INT, offsetof(struct none, n), "N", "3", 0, 9, NULL, "", false}, {0}};
static const struct verb verb = {
    .name = "test", .options = no_options, .options_bytes = sizeof(struct none)};
static const struct none options = {3};

static const struct json *read_summary(const char *path, struct arena *arena)
{
    struct strbuf text = {0};
    struct error err;
    const struct json *root;
    if (fs_read(fs_system(), path, &text, &err) ||
        json_parse(arena, text.bytes, text.length, &root, &err))
        fail_msg("%s", err.text);
    strbuf_release(&text);
    return root;
}

static const char *text_of(const struct json *root, const char *key)
{
    const struct json *value = json_get(root, key);
    return value && value->type == JSON_STRING ? value->string : "";
}

static void summary_tells_how_the_run_stands(void **state)
{
    struct run_directory run;
    struct arena arena = {0};
    struct error err;
    char *summary = fs_join(*state, "run/summary.json");
    assert_int_equal(run_directory_open(&run, *state, true, &verb, &options, &err), 0);
    assert_string_equal(text_of(read_summary(summary, &arena), "state"), "running");
    run_directory_int(&run, "pairs", 7);
    run_directory_number(&run, "loss", 0.25);
    run_directory_text(&run, "identity", "abc");
    assert_int_equal(run_directory_close(&run, EXIT_DONE, &err), EXIT_DONE);
    const struct json *root = read_summary(summary, &arena);
    assert_string_equal(text_of(root, "state"), "done");
    assert_string_equal(text_of(root, "verb"), "test");
    assert_int_equal(json_get(root, "pairs")->integer, 7);
    assert_true(json_get(root, "loss")->number == 0.25);
    assert_null(json_get(root, "reason"));
    arena_release(&arena);
    free(summary);
}

static void reason_of_a_failure_is_kept_even_when_it_is_no_utf8(void **state)
{
    struct run_directory run;
    struct arena arena = {0};
    struct error err;
    char *summary = fs_join(*state, "run/summary.json");
    assert_int_equal(run_directory_open(&run, *state, true, &verb, &options, &err), 0);
    error_set(&err, "cannot read '%s'", "caf\xe9.txt");
    assert_int_equal(run_directory_close(&run, EXIT_FAILED, &err), EXIT_FAILED);
    const struct json *root = read_summary(summary, &arena);
    assert_string_equal(text_of(root, "state"), "failed");
    assert_string_equal(text_of(root, "reason"), "cannot read 'caf?.txt'");
    arena_release(&arena);
    free(summary);
}

static void a_finished_run_is_known_by_its_identity(void **state)
{
    struct run_directory run;
    struct error err;
    bool done = true;
    char *weights = fs_join(*state, "model.safetensors");
    assert_int_equal(run_directory_was_done(*state, "abc", &done, &err), 0);
    assert_false(done); // nothing there
    assert_int_equal(run_directory_open(&run, *state, true, &verb, &options, &err), 0);
    run_directory_text(&run, "identity", "abc");
    assert_int_equal(run_directory_close(&run, EXIT_DONE, &err), EXIT_DONE);
    assert_int_equal(run_directory_was_done(*state, "abc", &done, &err), 0);
    assert_false(done); // its output is gone
    assert_int_equal(fs_write_text(fs_system(), weights, "x", 1, &err), 0);
    assert_int_equal(run_directory_was_done(*state, "abc", &done, &err), 0);
    assert_true(done);
    assert_int_equal(run_directory_was_done(*state, "other", &done, &err), -1);
    assert_non_null(strstr(err.text, "another --out"));
    free(weights);
}

static void a_model_without_a_run_is_not_overwritten(void **state)
{
    static const char *const names[] = {"model.safetensors", "model.safetensors.index.json"};
    for (int i = 0; i < 2; i++) {
        struct error err;
        bool done = true;
        char *weights = fs_join(*state, names[i]);
        assert_int_equal(fs_write_text(fs_system(), weights, "x", 1, &err), 0);
        assert_int_equal(run_directory_was_done(*state, "abc", &done, &err), -1);
        assert_false(done);
        assert_non_null(strstr(err.text, "another --out"));
        assert_int_equal(fs_system()->ops->remove(fs_system()->state, weights), 0);
        free(weights);
    }
}

static void metrics_of_all_attempts_are_appended(void **state)
{
    struct error err;
    struct strbuf line = {0}, all = {0};
    char *path = fs_join(*state, "run/metrics.jsonl");
    strbuf_adds(&line, "{\"step\":1}");
    for (int attempt = 0; attempt < 2; attempt++) {
        struct run_directory run;
        assert_int_equal(run_directory_open(&run, *state, true, &verb, &options, &err), 0);
        assert_int_equal(run_directory_metric(&run, &line, &err), 0);
        run_directory_close(&run, EXIT_STOPPED, &err);
    }
    assert_int_equal(fs_read(fs_system(), path, &all, &err), 0);
    assert_string_equal(all.bytes, "{\"step\":1}\n{\"step\":1}\n");
    strbuf_release(&line);
    strbuf_release(&all);
    free(path);
}

static void a_torn_line_is_cut_off(void **state)
{
    static const char *const before[] = {"{\"step\":1}\n{\"st", "{\"st", "", "{\"step\":1}\n"};
    static const char *const after[] = {"{\"step\":1}\n{\"n\":2}\n", "{\"n\":2}\n", "{\"n\":2}\n",
                                        "{\"step\":1}\n{\"n\":2}\n"};
    char *directory = fs_join(*state, "run"), *path = fs_join(directory, "metrics.jsonl");
    struct strbuf line = {0};
    struct error err;
    assert_int_equal(fs_make_directories(fs_system(), directory, &err), 0);
    free(directory);
    strbuf_adds(&line, "{\"n\":2}");
    for (int i = 0; i < 4; i++) {
        struct run_directory run;
        struct strbuf all = {0};
        assert_int_equal(fs_write_text(fs_system(), path, before[i], strlen(before[i]), &err), 0);
        assert_int_equal(run_directory_open(&run, *state, true, &verb, &options, &err), 0);
        assert_int_equal(run_directory_metric(&run, &line, &err), 0);
        run_directory_close(&run, EXIT_STOPPED, &err);
        assert_int_equal(fs_read(fs_system(), path, &all, &err), 0);
        assert_string_equal(all.bytes, after[i]);
        strbuf_release(&all);
    }
    strbuf_release(&line);
    free(path);
}

#define IN_DIRECTORY(test)                                                                         \
    cmocka_unit_test_setup_teardown(test, temporary_directory_setup, temporary_directory_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_DIRECTORY(summary_tells_how_the_run_stands),
        IN_DIRECTORY(reason_of_a_failure_is_kept_even_when_it_is_no_utf8),
        IN_DIRECTORY(a_finished_run_is_known_by_its_identity),
        IN_DIRECTORY(a_model_without_a_run_is_not_overwritten),
        IN_DIRECTORY(a_torn_line_is_cut_off),
        IN_DIRECTORY(metrics_of_all_attempts_are_appended),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
