// SPDX-License-Identifier: Apache-2.0
// Which checkpoints are kept, and what they tell about the environment that they were made in.
#include "tests/base/temporary_directory.h"
#include "tests/worker/train_fixture.h"

#include "base/mem.h"
#include "worker/train/checkpoint.h"
#include "worker/train/checkpoint_manifest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct sequence_set set; // 4 steps an epoch

static int set_setup(void **state)
{
    (void)state;
    fixture_set_fill(&set, 31, 9);
    return 0;
}

static int set_teardown(void **state)
{
    (void)state;
    sequence_set_release(&set);
    return 0;
}

static struct training training_in(const char *directory)
{
    struct training training = training_default(&set);
    training.checkpoints = directory;
    training.options.plan.epochs = 3; // 12 steps
    training.save_every = 1;
    return training;
}

// The steps of the checkpoints that are there, as "3 11 12 ".
static void assert_steps(const char *directory, const char *expected)
{
    struct fs_names names;
    struct error err;
    char found[128] = "";
    assert_int_equal(fs_list(fs_system(), directory, &names, &err), 0);
    for (size_t i = 0; i < names.count; i++)
        sprintf(found + strlen(found), "%d ", atoi(names.names[i] + strlen("step-")));
    assert_string_equal(found, expected);
    fs_names_release(&names);
}

static double best_at_three(size_t step)
{
    return step == 3 ? 0.5 : 1;
}

static double falling(size_t step)
{
    return -(double)step;
}

static double all_alike(size_t step)
{
    (void)step;
    return 1;
}

static void the_best_is_kept_besides_the_newest(void **state)
{
    static const struct {
        double (*measure)(size_t step);
        const char *steps;
    } cases[] = {{best_at_three, "3 11 12 "},
                 {falling, "11 12 "},
                 {all_alike, "1 11 12 "},
                 {NULL, "11 12 "}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        char *directory = mem_printf("%s/%zu", (const char *)*state, i);
        struct training training = training_in(directory);
        training.behind = i % 2 == 0;
        training.measure = cases[i].measure;
        strcpy(training.score.name, "loss");
        training_run_well(&training);
        assert_steps(directory, cases[i].steps);
        training_release(&training);
        free(directory);
    }
}

static void the_best_is_found_with_its_score(void **state)
{
    int64_t step;
    struct held_out_score score;
    struct error err;
    char *missing = fs_join(*state, "missing");
    assert_int_equal(checkpoint_best(fs_system(), missing, "loss", &step, &score, &err), 0);
    assert_int_equal(step, -1);
    struct training training = training_in(*state);
    training.measure = best_at_three;
    strcpy(training.score.name, "loss");
    training_run_well(&training);
    assert_int_equal(checkpoint_best(fs_system(), *state, "loss", &step, &score, &err), 0);
    assert_int_equal(step, 3);
    assert_true(score.known && score.value == 0.5);
    assert_int_equal(checkpoint_best(fs_system(), *state, "f1", &step, &score, &err), 0);
    assert_int_equal(step, -1);
    assert_false(score.known);
    training_release(&training);
    free(missing);
}

// A run that measures something else keeps by that, and one that is continued still knows the best.
static void a_continued_run_keeps_the_best_of_before(void **state)
{
    struct training first = training_in(*state), second = first, third = first;
    strcpy(first.score.name, "loss");
    second.score = first.score;
    strcpy(third.score.name, "exact");
    first.measure = best_at_three;
    first.stop_after = 6;
    training_run_well(&first);
    assert_steps(*state, "3 5 6 ");
    second.measure = all_alike;
    second.stop_after = 3;
    training_run_well(&second);
    assert_int_equal(second.first_step, 6);
    assert_steps(*state, "3 8 9 ");
    third.measure = all_alike;
    training_run_well(&third);
    assert_steps(*state, "10 11 12 ");
    training_release(&first);
    training_release(&second);
    training_release(&third);
}

// It may be the best: what cannot be read is not thrown away, and is said where the best is needed.
static void a_checkpoint_that_cannot_be_read_is_kept(void **state)
{
    struct training first = training_in(*state), second;
    struct error err;
    int64_t step;
    struct held_out_score score;
    char *manifest = mem_printf("%s/step-00000003/manifest.json", (const char *)*state);
    strcpy(first.score.name, "loss");
    second = first;
    first.measure = best_at_three;
    first.stop_after = 5;
    training_run_well(&first);
    assert_int_equal(fs_write_text(fs_system(), manifest, "{}", 2, &err), 0);
    second.measure = all_alike;
    training_run_well(&second);
    assert_steps(*state, "3 4 11 12 "); // of those that can be read, 4 is the best
    assert_int_equal(checkpoint_best(fs_system(), *state, "loss", &step, &score, &err), -1);
    assert_non_null(strstr(err.text, manifest));
    training_release(&first);
    training_release(&second);
    free(manifest);
}

static struct training continued(const char *directory, const struct training *how, size_t steps)
{
    struct training training = *how;
    training.checkpoints = directory;
    training.stop_after = steps;
    training.state = NULL;
    training_run_well(&training);
    return training;
}

static void assert_changed(const struct training *training, const char *what)
{
    if (strcmp(training->changed, what) != 0)
        fail_msg("'%s' is not '%s'", training->changed, what);
}

static void an_equal_environment_changes_nothing(void **state)
{
    struct training how = training_in(NULL);
    how.ranks = 2;
    struct training first = continued(*state, &how, 3), second = continued(*state, &how, 3);
    assert_int_equal(second.loaded, 1);
    assert_changed(&first, "");
    assert_changed(&second, "");
    training_release(&first);
    training_release(&second);
}

static void other_ranks_stage_and_micro_batches_are_told(void **state)
{
    struct training how = training_in(NULL);
    how.ranks = 2;
    struct training first = continued(*state, &how, 3);
    how.ranks = 1;
    how.options.zero = ZERO_2;
    how.options.micro_batch_tokens = 64;
    struct training second = continued(*state, &how, 3);
    assert_changed(&second, "ranks (2, now 1) and stage (0, now 2) and micro-batch tokens (48, now "
                            "64)");
    struct training third = continued(*state, &how, 3);
    assert_changed(&third, "");
    // But what was rounded once stays so, and the checkpoints say it.
    struct manifest manifest;
    struct error err;
    char *path = fs_join(*state, "step-00000009");
    assert_int_equal(manifest_read(fs_system(), path, &manifest, &err), 0);
    assert_string_equal(manifest.rounded, second.changed);
    assert_string_equal(manifest.environment.values[ENVIRONMENT_RANKS], "1");
    manifest_release(&manifest);
    free(path);
    training_release(&first);
    training_release(&second);
    training_release(&third);
}

static void with_exact_sums_ranks_and_stage_do_not_matter(void **state)
{
    struct training how = training_in(NULL);
    how.options.exact_sums = true;
    how.ranks = 3;
    struct training first = continued(*state, &how, 3);
    how.ranks = 1;
    how.options.zero = ZERO_1;
    struct training second = continued(*state, &how, 3);
    assert_int_equal(second.loaded, 1);
    assert_changed(&second, "");
    how.options.micro_batch_tokens = 50;
    struct training third = continued(*state, &how, 3);
    assert_changed(&third, "micro-batch tokens (48, now 50)");
    training_release(&first);
    training_release(&second);
    training_release(&third);
}

static void set_field(struct environment *environment, int field, const char *value)
{
    free(environment->values[field]);
    environment->values[field] = value ? mem_strdup(value) : NULL;
}

// What a test cannot change on its machine.
static void every_field_is_compared(void **state)
{
    (void)state;
    for (int f = 0; f < ENVIRONMENT_FIELDS; f++) {
        struct environment was = {{0}}, is = {{0}};
        struct strbuf text = {0};
        for (int g = 0; g < ENVIRONMENT_FIELDS; g++) {
            set_field(&was, g, "one");
            set_field(&is, g, "one");
        }
        environment_compare(&was, &is, false, &text);
        assert_int_equal(text.length, 0);
        set_field(&is, f, "two");
        environment_compare(&was, &is, false, &text);
        assert_non_null(strstr(text.bytes, environment_names[f]));
        strbuf_reset(&text);
        set_field(&is, f, NULL);
        environment_compare(&was, &is, false, &text);
        assert_non_null(strstr(text.bytes, environment_names[f]));
        environment_release(&was);
        environment_release(&is);
        strbuf_release(&text);
    }
}

static void another_device_matters_with_exact_sums_too(void **state)
{
    (void)state;
    struct environment was = {{0}}, is = {{0}};
    struct strbuf text = {0};
    set_field(&was, ENVIRONMENT_DEVICES, "cpu avx512, 2 threads");
    set_field(&is, ENVIRONMENT_DEVICES, "cpu avx2, 2 threads");
    set_field(&was, ENVIRONMENT_PROGRAM, "0");
    set_field(&is, ENVIRONMENT_PROGRAM, "1");
    environment_compare(&was, &is, true, &text);
    assert_string_equal(text.bytes,
                        "devices (cpu avx512, 2 threads, now cpu avx2, 2 threads) and program");
    environment_release(&was);
    environment_release(&is);
    strbuf_release(&text);
}

#define TEST(name)                                                                                 \
    cmocka_unit_test_setup_teardown(name, temporary_directory_setup, temporary_directory_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_best_is_kept_besides_the_newest),
        TEST(the_best_is_found_with_its_score),
        TEST(a_continued_run_keeps_the_best_of_before),
        TEST(a_checkpoint_that_cannot_be_read_is_kept),
        TEST(an_equal_environment_changes_nothing),
        TEST(other_ranks_stage_and_micro_batches_are_told),
        TEST(with_exact_sums_ranks_and_stage_do_not_matter),
        TEST(every_field_is_compared),
        TEST(another_device_matters_with_exact_sums_too),
    };
    return cmocka_run_group_tests(tests, set_setup, set_teardown);
}
