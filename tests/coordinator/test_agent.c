// SPDX-License-Identifier: Apache-2.0
// The real agent against a transport in memory: what it sends, when it commits, and what it says
// when the runner or the disk fails.
#include "base/mem.h"
#include "collectives/transport_internal.h"
#include "coordinator/agent.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MAX_MESSAGES 4096
#define WINDOW 4

// A runner whose tasks end when the test says so, and the wire on which the agent speaks.
struct bench {
    struct transport transport;
    struct message sent[MAX_MESSAGES];
    size_t sent_count;
    struct task_runner runner;
    struct agent *agent;
    uint32_t running[64];
    size_t running_count;
    size_t ending; // so many running tasks end at the next polls
    bool failing;  // those that end fail
    size_t submitted;
    size_t commits;
    size_t bytes;
    bool submit_fails, poll_fails, commit_fails;
    bool fenced;
    uint32_t dropped; // the last one
    size_t drops;
};

static void bench_post(struct transport *transport, int peer, const void *bytes, size_t length)
{
    struct bench *b = transport->state;
    struct error err;
    assert_int_equal(peer, 0);
    assert_true(b->sent_count < MAX_MESSAGES);
    assert_int_equal(message_decode(bytes, length, &b->sent[b->sent_count++], &err), 0);
}

static int bench_submit(void *state, uint32_t task, struct error *err)
{
    struct bench *b = state;
    if (b->submit_fails)
        return error_set(err, "the engine is gone");
    assert_true(b->running_count < b->runner.window);
    b->running[b->running_count++] = task;
    b->submitted++;
    return 0;
}

static int bench_poll(void *state, struct task_result *out, struct error *err)
{
    struct bench *b = state;
    if (b->poll_fails)
        return error_set(err, "the engine crashed");
    if (b->ending == 0 || b->running_count == 0)
        return 0;
    b->ending--;
    *out = (struct task_result){.task = b->running[0], .pairs = 3, .tokens = 50};
    out->failed = b->failing;
    out->dropped = b->drops > 0 && out->task == b->dropped;
    strcpy(out->reason, b->failing ? "no JSON" : "");
    b->running_count--;
    memmove(b->running, b->running + 1, b->running_count * sizeof(b->running[0]));
    b->bytes += b->failing ? 0 : 1000;
    return 1;
}

static int bench_commit(void *state, struct error *err)
{
    struct bench *b = state;
    if (b->fenced)
        return TASK_RUNNER_FENCED;
    if (b->commit_fails)
        return error_set(err, "cannot write 'segment.h5': no space left on device");
    b->commits++;
    b->bytes = 0;
    return 0;
}

static void bench_drop(void *state, uint32_t task)
{
    struct bench *b = state;
    b->dropped = task;
    b->drops++;
}

static size_t bench_bytes(void *state)
{
    return ((struct bench *)state)->bytes;
}

static struct bench *bench_create(const struct agent_options *options)
{
    static const struct transport_ops ops = {.post = bench_post};
    struct bench *b = mem_calloc(1, sizeof(*b));
    struct error err;
    b->transport = (struct transport){.ops = &ops, .state = b, .size = 1};
    b->runner = (struct task_runner){.state = b,
                                     .window = WINDOW,
                                     .submit = bench_submit,
                                     .poll = bench_poll,
                                     .commit = bench_commit,
                                     .drop = bench_drop,
                                     .uncommitted_bytes = bench_bytes};
    assert_int_equal(agent_create(&b->transport, &b->runner, options, &b->agent, &err), 0);
    return b;
}

static void bench_destroy(struct bench *b)
{
    agent_destroy(b->agent);
    for (size_t i = 0; i < b->sent_count; i++)
        message_release(&b->sent[i]);
    free(b);
}

static const struct agent_options patient = {.commit_seconds = 1e9, .commit_bytes = SIZE_MAX};

static void lease(struct bench *b, uint32_t first, size_t count)
{
    uint32_t tasks[512];
    struct error err;
    for (size_t i = 0; i < count; i++)
        tasks[i] = first + (uint32_t)i;
    const struct message message = {.kind = MESSAGE_LEASE, .tasks = tasks, .count = count};
    assert_int_equal(agent_receive(b->agent, &message, &err), 0);
}

static void stop(struct bench *b)
{
    struct error err;
    assert_int_equal(agent_receive(b->agent, &(struct message){.kind = MESSAGE_STOP}, &err), 0);
}

// Steps until nothing happens; the result of the last step.
static int step(struct bench *b, double now, struct error *err)
{
    bool busy = true;
    int rc = 0;
    while (busy && rc == 0) {
        busy = false;
        rc = agent_step(b->agent, now, &busy, err);
    }
    return rc;
}

static void work(struct bench *b, double now)
{
    struct error err;
    assert_int_equal(step(b, now, &err), 0);
}

static const struct message *last(const struct bench *b)
{
    return &b->sent[b->sent_count - 1];
}

static void it_introduces_itself_and_asks_for_twice_what_it_can_run(void **state)
{
    (void)state;
    struct agent_options options = patient;
    memset(options.plan.bytes, 7, sizeof(options.plan.bytes));
    struct bench *b = bench_create(&options);
    assert_int_equal(b->sent_count, 1);
    assert_int_equal(b->sent[0].kind, MESSAGE_HELLO);
    assert_int_equal(b->sent[0].window, 2 * WINDOW);
    assert_true(digest_equal(b->sent[0].plan, options.plan));
    bench_destroy(b);
}

static void it_runs_no_more_than_the_window_and_reports_after_the_commit(void **state)
{
    (void)state;
    struct bench *b = bench_create(&patient);
    lease(b, 10, 6);
    work(b, 0);
    assert_int_equal(b->running_count, WINDOW);
    assert_int_equal(b->sent_count, 1);
    b->ending = 3;
    work(b, 1);
    assert_int_equal(b->commits, 0); // three still run
    assert_int_equal(b->running_count, 3);
    b->ending = 3;
    work(b, 2);
    assert_int_equal(b->sent_count, 3); // a window is done, then the rest
    assert_int_equal(b->commits, 2);
    assert_int_equal(b->sent[1].kind, MESSAGE_COMMITTED);
    assert_int_equal(b->sent[1].count + b->sent[2].count, 6);
    assert_int_equal(b->sent[1].pairs + b->sent[2].pairs, 18);
    assert_int_equal(b->sent[1].tokens + b->sent[2].tokens, 300);
    assert_int_equal(b->sent[1].tasks[0], 10);
    bench_destroy(b);
}

static void the_runner_still_has_work_while_the_next_leases_are_fetched(void **state)
{
    (void)state;
    struct bench *b = bench_create(&patient);
    lease(b, 0, 2 * WINDOW);
    work(b, 0);
    b->ending = WINDOW;
    work(b, 1);
    assert_int_equal(b->commits, 1);
    assert_int_equal(last(b)->count, WINDOW);
    assert_int_equal(b->running_count, WINDOW);
    bench_destroy(b);
}

static void it_commits_when_the_oldest_result_has_waited_long_enough(void **state)
{
    (void)state;
    const struct agent_options options = {.commit_seconds = 5, .commit_bytes = SIZE_MAX};
    struct bench *b = bench_create(&options);
    lease(b, 0, 3);
    work(b, 0);
    b->ending = 1;
    work(b, 10);
    b->ending = 1;
    work(b, 14.9);
    assert_int_equal(b->commits, 0);
    work(b, 15);
    assert_int_equal(b->commits, 1);
    assert_int_equal(last(b)->count, 2);
    bench_destroy(b);
}

static void it_commits_when_there_are_enough_bytes(void **state)
{
    (void)state;
    const struct agent_options options = {.commit_seconds = 1e9, .commit_bytes = 2000};
    struct bench *b = bench_create(&options);
    lease(b, 0, 4);
    b->ending = 1;
    work(b, 0);
    assert_int_equal(b->commits, 0);
    b->ending = 1;
    work(b, 0);
    assert_int_equal(b->commits, 1);
    bench_destroy(b);
}

static void a_failed_task_is_reported_at_once_with_its_reason(void **state)
{
    (void)state;
    struct bench *b = bench_create(&patient);
    lease(b, 5, 1);
    b->ending = 1;
    b->failing = true;
    work(b, 0);
    assert_int_equal(last(b)->kind, MESSAGE_FAILED);
    assert_int_equal(last(b)->tasks[0], 5);
    assert_string_equal(last(b)->text, "no JSON");
    assert_int_equal(b->commits, 0);
    lease(b, 5, 1); // and may come back
    work(b, 0);
    assert_int_equal(b->submitted, 2);
    bench_destroy(b);
}

static void a_task_that_it_still_holds_is_not_run_twice(void **state)
{
    (void)state;
    struct bench *b = bench_create(&patient);
    lease(b, 0, WINDOW + 2);
    work(b, 0);
    lease(b, 0, WINDOW + 2); // some run, two wait
    b->ending = 1;
    work(b, 0);
    lease(b, 0, WINDOW + 2); // one is finished, not committed
    b->ending = WINDOW + 1;
    work(b, 0);
    assert_int_equal(b->submitted, WINDOW + 2);
    lease(b, 0, 1); // reported: now it is a new task
    work(b, 0);
    assert_int_equal(b->submitted, WINDOW + 3);
    bench_destroy(b);
}

static void stop_commits_what_is_done_and_leaves_the_rest(void **state)
{
    (void)state;
    struct bench *b = bench_create(&patient);
    lease(b, 0, 6);
    b->ending = 2;
    work(b, 0);
    assert_int_equal(b->commits, 0);
    stop(b);
    work(b, 0);
    assert_int_equal(b->commits, 1);
    assert_int_equal(b->sent[1].kind, MESSAGE_COMMITTED);
    assert_int_equal(b->sent[1].count, 2);
    assert_int_equal(b->sent[2].kind, MESSAGE_BYE);
    assert_false(b->sent[2].failed);
    assert_true(agent_ended(b->agent));
    lease(b, 100, 3); // what still arrives is ignored
    work(b, 1);
    assert_int_equal(b->sent_count, 3);
    bench_destroy(b);
}

static void a_runner_that_stalls_does_not_keep_it_from_leaving(void **state)
{
    (void)state;
    struct bench *b = bench_create(&patient);
    lease(b, 0, 4);
    for (int second = 0; second < 1000; second++)
        work(b, second);
    assert_int_equal(b->sent_count, 1);
    stop(b);
    work(b, 1000);
    assert_int_equal(last(b)->kind, MESSAGE_BYE);
    assert_false(last(b)->failed);
    bench_destroy(b);
}

static void stop_before_any_lease_is_answered_with_goodbye(void **state)
{
    (void)state;
    struct bench *b = bench_create(&patient);
    stop(b);
    work(b, 0);
    assert_int_equal(last(b)->kind, MESSAGE_BYE);
    assert_int_equal(b->commits, 0);
    bench_destroy(b);
}

// It fails, says so with the reason, and is over.
static void expect_failure(struct bench *b, const char *reason)
{
    struct error err;
    assert_int_equal(step(b, 0, &err), -1);
    assert_string_equal(err.text, reason);
    assert_int_equal(last(b)->kind, MESSAGE_BYE);
    assert_true(last(b)->failed);
    assert_string_equal(last(b)->text, reason);
    assert_true(agent_ended(b->agent));
    const size_t sent = b->sent_count;
    work(b, 1);
    assert_int_equal(b->sent_count, sent);
}

static void a_full_disk_ends_it_with_the_reason_and_nothing_is_reported(void **state)
{
    (void)state;
    struct bench *b = bench_create(&patient);
    lease(b, 0, 1);
    b->ending = 1;
    b->commit_fails = true;
    expect_failure(b, "cannot write 'segment.h5': no space left on device");
    for (size_t i = 0; i < b->sent_count; i++)
        assert_int_not_equal(b->sent[i].kind, MESSAGE_COMMITTED);
    bench_destroy(b);
}

static void a_full_disk_while_stopping_ends_it_with_the_reason(void **state)
{
    (void)state;
    struct bench *b = bench_create(&patient);
    lease(b, 0, 2);
    b->ending = 1;
    work(b, 0);
    stop(b);
    b->commit_fails = true;
    expect_failure(b, "cannot write 'segment.h5': no space left on device");
    bench_destroy(b);
}

static void a_runner_that_gives_up_ends_it_with_the_reason(void **state)
{
    (void)state;
    struct bench *b = bench_create(&patient);
    lease(b, 0, 1);
    b->submit_fails = true;
    expect_failure(b, "the engine is gone");
    bench_destroy(b);
    b = bench_create(&patient);
    lease(b, 0, 1);
    b->poll_fails = true;
    expect_failure(b, "the engine crashed");
    bench_destroy(b);
}

static void what_was_finished_is_saved_when_the_runner_gives_up(void **state)
{
    (void)state;
    struct bench *b = bench_create(&patient);
    lease(b, 0, 3);
    b->ending = 2;
    work(b, 0);
    b->poll_fails = true;
    expect_failure(b, "the engine crashed");
    assert_int_equal(b->commits, 1);
    assert_int_equal(b->sent[1].kind, MESSAGE_COMMITTED);
    assert_int_equal(b->sent[1].count, 2);
    bench_destroy(b);
}

static void a_limited_rate_is_kept_however_seldom_it_is_called(void **state)
{
    (void)state;
    struct agent_options options = patient;
    options.max_tasks_per_second = 100;
    for (int calls = 40; calls <= 2000; calls *= 7) { // per second
        struct bench *b = bench_create(&options);
        lease(b, 0, 500);
        b->ending = SIZE_MAX;
        b->runner.window = 64;
        for (int i = 0; i <= calls; i++)
            work(b, 1000 + (double)i / calls);
        assert_true(b->submitted >= 98 && b->submitted <= 113);
        bench_destroy(b);
    }
}

static void a_limited_rate_asks_for_no_more_than_half_a_lease_can_start(void **state)
{
    (void)state;
    struct agent_options options = patient;
    options.max_tasks_per_second = 0.1;
    options.lease_seconds = 100;
    struct bench *b = bench_create(&options);
    assert_int_equal(b->sent[0].window, 5);
    bench_destroy(b);
    options.lease_seconds = 1;
    b = bench_create(&options);
    assert_int_equal(b->sent[0].window, 1);
    bench_destroy(b);
    options.lease_seconds = 1e9;
    b = bench_create(&options);
    assert_int_equal(b->sent[0].window, 2 * WINDOW);
    bench_destroy(b);
}

static void a_queue_that_never_runs_dry_keeps_its_order(void **state)
{
    (void)state;
    struct bench *b = bench_create(&patient);
    uint32_t next = 0, expected = 0;
    lease(b, next, 300);
    next += 300;
    while (expected < 3000) {
        lease(b, next, 1);
        next++;
        b->ending = 1;
        work(b, 0);
        for (size_t i = 0; i < b->running_count; i++)
            assert_true(b->running[i] >= expected);
        expected = b->running[0];
    }
    assert_int_equal(b->submitted, expected + WINDOW);
    bench_destroy(b);
}

static void send_drop(struct bench *b, uint32_t task)
{
    struct error err;
    const struct message drop = {.kind = MESSAGE_DROP, .tasks = &task, .count = 1};
    assert_int_equal(agent_receive(b->agent, &drop, &err), 0);
}

static void a_dropped_task_that_waits_is_never_run(void **state)
{
    (void)state;
    struct bench *b = bench_create(&patient);
    struct error err;
    lease(b, 0, WINDOW + 2);
    assert_int_equal(step(b, 0, &err), 0);
    send_drop(b, WINDOW);
    send_drop(b, 77); // never leased
    assert_int_equal(b->drops, 0);
    b->ending = 1;
    assert_int_equal(step(b, 0, &err), 0);
    assert_int_equal(b->running[WINDOW - 1], WINDOW + 1);
    lease(b, WINDOW, 1); // it is not held any more
    b->ending = 1;
    assert_int_equal(step(b, 0, &err), 0);
    assert_int_equal(b->running[WINDOW - 1], WINDOW);
    bench_destroy(b);
}

static void a_dropped_task_that_runs_ends_without_a_report(void **state)
{
    (void)state;
    struct bench *b = bench_create(&patient);
    struct error err;
    lease(b, 0, 2);
    assert_int_equal(step(b, 0, &err), 0);
    send_drop(b, 0);
    assert_int_equal(b->drops, 1);
    b->ending = 2;
    assert_int_equal(step(b, 0, &err), 0);
    const struct message *last = &b->sent[b->sent_count - 1];
    assert_int_equal(b->sent_count, 2);
    assert_int_equal(last->kind, MESSAGE_COMMITTED);
    assert_int_equal(last->count, 1);
    assert_int_equal(last->tasks[0], 1);
    bench_destroy(b);
}

static void a_job_taken_for_dead_reports_nothing_and_can_leave(void **state)
{
    (void)state;
    struct bench *b = bench_create(&patient);
    struct error err;
    lease(b, 0, 2);
    assert_int_equal(step(b, 0, &err), 0);
    b->fenced = true;
    b->ending = 2;
    assert_int_equal(step(b, 0, &err), 0);
    assert_int_equal(b->sent_count, 1);
    stop(b);
    assert_int_equal(step(b, 0, &err), 0);
    assert_int_equal(b->sent[b->sent_count - 1].kind, MESSAGE_BYE);
    assert_false(b->sent[b->sent_count - 1].failed);
    bench_destroy(b);
}

static void messages_for_the_coordinator_are_refused(void **state)
{
    (void)state;
    struct bench *b = bench_create(&patient);
    struct error err;
    assert_int_equal(agent_receive(b->agent, &(struct message){.kind = MESSAGE_HELLO}, &err), -1);
    assert_string_equal(err.text, "unexpected message of kind 1 from the coordinator");
    bench_destroy(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_introduces_itself_and_asks_for_twice_what_it_can_run),
        cmocka_unit_test(it_runs_no_more_than_the_window_and_reports_after_the_commit),
        cmocka_unit_test(the_runner_still_has_work_while_the_next_leases_are_fetched),
        cmocka_unit_test(it_commits_when_the_oldest_result_has_waited_long_enough),
        cmocka_unit_test(it_commits_when_there_are_enough_bytes),
        cmocka_unit_test(a_failed_task_is_reported_at_once_with_its_reason),
        cmocka_unit_test(a_task_that_it_still_holds_is_not_run_twice),
        cmocka_unit_test(stop_commits_what_is_done_and_leaves_the_rest),
        cmocka_unit_test(a_runner_that_stalls_does_not_keep_it_from_leaving),
        cmocka_unit_test(stop_before_any_lease_is_answered_with_goodbye),
        cmocka_unit_test(a_full_disk_ends_it_with_the_reason_and_nothing_is_reported),
        cmocka_unit_test(a_full_disk_while_stopping_ends_it_with_the_reason),
        cmocka_unit_test(a_runner_that_gives_up_ends_it_with_the_reason),
        cmocka_unit_test(what_was_finished_is_saved_when_the_runner_gives_up),
        cmocka_unit_test(a_limited_rate_is_kept_however_seldom_it_is_called),
        cmocka_unit_test(a_limited_rate_asks_for_no_more_than_half_a_lease_can_start),
        cmocka_unit_test(a_queue_that_never_runs_dry_keeps_its_order),
        cmocka_unit_test(a_dropped_task_that_waits_is_never_run),
        cmocka_unit_test(a_dropped_task_that_runs_ends_without_a_report),
        cmocka_unit_test(a_job_taken_for_dead_reports_nothing_and_can_leave),
        cmocka_unit_test(messages_for_the_coordinator_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
