// SPDX-License-Identifier: Apache-2.0
// collectives/nccl.c with fake_nccl in place of NCCL: waiting, deadlines, errors and aborts of
// ranks that are processes over shared memory. Every job runs in a process of its own, because
// ranks cannot be forked from one that has threads.
#include "base/clock.h"
#include "base/fs.h"
#include "collectives/flight.h"
#include "collectives/group_device.h"
#include "group_checks.h"
#include "tests/base/temporary_directory.h"

#include <cuda_runtime.h>

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

struct job {
    int ranks;
    // `gpus` is NULL when opening them failed, with the reason in err.
    int (*body)(struct group *gpus, struct group *control, struct error *err);
    const char *fault;        // of fake_nccl
    double deadline;          // 0: that of groups
    const char *records;      // directory of flight records
    const char *id_directory; // NULL: the id goes by broadcast
    int same_gpu;             // ranks r and r + 1 see the same; 0: all have their own
    const char *version[2];   // of NCCL, of rank 0 and of the others; NULL: good
};

struct result {
    int rc;
    struct error err;
    double seconds;
};

static void set_environment(const struct job *job, int rank)
{
    char first[16];
    const int gpu = job->same_gpu && rank == job->same_gpu ? rank - 1 : rank;
    snprintf(first, sizeof(first), "%d", gpu);
    setenv("FAKE_CUDA_FIRST", first, 1);
    if (job->fault) {
        setenv("FAKE_NCCL_FAULT", job->fault, 1);
    }
    if (job->version[rank > 0]) {
        setenv("FAKE_NCCL_VERSION", job->version[rank > 0], 1);
    }
}

static cudaStream_t compute; // of a rank

static int run_rank(struct group *control, void *context, struct error *err)
{
    const struct job *job = context;
    struct group *gpus = NULL;
    set_environment(job, group_rank(control));
    if (job->deadline > 0) {
        group_set_deadline(control, job->deadline);
    }
    if (job->records && group_record(control, job->records, err)) {
        return -1;
    }
    cudaStreamCreateWithPriority(&compute, cudaStreamNonBlocking, 0);
    const struct group_device_options options = {.stream = compute,
                                                 .id_directory = job->id_directory};
    int rc = group_open_nccl(control, &options, &gpus, err);
    if (rc == 0) {
        rc = job->body(gpus, control, err);
    }
    group_close(gpus);
    cudaStreamDestroy(compute);
    return rc;
}

static void run_job(const struct job *job, struct result *out)
{
    struct result *shared =
        mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(shared != MAP_FAILED);
    const double begin = clock_seconds();
    const pid_t pid = fork();
    if (pid == 0) {
        shared->rc = group_run_shm(job->ranks, run_rank, (void *)job, &shared->err);
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    *out = *shared;
    out->seconds = clock_seconds() - begin;
    munmap(shared, sizeof(*shared));
}

static void run_well(const struct job *job)
{
    struct result result;
    run_job(job, &result);
    if (result.rc != 0) {
        fail_msg("%s", result.err.text);
    }
}

static void run_badly(const struct job *job, const char *want)
{
    struct result result;
    run_job(job, &result);
    assert_int_equal(result.rc, -1);
    if (strstr(result.err.text, want) == NULL) {
        fail_msg("'%s' does not say '%s'", result.err.text, want);
    }
}

// --- sums and moves ---

// Those that do not need sums in rank order, nor hand over memory of the host by agreeing.
static const char *const device_checks[] = {
    "sums of integers are exact",
    "i64 sums wrap",
    "reduce-scatter adds integers exactly",
    "all-gather is in rank order",
    "broadcast from every root",
    "short calls one after the other",
};

static int run_checks(struct group *gpus, struct group *control, struct error *err)
{
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < sizeof(device_checks) / sizeof(device_checks[0]); i++) {
        const struct group_check *check = group_checks;
        while (strcmp(check->name, device_checks[i]) != 0) {
            check++;
        }
        rc = group_agree(control, check->run(gpus, NULL, err), err);
    }
    return rc;
}

static void calls_work_with_1_to_4_ranks(void **state)
{
    (void)state;
    for (int ranks = 1; ranks <= 4; ranks++) {
        run_well(&(struct job){.ranks = ranks, .body = run_checks});
    }
}

static int check_description(struct group *gpus, struct group *control, struct error *err)
{
    const bool good = strcmp(group_transport(gpus), "nccl") == 0 && group_is_on_device(gpus) &&
                      !group_is_on_device(control) && group_rank(gpus) == group_rank(control) &&
                      group_size(gpus) == 3 && group_local_rank(gpus) == group_local_rank(control);
    return good ? group_barrier(gpus, err) : error_set(err, "wrong description");
}

static void group_describes_itself(void **state)
{
    (void)state;
    run_well(&(struct job){.ranks = 3, .body = check_description});
}

static int sum_in_batches(struct group *gpus, struct group *control, struct error *err)
{
    enum { CALLS = GROUP_BATCH_CALLS, COUNT = 1000 };
    static float data[CALLS][COUNT];
    for (int round = 1; round <= 3; round++) {
        for (int c = 0; c < CALLS; c++) {
            for (int i = 0; i < COUNT; i++) {
                data[c][i] = (float)(round * (c + i) + group_rank(gpus));
            }
        }
        if (group_batch_begin(gpus, err)) {
            return -1;
        }
        for (int c = 0; c < CALLS; c++) {
            if (group_all_reduce_f32(gpus, data[c], COUNT, err)) {
                return -1;
            }
        }
        if (group_batch_end(gpus, err)) {
            return -1;
        }
        for (int c = 0; c < CALLS; c++) {
            for (int i = 0; i < COUNT; i++) {
                if (data[c][i] != (float)(3 * round * (c + i) + 3)) {
                    return error_set(err, "call %d, element %d is %g", c, i, data[c][i]);
                }
            }
        }
    }
    // Nobody waits in any of the calls that were made.
    return group_agree(control, group_rank(gpus) == 0 ? error_set(err, "all is well") : 0, err);
}

static void batches_are_made_together_and_recorded_as_done(void **state)
{
    struct strbuf missing = {0};
    struct error err = {{0}};
    run_badly(&(struct job){.ranks = 3, .body = sum_in_batches, .records = *state}, "all is well");
    assert_true(flight_exists(fs_system(), *state, 2));
    assert_int_equal(flight_survey(fs_system(), *state, &missing, &err), 0);
    strbuf_release(&missing);
}

// --- order between the streams ---

static _Atomic bool gate_open;
static float written[500];

static void write_slowly(void *argument)
{
    struct timespec pause = {.tv_nsec = 50000000};
    nanosleep(&pause, NULL);
    for (size_t i = 0; i < sizeof(written) / sizeof(written[0]); i++) {
        written[i] = *(float *)argument;
    }
}

static void wait_for_gate(void *argument)
{
    (void)argument;
    while (!atomic_load(&gate_open)) {
        struct timespec pause = {.tv_nsec = 1000000};
        nanosleep(&pause, NULL);
    }
}

static int check_written(float want, struct error *err)
{
    for (size_t i = 0; i < sizeof(written) / sizeof(written[0]); i++) {
        if (written[i] != want) {
            return error_set(err, "element %zu is %g, not %g", i, written[i], want);
        }
    }
    return 0;
}

static int sum_behind_a_mark(struct group *gpus, struct group *control, struct error *err)
{
    (void)control;
    static float one = 1, two = 2;
    uint64_t mark;
    cudaLaunchHostFunc(compute, write_slowly, &one);
    if (group_mark(gpus, &mark, err)) {
        return -1;
    }
    cudaLaunchHostFunc(compute, wait_for_gate, NULL); // does not end before the sum is made
    if (group_after(gpus, mark, err) || group_all_reduce_f32(gpus, written, 500, err) ||
        check_written(2, err)) {
        return -1;
    }
    atomic_store(&gate_open, true);
    cudaLaunchHostFunc(compute, write_slowly, &two);
    return group_all_reduce_f32(gpus, written, 500, err) || check_written(4, err) ? -1 : 0;
}

static void call_waits_for_its_mark_alone_or_for_all_that_is_enqueued(void **state)
{
    (void)state;
    run_well(&(struct job){.ranks = 2, .body = sum_behind_a_mark, .deadline = 20});
}

static int overrun_marks(struct group *gpus, struct group *control, struct error *err)
{
    (void)control;
    static float one = 1;
    uint64_t mark, last;
    cudaLaunchHostFunc(compute, write_slowly, &one);
    int rc = group_mark(gpus, &mark, err);
    for (int i = 0; rc == 0 && i < 3 * GROUP_MARKS; i++) {
        rc = group_mark(gpus, &last, err);
    }
    rc = rc || group_after(gpus, mark, err) ? -1 : 0;
    return rc || group_all_reduce_f32(gpus, written, 500, err) || check_written(2, err) ? -1 : 0;
}

static void old_marks_still_order_what_they_stood_for(void **state)
{
    (void)state;
    run_well(&(struct job){.ranks = 2, .body = overrun_marks});
}

// --- the id ---

static void id_goes_through_a_file(void **state)
{
    struct error err = {{0}};
    struct fs_names names;
    setenv("SLURM_JOB_ID", "17", 1);
    run_well(&(struct job){.ranks = 3, .body = run_checks, .id_directory = *state});
    unsetenv("SLURM_JOB_ID");
    assert_int_equal(fs_list(fs_system(), *state, &names, &err), 0);
    assert_int_equal(names.count, 0); // it is gone once all have it
    fs_names_release(&names);
    run_badly(&(struct job){.ranks = 2, .body = run_checks, .id_directory = *state},
              "SLURM_JOB_ID is not set");
}

// --- what goes wrong ---

static void rank_that_does_not_connect_ends_the_job_at_the_deadline(void **state)
{
    (void)state;
    run_badly(
        &(struct job){.ranks = 3, .body = run_checks, .fault = "init-hang:1", .deadline = 0.5},
        "connect number 1: connecting the GPUs was not done within 0 s");
}

static void error_while_connecting_is_told(void **state)
{
    run_badly(&(struct job){.ranks = 2,
                            .body = run_checks,
                            .fault = "init-error:1",
                            .deadline = 20,
                            .records = *state},
              "NCCL failed: unhandled system error: no route to the other ranks; NCCL_DEBUG=WARN");
}

static int sum_five_times(struct group *gpus, struct group *control, struct error *err)
{
    float data[64] = {0};
    for (int call = 0; call < 5; call++) {
        group_set_step(control, (uint64_t)call);
        if (group_all_reduce_f32(gpus, data, 64, err)) {
            // Control shares the fate, without a wait.
            struct error other = {{0}};
            const double begin = clock_seconds();
            const bool broken = group_barrier(control, &other) != 0;
            return broken && clock_seconds() - begin < 0.1 ? -1
                                                           : error_set(err, "control works on");
        }
    }
    return 0;
}

static void call_that_never_starts_ends_at_the_deadline(void **state)
{
    run_badly(
        &(struct job){.ranks = 3,
                      .body = sum_five_times,
                      .fault = "call-hang:2:3",
                      .deadline = 0.5,
                      .records = *state},
        "all-reduce f32 number 4, step 2: the call was not done within 0 s: a rank is missing");
}

static void asynchronous_error_reaches_all_ranks(void **state)
{
    struct result result;
    run_job(&(struct job){.ranks = 3,
                          .body = sum_five_times,
                          .fault = "async-error:1:2",
                          .deadline = 60,
                          .records = *state},
            &result);
    assert_int_equal(result.rc, -1);
    assert_non_null(strstr(result.err.text, "rank 1 of 3, all-reduce f32 number 3, step 1: NCCL "
                                            "failed: remote process exited or there was a network "
                                            "error: socket closed by the peer"));
    assert_true(result.seconds < 30); // and not at the deadline
}

static int sum_in_a_batch(struct group *gpus, struct group *control, struct error *err)
{
    (void)control;
    float data[3][8] = {{0}};
    if (group_batch_begin(gpus, err)) {
        return -1;
    }
    for (int c = 0; c < 3; c++) {
        if (group_all_reduce_f32(gpus, data[c], 8, err)) {
            struct error after = {{0}};
            return group_batch_end(gpus, &after) != 0 ? -1 : error_set(err, "the batch works on");
        }
    }
    return group_batch_end(gpus, err);
}

static void call_that_is_refused_ends_its_batch_and_the_job(void **state)
{
    const char *want = "ncclAllReduce failed: an error: this call is refused";
    run_badly(&(struct job){.ranks = 2,
                            .body = sum_in_a_batch,
                            .fault = "call-refused:1:2",
                            .deadline = 20,
                            .records = *state},
              want);
    run_badly(&(struct job){.ranks = 2,
                            .body = sum_five_times,
                            .fault = "call-refused:1:2",
                            .deadline = 20,
                            .records = *state},
              want);
}

static void blocking_communicators_are_refused(void **state)
{
    (void)state;
    setenv("NCCL_COMM_BLOCKING", "1", 1);
    run_badly(&(struct job){.ranks = 2, .body = run_checks}, "NCCL_COMM_BLOCKING is '1'");
    setenv("NCCL_COMM_BLOCKING", "0", 1);
    run_well(&(struct job){.ranks = 2, .body = run_checks});
    unsetenv("NCCL_COMM_BLOCKING");
}

static int skip_a_call(struct group *gpus, struct group *control, struct error *err)
{
    (void)control;
    float data[8] = {0};
    if (group_all_reduce_f32(gpus, data, 8, err)) {
        return -1;
    }
    if (group_rank(gpus) == 1) {
        raise(SIGSTOP);
    }
    return group_all_reduce_f32(gpus, data, 8, err);
}

static void rank_that_never_arrives_is_named(void **state)
{
    struct strbuf missing = {0};
    struct error err = {{0}};
    run_badly(
        &(struct job){.ranks = 3, .body = skip_a_call, .deadline = 0.5, .records = *state},
        "rank 1 has not entered all-reduce f32 number 3 (nccl, 32 bytes), in which ranks 0, 2 wait");
    assert_int_equal(flight_survey(fs_system(), *state, &missing, &err), 1);
    strbuf_release(&missing);
}

static void abort_that_hangs_does_not_hang_the_job(void **state)
{
    (void)state;
    run_badly(
        &(struct job){
            .ranks = 2, .body = sum_five_times, .fault = "abort-hang:1:2", .deadline = 0.5},
        "the call was not done within 0 s");
}

static void communicator_that_does_not_become_quiet_is_aborted(void **state)
{
    (void)state;
    run_well(&(struct job){
        .ranks = 2, .body = sum_five_times, .fault = "finalize-hang:1", .deadline = 0.5});
}

static void two_ranks_with_one_gpu_are_refused(void **state)
{
    (void)state;
    run_badly(
        &(struct job){.ranks = 3, .body = run_checks, .same_gpu = 2},
        "have the same GPU 0000:02:00.0, but NCCL needs one for each: start as many ranks per "
        "host as it has GPUs");
}

static void versions_are_checked(void **state)
{
    (void)state;
    run_badly(&(struct job){.ranks = 2, .body = run_checks, .version = {"21900", "21900"}},
              "libnccl.so.2 is NCCL 2.19.0, at least 2.19.1 is needed");
    run_badly(&(struct job){.ranks = 2, .body = run_checks, .version = {"22809", "21903"}},
              "all need the same");
    run_badly(&(struct job){.ranks = 2, .body = run_checks, .version = {"22809", "2708"}},
              "rank 1: libnccl.so.2 is NCCL before 2.9");
}

// In a second call of this program, whose LD_LIBRARY_PATH leads to a file that is no library.
static void library_that_cannot_be_loaded_is_an_error(void **state)
{
    (void)state;
    run_badly(&(struct job){.ranks = 2, .body = run_checks}, "cannot load libnccl.so.2: ");
    run_badly(&(struct job){.ranks = 2, .body = run_checks}, "one GPU needs none of it");
}

#define IN_DIRECTORY(test)                                                                         \
    cmocka_unit_test_setup_teardown(test, temporary_directory_setup, temporary_directory_teardown)

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(calls_work_with_1_to_4_ranks),
        cmocka_unit_test(group_describes_itself),
        IN_DIRECTORY(batches_are_made_together_and_recorded_as_done),
        cmocka_unit_test(call_waits_for_its_mark_alone_or_for_all_that_is_enqueued),
        cmocka_unit_test(old_marks_still_order_what_they_stood_for),
        IN_DIRECTORY(id_goes_through_a_file),
        cmocka_unit_test(rank_that_does_not_connect_ends_the_job_at_the_deadline),
        IN_DIRECTORY(error_while_connecting_is_told),
        IN_DIRECTORY(call_that_never_starts_ends_at_the_deadline),
        IN_DIRECTORY(asynchronous_error_reaches_all_ranks),
        IN_DIRECTORY(call_that_is_refused_ends_its_batch_and_the_job),
        cmocka_unit_test(blocking_communicators_are_refused),
        IN_DIRECTORY(rank_that_never_arrives_is_named),
        cmocka_unit_test(abort_that_hangs_does_not_hang_the_job),
        cmocka_unit_test(communicator_that_does_not_become_quiet_is_aborted),
        cmocka_unit_test(two_ranks_with_one_gpu_are_refused),
        cmocka_unit_test(versions_are_checked),
    };
    const struct CMUnitTest missing[] = {
        cmocka_unit_test(library_that_cannot_be_loaded_is_an_error),
    };
    if (argc == 2 && strcmp(argv[1], "missing") == 0) {
        return cmocka_run_group_tests(missing, NULL, NULL);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
