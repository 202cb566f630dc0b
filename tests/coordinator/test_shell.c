// SPDX-License-Identifier: Apache-2.0
// Whole runs of the control plane: one process in both roles, or several ranks under mpirun. Every
// rank ends with the same result, and nobody waits for ever (the test's time limit).
#include "base/clock.h"
#include "base/mem.h"
#include "coordinator/shell.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define WINDOW 8
#define NO_TASK UINT32_MAX
#define MAX_TASKS 100000

static struct group *group;

// What one rank's runner does, and what it has done.
struct lab {
    struct cluster_job job;
    struct task_runner runner;
    bool *restored, *restored_aside;
    int64_t *committed; // [tasks] commits of each
    uint32_t running[WINDOW];
    size_t running_count;
    uint32_t finished[MAX_TASKS];
    size_t finished_count;
    size_t submits, polls;
    uint32_t poisoned;     // this task fails
    size_t fail_submit_at; // the n-th submit fails; 0: never
    bool commit_fails;
    bool set_aside_fails;
    int signal_at_submit; // n-th submit raises SIGTERM
    double poll_seconds;  // every poll computes so long
    double task_seconds;  // no task ends before
    size_t polls_per_task;
    double begin_seconds;
    uint32_t aside;
    char aside_reason[64];
    int signal_at_progress; // raised by the second progress call
    size_t progress_calls;
    size_t stop_at_progress; // this call of it asks to stop; 0: none does
    size_t figures_taken;
};

static int lab_submit(void *state, uint32_t task, struct error *err)
{
    struct lab *lab = state;
    lab->submits++;
    if (lab->fail_submit_at && lab->submits >= lab->fail_submit_at)
        return error_set(err, "the engine is gone");
    if (lab->signal_at_submit && lab->submits == (size_t)lab->signal_at_submit)
        raise(SIGTERM);
    assert_true(lab->running_count < WINDOW);
    lab->running[lab->running_count++] = task;
    return 0;
}

static void compute(double seconds)
{
    const double end = clock_seconds() + seconds;
    while (clock_seconds() < end)
        continue;
}

static int lab_poll(void *state, struct task_result *out, struct error *err)
{
    struct lab *lab = state;
    (void)err;
    lab->polls++;
    if (lab->poll_seconds > 0)
        compute(lab->poll_seconds);
    if (clock_seconds() - lab->begin_seconds < lab->task_seconds ||
        (lab->polls_per_task && lab->polls % lab->polls_per_task != 0))
        return 0;
    *out =
        (struct task_result){.task = lab->running[--lab->running_count], .pairs = 2, .tokens = 7};
    out->failed = out->task == lab->poisoned;
    strcpy(out->reason, out->failed ? "it is poisoned" : "");
    if (!out->failed)
        lab->finished[lab->finished_count++] = out->task;
    return 1;
}

static int lab_commit(void *state, struct error *err)
{
    struct lab *lab = state;
    if (lab->commit_fails)
        return error_set(err, "no space left on device");
    for (size_t i = 0; i < lab->finished_count; i++)
        lab->committed[lab->finished[i]]++;
    lab->finished_count = 0;
    return 0;
}

static void lab_drop(void *state, uint32_t task)
{
    (void)state;
    (void)task;
}

static size_t lab_bytes(void *state)
{
    return ((struct lab *)state)->finished_count;
}

static int lab_set_aside(void *state, uint32_t task, const char *reason, struct error *err)
{
    struct lab *lab = state;
    if (lab->set_aside_fails)
        return error_set(err, "cannot store what is set aside");
    assert_int_equal(lab->aside, NO_TASK);
    lab->aside = task;
    snprintf(lab->aside_reason, sizeof(lab->aside_reason), "%s", reason);
    return 0;
}

static bool lab_progress(void *state, const struct cluster_progress *progress,
                         const struct worker_table *workers)
{
    struct lab *lab = state;
    uint64_t pairs = 0, tasks = 0;
    for (size_t w = 0; w < workers->count; w++) {
        pairs += workers->rows[w].pairs;
        tasks += workers->rows[w].tasks;
    }
    assert_true(pairs == progress->pairs);
    assert_true(pairs == 2 * tasks);
    if (++lab->progress_calls == 2 && lab->signal_at_progress)
        raise(lab->signal_at_progress);
    return lab->stop_at_progress > 0 && lab->progress_calls >= lab->stop_at_progress;
}

static void lab_figures(void *state, struct strbuf *out)
{
    (void)state;
    strbuf_adds(out, "committed");
}

static void lab_take_figures(void *state, const char *text)
{
    struct lab *lab = state;
    assert_string_equal(text, "committed");
    lab->figures_taken++;
}

static struct lab *lab_create(size_t tasks)
{
    struct lab *lab = mem_calloc(1, sizeof(*lab));
    assert_true(tasks <= MAX_TASKS);
    lab->poisoned = lab->aside = NO_TASK;
    lab->begin_seconds = clock_seconds();
    lab->restored = mem_calloc(tasks, sizeof(*lab->restored));
    lab->restored_aside = mem_calloc(tasks, sizeof(*lab->restored_aside));
    lab->committed = mem_calloc(tasks, sizeof(*lab->committed));
    lab->runner = (struct task_runner){.state = lab,
                                       .window = WINDOW,
                                       .submit = lab_submit,
                                       .poll = lab_poll,
                                       .commit = lab_commit,
                                       .drop = lab_drop,
                                       .uncommitted_bytes = lab_bytes,
                                       .figures = lab_figures};
    lab->job = (struct cluster_job){.tasks = tasks,
                                    .restored = lab->restored,
                                    .restored_aside = lab->restored_aside,
                                    .lease_seconds = 600,
                                    .max_attempts = 2,
                                    .runner = &lab->runner,
                                    .agent = {.commit_seconds = 1, .commit_bytes = 1000},
                                    .state = lab,
                                    .set_aside = lab_set_aside,
                                    .progress = lab_progress,
                                    .figures = lab_take_figures};
    return lab;
}

static void lab_destroy(struct lab *lab)
{
    free(lab->restored);
    free(lab->restored_aside);
    free(lab->committed);
    free(lab);
}

static bool is_last_rank(void)
{
    return group_rank(group) == group_size(group) - 1;
}

static void run(struct lab *lab, enum cluster_end *end, struct cluster_progress *progress)
{
    struct error err;
    lab->begin_seconds = clock_seconds();
    if (cluster_run(group, &lab->job, end, progress, &err))
        fail_msg("cluster_run: %s", err.text);
    assert_int_equal(group_all_reduce_i64(group, lab->committed, lab->job.tasks, &err), 0);
}

// Fails on every rank, with the text somewhere in the message.
static void run_failing(struct lab *lab, const char *text)
{
    enum cluster_end end;
    struct cluster_progress progress;
    struct error err = {""};
    assert_int_equal(cluster_run(group, &lab->job, &end, &progress, &err), -1);
    if (!strstr(err.text, text))
        fail_msg("'%s' does not say '%s'", err.text, text);
}

static void every_task_is_committed_once(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 31, 33, 1000};
    for (size_t s = 0; s < 4; s++) {
        struct lab *lab = lab_create(sizes[s]);
        enum cluster_end end;
        struct cluster_progress progress;
        run(lab, &end, &progress);
        assert_int_equal(end, CLUSTER_COMPLETE);
        assert_int_equal(progress.counts.done, sizes[s]);
        assert_int_equal(progress.pairs, 2 * sizes[s]);
        assert_int_equal(progress.tokens, 7 * sizes[s]);
        for (size_t t = 0; t < sizes[s]; t++)
            assert_int_equal(lab->committed[t], 1);
        assert_true(group_rank(group) != 0 || lab->figures_taken > 0);
        lab_destroy(lab);
    }
}

static void a_job_without_tasks_is_complete(void **state)
{
    (void)state;
    struct lab *lab = lab_create(0);
    enum cluster_end end;
    struct cluster_progress progress;
    run(lab, &end, &progress);
    assert_int_equal(end, CLUSTER_COMPLETE);
    assert_int_equal(progress.counts.tasks, 0);
    lab_destroy(lab);
}

static void what_is_on_disk_is_not_done_again(void **state)
{
    (void)state;
    struct lab *lab = lab_create(100);
    enum cluster_end end;
    struct cluster_progress progress;
    for (size_t t = 0; t < 100; t += 2)
        lab->restored[t] = true;
    lab->restored_aside[4] = true;
    run(lab, &end, &progress);
    assert_int_equal(end, CLUSTER_COMPLETE);
    assert_int_equal(progress.done_at_start, 50);
    assert_int_equal(progress.counts.done, 99);
    assert_int_equal(progress.counts.aside, 1);
    assert_true(progress.weight_done == 50);
    for (size_t t = 0; t < 100; t++)
        assert_int_equal(lab->committed[t], t % 2);
    lab_destroy(lab);
}

static void a_poisoned_task_is_set_aside_with_its_reason(void **state)
{
    (void)state;
    struct lab *lab = lab_create(50);
    enum cluster_end end;
    struct cluster_progress progress;
    double weights[50];
    for (int t = 0; t < 50; t++)
        weights[t] = t;
    lab->job.weights = weights;
    lab->poisoned = 17;
    run(lab, &end, &progress);
    assert_int_equal(end, CLUSTER_COMPLETE);
    assert_true(progress.weight_done == 49 * 50 / 2);
    assert_int_equal(progress.counts.done, 49);
    assert_int_equal(progress.counts.aside, 1);
    assert_int_equal(progress.counts.retries, 2);
    if (group_rank(group) == 0) {
        assert_int_equal(lab->aside, 17);
        assert_string_equal(lab->aside_reason, "it is poisoned");
    }
    lab_destroy(lab);
}

static void check_stopped(struct lab *lab)
{
    enum cluster_end end;
    struct cluster_progress progress;
    run(lab, &end, &progress);
    assert_int_equal(end, CLUSTER_STOPPED);
    size_t committed = 0;
    for (size_t t = 0; t < lab->job.tasks; t++) {
        assert_true(lab->committed[t] <= 1);
        committed += (size_t)lab->committed[t];
    }
    assert_true(committed > 0 && committed < lab->job.tasks);
    assert_int_equal(progress.counts.done, committed);
}

static void a_signal_in_the_runner_stops_a_single_process(void **state)
{
    (void)state;
    if (group_size(group) > 1)
        skip();
    struct lab *lab = lab_create(MAX_TASKS);
    lab->signal_at_submit = 100;
    check_stopped(lab);
    lab_destroy(lab);
}

static void a_signal_to_the_coordinator_stops_the_job(void **state)
{
    (void)state;
    static const int signals[] = {SIGUSR2, SIGINT};
    for (int i = 0; i < 2; i++) {
        struct lab *lab = lab_create(MAX_TASKS);
        lab->job.agent.max_tasks_per_second = 200;
        lab->signal_at_progress = signals[i];
        check_stopped(lab);
        lab_destroy(lab);
    }
}

static void the_progress_callback_stops_the_job(void **state)
{
    (void)state;
    struct lab *lab = lab_create(MAX_TASKS);
    lab->job.agent.max_tasks_per_second = 200;
    lab->stop_at_progress = 2;
    check_stopped(lab);
    lab_destroy(lab);
}

static void a_full_disk_on_one_rank_ends_the_job_everywhere(void **state)
{
    (void)state;
    struct lab *lab = lab_create(1000);
    lab->commit_fails = is_last_rank();
    run_failing(lab, "no space left on device");
    lab_destroy(lab);
}

static void a_runner_that_gives_up_ends_the_job_everywhere(void **state)
{
    (void)state;
    static const size_t at[] = {1, 50};
    for (int i = 0; i < 2; i++) {
        struct lab *lab = lab_create(1000);
        lab->fail_submit_at = is_last_rank() ? at[i] : 0;
        run_failing(lab, "the engine is gone");
        lab_destroy(lab);
    }
}

static void a_coordinator_that_cannot_commit_ends_the_job_everywhere(void **state)
{
    (void)state;
    struct lab *lab = lab_create(1000);
    lab->poisoned = 3;
    lab->set_aside_fails = true;
    run_failing(lab, "cannot store what is set aside");
    lab_destroy(lab);
}

static void everything_failing_at_once_still_ends(void **state)
{
    (void)state;
    for (int i = 0; i < 5; i++) {
        struct lab *lab = lab_create(20);
        lab->poisoned = 3;
        lab->set_aside_fails = true;
        lab->commit_fails = true;
        run_failing(lab, "");
        lab_destroy(lab);
    }
}

static void another_task_list_on_one_rank_is_refused(void **state)
{
    (void)state;
    struct lab *lab = lab_create(10);
    if (is_last_rank())
        lab->job.agent.plan.bytes[3] = 1;
    run_failing(lab, "has a different task list");
    lab_destroy(lab);
}

// A rank with nothing to do sleeps, also after thousands of quiet rounds.
static void waiting_costs_little_processor_time(void **state)
{
    (void)state;
    struct lab *lab = lab_create(1);
    enum cluster_end end;
    struct cluster_progress progress;
    lab->task_seconds = 2.5;
    const clock_t begin = clock();
    run(lab, &end, &progress);
    assert_true((double)(clock() - begin) / CLOCKS_PER_SEC < 0.8);
    lab_destroy(lab);
}

// A generator that computes inside poll gets the whole processor, though nothing ends for a while.
static void a_runner_that_computes_is_not_put_to_sleep(void **state)
{
    (void)state;
    struct lab *lab = lab_create(4);
    enum cluster_end end;
    struct cluster_progress progress;
    lab->poll_seconds = 0.002;
    lab->polls_per_task = 50;
    const double begin = clock_seconds();
    run(lab, &end, &progress);
    assert_true(clock_seconds() - begin < 4.0); // 0.4 s of work; 4.4 s with pauses
    lab_destroy(lab);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_task_is_committed_once),
        cmocka_unit_test(a_job_without_tasks_is_complete),
        cmocka_unit_test(what_is_on_disk_is_not_done_again),
        cmocka_unit_test(a_poisoned_task_is_set_aside_with_its_reason),
        cmocka_unit_test(a_signal_in_the_runner_stops_a_single_process),
        cmocka_unit_test(a_signal_to_the_coordinator_stops_the_job),
        cmocka_unit_test(the_progress_callback_stops_the_job),
        cmocka_unit_test(a_full_disk_on_one_rank_ends_the_job_everywhere),
        cmocka_unit_test(a_runner_that_gives_up_ends_the_job_everywhere),
        cmocka_unit_test(a_coordinator_that_cannot_commit_ends_the_job_everywhere),
        cmocka_unit_test(everything_failing_at_once_still_ends),
        cmocka_unit_test(another_task_list_on_one_rank_is_refused),
        cmocka_unit_test(waiting_costs_little_processor_time),
        cmocka_unit_test(a_runner_that_computes_is_not_put_to_sleep),
    };
    struct error err;
    if (group_open(&group, &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    group_close(group);
    return failed;
}
