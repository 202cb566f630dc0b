// SPDX-License-Identifier: Apache-2.0
// A continued run is the uninterrupted one; writes that fail lose nothing that was there.
#include "tests/base/temporary_directory.h"
#include "tests/worker/train_fixture.h"

#include "worker/train/checkpoint.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static struct sequence_set set; // 4 steps an epoch
enum { EPOCHS = 3, STEPS = 12 };

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

static struct training training_in(const char *directory, int ranks)
{
    struct training training = training_default(&set);
    training.checkpoints = directory;
    training.ranks = ranks;
    training.options.plan.epochs = EPOCHS;
    return training;
}

static struct training uninterrupted(int ranks)
{
    struct training training = training_in(NULL, ranks);
    training_run_well(&training);
    assert_int_equal(training.steps, STEPS);
    return training;
}

static void assert_entries(const char *directory, const char *const *names, size_t count)
{
    struct fs_names found;
    struct error err;
    assert_int_equal(fs_list(fs_system(), directory, &found, &err), 0);
    assert_int_equal(found.count, count);
    for (size_t i = 0; i < count; i++)
        assert_string_equal(found.names[i], names[i]);
    fs_names_release(&found);
}

static void without_a_checkpoint_nothing_is_loaded(void **state)
{
    struct training training = training_in(*state, 1);
    training.stop_after = 1;
    training_run_well(&training); // an empty directory
    assert_int_equal(training.loaded, 0);
    char *missing = fs_join(*state, "missing");
    training.checkpoints = missing;
    training_run_well(&training);
    assert_int_equal(training.loaded, 0);
    assert_int_equal(training.first_step, 0);
    free(missing);
    training_release(&training);
}

static void assert_continues_bit_for_bit(const char *directory, int ranks, size_t stop)
{
    struct training whole = uninterrupted(ranks);
    struct training first = training_in(directory, ranks);
    first.stop_after = stop;
    first.save_every = stop;
    training_run_well(&first);
    struct training second = training_in(directory, ranks);
    training_run_well(&second);
    assert_int_equal(second.loaded, 1);
    assert_int_equal(second.first_step, stop);
    assert_int_equal(second.steps, STEPS - stop);
    assert_losses_near(&whole, &second, 0);
    assert_same_state(&whole, &second);
    training_release(&whole);
    training_release(&first);
    training_release(&second);
}

static void a_continued_run_is_the_uninterrupted_one(void **state)
{
    assert_continues_bit_for_bit(*state, 1, 7); // inside an epoch
}

static void a_run_continued_at_the_end_of_an_epoch_is_too(void **state)
{
    assert_continues_bit_for_bit(*state, 1, 8);
}

static void a_run_of_three_ranks_is_too(void **state)
{
    assert_continues_bit_for_bit(*state, 3, 5);
}

static void a_finished_run_has_nothing_left_to_do(void **state)
{
    struct training whole = training_in(*state, 1), again = whole;
    whole.save_every = STEPS;
    training_run_well(&whole);
    training_run_well(&again);
    assert_int_equal(again.loaded, 1);
    assert_int_equal(again.steps, 0);
    assert_same_state(&whole, &again);
    training_release(&whole);
    training_release(&again);
}

static void any_number_of_ranks_continues(void **state)
{
    static const int ranks[] = {1, 4, 2, 3, 1};
    struct training whole = uninterrupted(1);
    for (size_t i = 0; i < 5; i++) {
        struct training part = training_in(*state, ranks[i]);
        part.stop_after = 2;
        part.save_every = 2;
        training_run_well(&part);
        assert_int_equal(part.loaded, i > 0);
        assert_int_equal(part.first_step, 2 * i);
        assert_losses_near(&whole, &part, 1e-5);
        training_release(&part);
    }
    training_release(&whole);
}

// Saves every second step and is killed after step 7, all ranks with it.
static void run_and_be_killed(const char *directory, int ranks)
{
    const pid_t pid = fork();
    if (pid == 0) {
        struct training killed = training_in(directory, ranks);
        killed.save_every = 2;
        killed.stop_after = 7;
        killed.die_rank = 0 + 1;
        training_run(&killed);
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
}

static void a_killed_run_continues_from_its_last_checkpoint(void **state)
{
    for (int ranks = 1; ranks <= 2; ranks++) {
        struct training whole = uninterrupted(ranks);
        char *directory = mem_printf("%s/%d", (char *)*state, ranks);
        run_and_be_killed(directory, ranks);
        struct training after = training_in(directory, ranks);
        training_run_well(&after);
        assert_int_equal(after.loaded, 1);
        assert_int_equal(after.first_step, 6);
        assert_losses_near(&whole, &after, 0);
        assert_same_state(&whole, &after);
        training_release(&whole);
        training_release(&after);
        free(directory);
    }
}

static void checkpoints_behind_a_run_are_those_of_their_step(void **state)
{
    for (int ranks = 1; ranks <= 3; ranks++) {
        static const char *const names[] = {"step-00000010", "step-00000011"};
        char *directory = mem_printf("%s/%d", (char *)*state, ranks);
        struct training whole = uninterrupted(ranks), behind = training_in(directory, ranks);
        behind.behind = true;
        behind.save_every = 1;
        behind.stop_after = STEPS - 1;
        training_run_well(&behind);
        assert_entries(directory, names, 2);
        struct training after = training_in(directory, ranks);
        training_run_well(&after);
        assert_int_equal(after.first_step, STEPS - 1);
        assert_same_state(&whole, &after);
        training_release(&whole);
        training_release(&behind);
        training_release(&after);
        free(directory);
    }
}

static void a_write_behind_that_fails_ends_the_run(void **state)
{
    for (int ranks = 1; ranks <= 2; ranks++) {
        struct fs_fault fault = {.inner = fs_system(), .write_budget_bytes = 200000};
        struct fs fs = fs_with_faults(&fault);
        struct training training = training_in(*state, ranks);
        training.fs = &fs;
        training.behind = true;
        training.save_every = 1;
        assert_int_equal(training_run(&training), -1);
        assert_non_null(strstr(training.err.text, "no space left on device"));
        assert_true(training.steps < STEPS);
        training_release(&training);
    }
}

static void old_checkpoints_are_removed(void **state)
{
    static const char *const names[] = {"step-00000008", "step-00000012"};
    struct training training = training_in(*state, 2);
    training.save_every = 4;
    training.keep = 2;
    training_run_well(&training);
    assert_entries(*state, names, 2);
    training_release(&training);
}

static void one_checkpoint_can_be_kept(void **state)
{
    static const char *const names[] = {"step-00000012"};
    struct training training = training_in(*state, 1);
    training.save_every = 1;
    training.keep = 1;
    training_run_well(&training);
    assert_entries(*state, names, 1);
    training_release(&training);
}

static void make_file(const char *directory, const char *name)
{
    struct error err;
    char *path = fs_join(directory, name);
    assert_int_equal(fs_write_text(fs_system(), path, "x", 1, &err), 0);
    free(path);
}

static void remains_of_interrupted_writes_are_removed(void **state)
{
    static const char *const names[] = {"notes", "step-00000002", "step-1"};
    struct error err;
    char *remains = fs_join(*state, "step-00000001");
    char *same = fs_join(*state, "step-00000002");
    char *other = fs_join(*state, "step-1"); // not ours
    assert_int_equal(fs_make_directories(fs_system(), remains, &err), 0);
    assert_int_equal(fs_make_directories(fs_system(), same, &err), 0);
    assert_int_equal(fs_make_directories(fs_system(), other, &err), 0);
    make_file(remains, "part-00000.bin");
    make_file(remains, "part-00001.bin.tmp-1-1");
    make_file(same, "part-00007.bin");
    make_file(*state, "notes");
    struct training training = training_in(*state, 1);
    training.stop_after = training.save_every = 2;
    training_run_well(&training);
    assert_int_equal(training.loaded, 0);
    assert_entries(*state, names, 3);
    assert_entries(same, (const char *const[]){"manifest.json", "part-00000.bin"}, 2);
    training_release(&training);
    free(remains);
    free(same);
    free(other);
}

// Another number of ranks would cut it into other parts: overwriting them one by one would leave,
// if interrupted, a manifest of the old ones.
static void a_state_that_was_saved_is_not_written_again(void **state)
{
    struct training whole = uninterrupted(1);
    struct training first = training_in(*state, 1), again = training_in(*state, 3);
    first.stop_after = first.save_every = 2;
    training_run_well(&first);
    struct fs_fault fault = {.inner = fs_system(), .write_budget_bytes = 0};
    struct fs fs = fs_with_faults(&fault);
    again.fs = &fs;
    again.save_loaded = true;
    again.stop_after = 1;
    training_run_well(&again);
    struct training last = training_in(*state, 1);
    training_run_well(&last);
    assert_int_equal(last.first_step, 2);
    assert_same_state(&whole, &last);
    training_release(&whole);
    training_release(&first);
    training_release(&again);
    training_release(&last);
}

static void a_large_state_is_cut_into_several_parts(void **state)
{
    struct training first = training_in(*state, 1);
    first.vocabulary = 200000; // 4.4 M elements of the embedding alone
    first.options.plan.per_step = 1;
    first.stop_after = first.save_every = 1;
    training_run_well(&first);
    assert_true(first.elements > 1 << 22 && first.elements < 2 << 22);
    char *path = fs_join(*state, "step-00000001");
    assert_entries(path, (const char *const[]){"manifest.json", "part-00000.bin", "part-00001.bin"},
                   3);
    struct training second = training_in(*state, 2);
    second.vocabulary = first.vocabulary;
    second.options.plan.per_step = 1;
    second.load_only = true;
    training_run_well(&second);
    assert_same_state(&first, &second);
    training_release(&first);
    training_release(&second);
    free(path);
}

static void checkpoints_of_other_options_are_refused(void **state)
{
    struct training first = training_in(*state, 1);
    first.stop_after = first.save_every = 2;
    training_run_well(&first);
    training_release(&first);
    for (int i = 0; i < 10; i++) {
        struct training other = training_in(*state, 1 + i % 2);
        struct trainer_options *options = &other.options;
        switch (i) {
        case 0:
            options->plan.seed++;
            break;
        case 1:
            options->plan.per_step--;
            break;
        case 2:
            options->plan.epochs++;
            break;
        case 3:
            options->schedule.kind = SCHEDULE_LINEAR;
            break;
        case 4:
            options->schedule.peak = nextafter(options->schedule.peak, 1);
            break;
        case 5:
            options->warmup_fraction = 0;
            break;
        case 6:
            options->optimizer.beta2 = 0.99;
            break;
        case 7:
            options->optimizer.weight_decay = 0;
            break;
        case 8:
            options->clip_norm = 0;
            break;
        case 9:
            options->optimizer.epsilon = 1e-7;
            break;
        }
        assert_int_equal(training_run(&other), -1);
        assert_non_null(strstr(other.err.text, "step-00000002' was made with other data"));
        training_release(&other);
    }
    struct training same = training_in(*state, 1);
    same.options.micro_batch_tokens = 100; // a matter of memory
    training_run_well(&same);
    assert_int_equal(same.loaded, 1);
    training_release(&same);
}

static void checkpoints_of_other_data_or_weights_are_refused(void **state)
{
    struct training first = training_in(*state, 1);
    first.stop_after = first.save_every = 2;
    training_run_well(&first);
    training_release(&first);
    struct sequence_set others[3] = {{0}, {0}, {0}};
    fixture_set_fill(&others[0], 31, 10);
    fixture_set_fill(&others[1], 30, 9); // one less
    fixture_set_fill(&others[2], 31, 9);
    others[2].target_begin[30] = 1; // other targets
    others[2].target_end[30] = 2;
    for (size_t i = 0; i < 4; i++) {
        struct training other = training_in(*state, 1);
        if (i < 3)
            other.set = &others[i];
        else
            other.odd_rank = 0 + 1; // another base model of the same shape
        assert_int_equal(training_run(&other), -1);
        assert_non_null(strstr(other.err.text, "other data, options or model"));
        training_release(&other);
    }
    for (size_t i = 0; i < 3; i++)
        sequence_set_release(&others[i]);
}

static struct training short_training(const char *directory)
{
    struct training training = training_in(directory, 1);
    training.options.plan.epochs = 2;
    return training;
}

// The run saves after steps 2 and 4; each operation of the second save fails in turn. Whatever
// failed, one of the two is then there, whole, and continues as if nothing had happened.
static void any_failed_operation_leaves_a_checkpoint(void **state)
{
    struct training whole = short_training(NULL);
    size_t failures = 0, survived = 0;
    training_run_well(&whole);
    for (int64_t operation = 1;; operation++) {
        char *directory = mem_printf("%s/%d", (char *)*state, (int)operation);
        struct training first = short_training(directory);
        first.stop_after = first.save_every = 2;
        training_run_well(&first);

        struct fs_fault fault = {fs_system(), UINT64_MAX, operation, 0};
        struct fs fs = fs_with_faults(&fault);
        struct training second = short_training(directory);
        second.fs = &fs;
        second.keep = 1;
        second.stop_after = 2;
        second.save_every = 4;
        const int rc = training_run(&second);
        const bool struck = fault.fail_operation == 0;
        failures += rc != 0;
        survived += rc == 0 && struck;
        if (rc != 0)
            assert_non_null(strstr(second.err.text, directory));

        struct training third = short_training(directory);
        training_run_well(&third);
        assert_int_equal(third.loaded, 1);
        if (rc == 0)
            assert_int_equal(third.first_step, 4);
        assert_same_state(&whole, &third);
        training_release(&first);
        training_release(&second);
        training_release(&third);
        free(directory);
        if (!struck)
            break;
    }
    training_release(&whole);
    assert_true(failures >= 30);
    assert_true(survived >= 4); // what only removes old checkpoints fails nothing
}

static void a_full_disk_leaves_the_old_checkpoint_and_no_remains(void **state)
{
    static const char *const names[] = {"step-00000002"};
    // The larger part is of 8,192 elements: 98,368 bytes; then the manifest's.
    static const uint64_t budgets[] = {0, 1, 63, 64, 5000, 98367, 98368, 98369, 98500};
    struct training first = training_in(*state, 2);
    first.stop_after = first.save_every = 2;
    training_run_well(&first);
    training_release(&first);
    for (size_t i = 0; i < sizeof(budgets) / sizeof(*budgets); i++) {
        struct fs_fault fault = {.inner = fs_system(), .write_budget_bytes = budgets[i]};
        struct fs fs = fs_with_faults(&fault);
        struct training second = training_in(*state, 2); // each rank has this budget
        second.fs = &fs;
        second.stop_after = 2;
        second.save_every = 4;
        assert_int_equal(training_run(&second), -1);
        assert_non_null(strstr(second.err.text, "no space left on device"));
        assert_non_null(strstr(second.err.text, "checkpoint '"));
        assert_entries(*state, names, 1);
        training_release(&second);
    }
}

static void cannot_tell_is_not_absent(void **state)
{
    struct training first = training_in(*state, 1);
    first.stop_after = first.save_every = 2;
    training_run_well(&first);
    training_release(&first);
    // Of loading: the directory's stat, its list, the manifest's stat.
    for (int64_t operation = 1; operation <= 3; operation++) {
        struct fs_fault fault = {fs_system(), UINT64_MAX, operation, 0};
        struct fs fs = fs_with_faults(&fault);
        struct training second = training_in(*state, 1);
        second.fs = &fs;
        assert_int_equal(training_run(&second), -1);
        assert_int_equal(second.loaded, -1);
        assert_non_null(strstr(second.err.text, "input/output error"));
        training_release(&second);
    }
}

int main(void)
{
#define WITH_DIRECTORY(test)                                                                       \
    cmocka_unit_test_setup_teardown(test, temporary_directory_setup, temporary_directory_teardown)
    const struct CMUnitTest tests[] = {
        WITH_DIRECTORY(without_a_checkpoint_nothing_is_loaded),
        WITH_DIRECTORY(a_continued_run_is_the_uninterrupted_one),
        WITH_DIRECTORY(a_run_continued_at_the_end_of_an_epoch_is_too),
        WITH_DIRECTORY(a_run_of_three_ranks_is_too),
        WITH_DIRECTORY(a_finished_run_has_nothing_left_to_do),
        WITH_DIRECTORY(any_number_of_ranks_continues),
        WITH_DIRECTORY(a_killed_run_continues_from_its_last_checkpoint),
        WITH_DIRECTORY(checkpoints_behind_a_run_are_those_of_their_step),
        WITH_DIRECTORY(a_write_behind_that_fails_ends_the_run),
        WITH_DIRECTORY(old_checkpoints_are_removed),
        WITH_DIRECTORY(one_checkpoint_can_be_kept),
        WITH_DIRECTORY(remains_of_interrupted_writes_are_removed),
        WITH_DIRECTORY(a_state_that_was_saved_is_not_written_again),
        WITH_DIRECTORY(a_large_state_is_cut_into_several_parts),
        WITH_DIRECTORY(checkpoints_of_other_options_are_refused),
        WITH_DIRECTORY(checkpoints_of_other_data_or_weights_are_refused),
        WITH_DIRECTORY(any_failed_operation_leaves_a_checkpoint),
        WITH_DIRECTORY(a_full_disk_leaves_the_old_checkpoint_and_no_remains),
        WITH_DIRECTORY(cannot_tell_is_not_absent),
    };
    return cmocka_run_group_tests(tests, set_setup, set_teardown);
}
