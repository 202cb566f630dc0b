// SPDX-License-Identifier: Apache-2.0
// Checkpoints that are copied beside a step and written behind the run: a kill at any moment of it
// leaves one that continues as if nothing had happened.
#include "tests/base/temporary_directory.h"
#include "tests/worker/model_fixture.h"
#include "tests/worker/train_fixture.h"

#include "worker/train/checkpoint.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

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

// The system's files, but the process is killed before the n-th operation that changes anything.
static atomic_int operations_left;

static void strike(void)
{
    if (atomic_fetch_sub(&operations_left, 1) == 1)
        kill(getpid(), SIGKILL);
}

static int deadly_create(void *state, const char *path, bool exclusive, int *handle)
{
    strike();
    return fs_system()->ops->create(state, path, exclusive, handle);
}

static int deadly_write(void *state, int handle, const void *bytes, size_t length)
{
    strike();
    return fs_system()->ops->write(state, handle, bytes, length);
}

static int deadly_sync(void *state, int handle)
{
    strike();
    return fs_system()->ops->sync(state, handle);
}

static int deadly_rename(void *state, const char *from, const char *to, bool replace)
{
    strike();
    return fs_system()->ops->rename(state, from, to, replace);
}

static int deadly_sync_directory(void *state, const char *path)
{
    strike();
    return fs_system()->ops->sync_directory(state, path);
}

static int deadly_remove(void *state, const char *path)
{
    strike();
    return fs_system()->ops->remove(state, path);
}

static struct training run_behind(const char *directory, int ranks)
{
    struct training training = training_default(&set);
    training.checkpoints = directory;
    training.ranks = ranks;
    training.options.plan.epochs = 2;
    training.behind = true;
    training.save_every = 1;
    training.keep = 1;
    return training;
}

// True when it was killed, false when it came to its end before.
static bool run_until_operation(const char *directory, int ranks, int operation)
{
    const pid_t pid = fork();
    if (pid == 0) {
        struct fs_ops ops = *fs_system()->ops;
        ops.create = deadly_create;
        ops.write = deadly_write;
        ops.sync = deadly_sync;
        ops.rename = deadly_rename;
        ops.sync_directory = deadly_sync_directory;
        ops.remove = deadly_remove;
        struct fs fs = {.ops = &ops, .state = fs_system()->state};
        struct training training = run_behind(directory, ranks);
        training.fs = &fs;
        atomic_store(&operations_left, operation);
        _exit(training_run(&training) == 0 ? 0 : 1);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFSIGNALED(status))
        return true;
    assert_int_equal(WEXITSTATUS(status), 0);
    return false;
}

static void assert_kills_lose_nothing(const char *directory, int ranks, int begin, int step)
{
    struct training whole = run_behind(NULL, ranks);
    size_t kills = 0, continued = 0;
    whole.save_every = 0;
    training_run_well(&whole);
    for (int operation = begin;; operation += step) {
        char *own = mem_printf("%s/%d", directory, operation);
        if (!run_until_operation(own, ranks, operation)) {
            free(own);
            break;
        }
        kills++;
        struct training after = run_behind(own, ranks);
        training_run_well(&after);
        continued += after.loaded == 1;
        assert_int_equal(after.loaded == 1, after.first_step > 0);
        assert_losses_near(&whole, &after, 0);
        assert_same_state(&whole, &after);
        training_release(&after);
        free(own);
    }
    training_release(&whole);
    assert_true(kills >= 10);
    assert_true(continued >= kills / 2);
}

static void a_kill_while_a_checkpoint_is_written_loses_nothing(void **state)
{
    assert_kills_lose_nothing(*state, 1, 1, 7); // no divisor of a checkpoint's operations
}

static void a_kill_of_two_ranks_loses_nothing(void **state)
{
    assert_kills_lose_nothing(*state, 2, 3, 11);
}

struct watch {
    struct trainer *trainer;
    float *before; // weights
    size_t calls;
    bool changed;
};

static double look(void *context)
{
    struct watch *watch = context;
    const struct model *model = watch->trainer->model;
    watch->calls++;
    watch->changed |= memcmp(watch->before, model->weights.data,
                             model->layout.elements * sizeof(*watch->before)) != 0;
    return 2.5;
}

static void states_change_only_after_they_are_settled(void **state)
{
    (void)state;
    const struct device_options options = {.backend = "ref", .threads = 1};
    const struct model_config config = fixture_config();
    const struct trainer_options how = training_default(&set).options;
    struct device *device;
    struct model *model;
    struct group *group;
    struct watch watch = {0};
    struct step_stats stats;
    struct error err;
    assert_int_equal(device_create(&options, &device, &err), 0);
    assert_int_equal(model_create(device, &config, DTYPE_F32, &model, &err), 0);
    assert_int_equal(model_init_random(model, 1, &err), 0);
    assert_int_equal(group_open_self(&group, &err), 0);
    assert_int_equal(trainer_create(model, group, &set, &how, &watch.trainer, &err), 0);
    const size_t bytes = model->layout.elements * sizeof(float);
    watch.before = mem_dup(model->weights.data, bytes);
    trainer_watch_states(watch.trainer, look, &watch);
    assert_int_equal(trainer_step(watch.trainer, &stats, &err), 0);
    assert_int_equal(watch.calls, 1);
    assert_false(watch.changed);
    assert_true(stats.settle_seconds == 2.5);
    assert_true(memcmp(watch.before, model->weights.data, bytes) != 0);
    trainer_watch_states(watch.trainer, NULL, NULL);
    assert_int_equal(trainer_step(watch.trainer, &stats, &err), 0);
    assert_int_equal(watch.calls, 1);
    free(watch.before);
    trainer_destroy(watch.trainer);
    group_close(group);
    model_destroy(model);
    device_destroy(device);
}

int main(void)
{
#define WITH_DIRECTORY(test)                                                                       \
    cmocka_unit_test_setup_teardown(test, temporary_directory_setup, temporary_directory_teardown)
    const struct CMUnitTest tests[] = {
        WITH_DIRECTORY(a_kill_while_a_checkpoint_is_written_loses_nothing),
        WITH_DIRECTORY(a_kill_of_two_ranks_loses_nothing),
        cmocka_unit_test(states_change_only_after_they_are_settled),
    };
    return cmocka_run_group_tests(tests, set_setup, set_teardown);
}
