// SPDX-License-Identifier: Apache-2.0
#include "jobs/stage.h"

#include "base/fs.h"
#include "base/mem.h"
#include "tests/base/temporary_directory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static char *directory;

static int set_up(void **state)
{
    const int rc = temporary_directory_setup(state);
    directory = *state;
    return rc;
}

static char *write_file(const char *name, const char *text)
{
    char *path = fs_join(directory, name);
    char *parent = mem_strdup(path);
    *strrchr(parent, '/') = '\0';
    assert_int_equal(fs_make_directories(fs_system(), parent, NULL), 0);
    assert_int_equal(fs_write_text(fs_system(), path, text, strlen(text), NULL), 0);
    free(parent);
    return path;
}

static void put(const char *name, const char *text)
{
    free(write_file(name, text));
}

static struct digest digest_of(const char *name)
{
    struct digest digest;
    char *path = fs_join(directory, name);
    assert_int_equal(stage_digest(path, &digest, NULL), 0);
    free(path);
    return digest;
}

static void words_are_split_at_white_space(void **state)
{
    (void)state;
    struct words words = {0};
    words_split(&words, "  --lr 1e-4\t--epochs  3 ");
    words_add(&words, "two words");
    assert_int_equal(words.count, 5);
    assert_string_equal(words.items[0], "--lr");
    assert_string_equal(words.items[3], "3");
    assert_string_equal(words.items[4], "two words");
    assert_null(words.items[5]);
    words_release(&words);
    words_split(&words, " ");
    assert_int_equal(words.count, 0);
    words_release(&words);
}

static void digest_of_directory_is_names_and_bytes_without_records(void **state)
{
    (void)state;
    put("out/a", "1");
    put("out/deep/b", "2");
    const struct digest first = digest_of("out");
    put("out/run/log.txt", "said");
    assert_true(digest_equal(first, digest_of("out")));
    put("out/deep/b", "3");
    assert_false(digest_equal(first, digest_of("out")));
    put("out/deep/b", "2");
    assert_true(digest_equal(first, digest_of("out")));
    put("out/deep/c", "");
    assert_false(digest_equal(first, digest_of("out")));
}

static void mark_speaks_for_these_inputs_and_this_content_alone(void **state)
{
    (void)state;
    const struct digest inputs = digest_bytes("in", 2), others = digest_bytes("on", 2);
    struct digest made, found;
    char *mark = fs_join(directory, "train.done"), *output = write_file("model/weights", "w");
    assert_false(stage_is_done(mark, inputs, output, &found));
    assert_int_equal(stage_mark(mark, inputs, output, 1.5, &made, NULL), 0);
    assert_true(stage_is_done(mark, inputs, output, &found));
    assert_true(digest_equal(made, found));
    assert_false(stage_is_done(mark, others, output, &found));
    put("model/weights", "v");
    assert_false(stage_is_done(mark, inputs, output, &found));
    put("model/weights", "w");
    assert_true(stage_is_done(mark, inputs, output, &found));
    assert_int_equal(remove(output), 0);
    assert_false(stage_is_done(mark, inputs, output, &found));
    free(mark);
    free(output);
}

static void damaged_mark_is_no_mark(void **state)
{
    (void)state;
    static const char *const damaged[] = {"", "{", "[]", "{\"inputs\":1}", "{\"inputs\":\"00\"}"};
    const struct digest inputs = digest_bytes("in", 2);
    struct digest found;
    char *output = write_file("weights", "w");
    for (size_t i = 0; i < sizeof(damaged) / sizeof(damaged[0]); i++) {
        char *mark = write_file("train.done", damaged[i]);
        assert_false(stage_is_done(mark, inputs, output, &found));
        free(mark);
    }
    free(output);
}

static void absent_output_cannot_be_marked(void **state)
{
    (void)state;
    struct error err = {0};
    struct digest made;
    char *mark = fs_join(directory, "train.done"), *output = fs_join(directory, "absent");
    assert_int_equal(stage_mark(mark, digest_bytes("in", 2), output, 1, &made, &err), -1);
    assert_non_null(strstr(err.text, output));
    assert_false(fs_exists(fs_system(), mark));
    free(mark);
    free(output);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_are_split_at_white_space),
        cmocka_unit_test_setup_teardown(digest_of_directory_is_names_and_bytes_without_records,
                                        set_up, temporary_directory_teardown),
        cmocka_unit_test_setup_teardown(mark_speaks_for_these_inputs_and_this_content_alone, set_up,
                                        temporary_directory_teardown),
        cmocka_unit_test_setup_teardown(damaged_mark_is_no_mark, set_up,
                                        temporary_directory_teardown),
        cmocka_unit_test_setup_teardown(absent_output_cannot_be_marked, set_up,
                                        temporary_directory_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
