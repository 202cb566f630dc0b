// SPDX-License-Identifier: Apache-2.0
// The state machine, one transition at a time; tests/sim drives it through all orders at once.
#include "base/clock.h"
#include "base/mem.h"
#include "base/random.h"
#include "coordinator/coordinator.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define LEASE_SECONDS 10.0
#define MAX_ATTEMPTS 3

static struct coordinator *create(size_t tasks, size_t workers)
{
    const struct coordinator_options options = {.tasks = tasks,
                                                .max_workers = workers,
                                                .lease_seconds = LEASE_SECONDS,
                                                .max_attempts = MAX_ATTEMPTS};
    return coordinator_create(&options);
}

static void join(struct coordinator *c, double now, int worker, uint32_t window)
{
    coordinator_handle(c, &(struct coordinator_event){.kind = EVENT_WORKER_JOINED,
                                                      .now_seconds = now,
                                                      .worker = worker,
                                                      .window = window});
}

static void tell(struct coordinator *c, double now, enum coordinator_event_kind kind, int worker,
                 uint32_t task)
{
    coordinator_handle(c, &(struct coordinator_event){.kind = kind,
                                                      .now_seconds = now,
                                                      .worker = worker,
                                                      .task = task,
                                                      .reason = "it broke"});
}

static void expect_nothing(struct coordinator *c)
{
    struct coordinator_action action;
    assert_false(coordinator_next_action(c, &action));
}

// The next action, which must be a lease; returns its task.
static uint32_t expect_lease(struct coordinator *c, int worker)
{
    struct coordinator_action action;
    assert_true(coordinator_next_action(c, &action));
    assert_int_equal(action.kind, ACTION_LEASE);
    assert_int_equal(action.worker, worker);
    return action.task;
}

static void expect_stop(struct coordinator *c, int worker)
{
    struct coordinator_action action;
    assert_true(coordinator_next_action(c, &action));
    assert_int_equal(action.kind, ACTION_STOP_WORKER);
    assert_int_equal(action.worker, worker);
}

static void expect_set_aside(struct coordinator *c, uint32_t task, const char *reason)
{
    struct coordinator_action action;
    assert_true(coordinator_next_action(c, &action));
    assert_int_equal(action.kind, ACTION_SET_ASIDE);
    assert_int_equal(action.task, task);
    assert_string_equal(action.reason, reason);
}

// Takes leases until there are none; held[worker] counts them.
static size_t take_leases(struct coordinator *c, size_t *held, size_t workers)
{
    struct coordinator_action action;
    size_t count = 0;
    memset(held, 0, workers * sizeof(*held));
    while (coordinator_next_action(c, &action)) {
        assert_int_equal(action.kind, ACTION_LEASE);
        held[action.worker]++;
        count++;
    }
    return count;
}

static void one_task_is_leased_committed_and_the_worker_stopped(void **state)
{
    (void)state;
    struct coordinator *c = create(1, 1);
    expect_nothing(c); // nobody is there
    assert_false(coordinator_complete(c));
    join(c, 0, 0, 4);
    assert_int_equal(expect_lease(c, 0), 0);
    expect_nothing(c);
    assert_int_equal(coordinator_counts(c).leased, 1);
    tell(c, 1, EVENT_COMMITTED, 0, 0);
    assert_true(coordinator_complete(c));
    assert_false(coordinator_ended(c));
    expect_stop(c, 0);
    expect_nothing(c); // it is told once
    tell(c, 2, EVENT_WORKER_LEFT, 0, 0);
    assert_true(coordinator_ended(c));
    assert_int_equal(coordinator_counts(c).done, 1);
    assert_int_equal(coordinator_counts(c).leased, 0);
    assert_int_equal(coordinator_counts(c).retries, 0);
    coordinator_destroy(c);
}

static void zero_tasks_are_complete_and_every_worker_is_told_to_stop(void **state)
{
    (void)state;
    struct coordinator *c = create(0, 2);
    assert_true(coordinator_complete(c));
    assert_true(coordinator_ended(c));
    expect_nothing(c);
    join(c, 0, 1, 1);
    assert_false(coordinator_ended(c));
    expect_stop(c, 1);
    tell(c, 0, EVENT_WORKER_LEFT, 1, 0);
    assert_true(coordinator_ended(c));
    coordinator_destroy(c);
}

static void a_worker_never_holds_more_than_its_window(void **state)
{
    (void)state;
    struct coordinator *c = create(1000, 3);
    size_t held[3];
    join(c, 0, 0, 1);
    join(c, 0, 1, 31);
    join(c, 0, 2, 33);
    assert_int_equal(take_leases(c, held, 3), 65);
    assert_int_equal(held[0], 1);
    assert_int_equal(held[1], 31);
    assert_int_equal(held[2], 33);
    coordinator_destroy(c);
}

static void a_worker_without_window_gets_nothing(void **state)
{
    (void)state;
    struct coordinator *c = create(5, 1);
    join(c, 0, 0, 0);
    expect_nothing(c);
    coordinator_destroy(c);
}

static void the_last_tasks_are_shared_fairly(void **state)
{
    (void)state;
    struct coordinator *c = create(10, 4);
    size_t held[4];
    for (int w = 0; w < 4; w++)
        join(c, 0, w, 100);
    assert_int_equal(take_leases(c, held, 4), 10);
    for (int w = 0; w < 4; w++)
        assert_true(held[w] == 2 || held[w] == 3);
    coordinator_destroy(c);
}

static void a_late_worker_gets_what_is_pending_but_nothing_is_taken_away(void **state)
{
    (void)state;
    struct coordinator *c = create(10, 2);
    size_t held[2];
    join(c, 0, 0, 6);
    assert_int_equal(take_leases(c, held, 2), 6);
    join(c, 1, 1, 6);
    assert_int_equal(take_leases(c, held, 2), 4);
    assert_int_equal(held[1], 4);
    coordinator_destroy(c);
}

static void those_who_are_expected_keep_their_share(void **state)
{
    (void)state;
    const struct coordinator_options options = {.tasks = 30,
                                                .max_workers = 3,
                                                .expected_workers = 3,
                                                .lease_seconds = LEASE_SECONDS,
                                                .max_attempts = MAX_ATTEMPTS};
    struct coordinator *c = coordinator_create(&options);
    size_t held[3];
    join(c, 0, 0, 100);
    assert_int_equal(take_leases(c, held, 3), 10);
    tell(c, 0, EVENT_WORKER_LEFT, 0, 0);
    join(c, 0, 0, 100); // known already: the other two are still expected
    assert_int_equal(take_leases(c, held, 3), 10);
    join(c, 0, 1, 100);
    assert_int_equal(take_leases(c, held, 3), 10);
    join(c, 0, 2, 100);
    assert_int_equal(take_leases(c, held, 3), 10);
    assert_int_equal(held[2], 10);
    coordinator_destroy(c);
}

static void an_expired_lease_counts_an_attempt_and_goes_to_somebody_else(void **state)
{
    (void)state;
    struct coordinator *c = create(1, 2);
    join(c, 0, 0, 1);
    assert_int_equal(expect_lease(c, 0), 0);
    join(c, 0, 1, 1);
    tell(c, LEASE_SECONDS - 0.001, EVENT_TICK, 0, 0);
    expect_nothing(c);
    tell(c, LEASE_SECONDS, EVENT_TICK, 0, 0);
    assert_int_equal(coordinator_counts(c).retries, 1);
    assert_int_equal(expect_lease(c, 1), 0);
    coordinator_destroy(c);
}

static void a_result_in_the_instant_of_expiry_is_in_time(void **state)
{
    (void)state;
    struct coordinator *c = create(1, 1);
    join(c, 0, 0, 1);
    expect_lease(c, 0);
    tell(c, LEASE_SECONDS, EVENT_COMMITTED, 0, 0);
    assert_int_equal(coordinator_counts(c).retries, 0);
    assert_true(coordinator_complete(c));
    coordinator_destroy(c);
}

static void max_attempts_that_expire_set_the_task_aside(void **state)
{
    (void)state;
    struct coordinator *c = create(1, 1);
    join(c, 0, 0, 1);
    for (int attempt = 1; attempt <= MAX_ATTEMPTS; attempt++) {
        assert_int_equal(expect_lease(c, 0), 0);
        tell(c, attempt * LEASE_SECONDS, EVENT_TICK, 0, 0);
    }
    expect_set_aside(c, 0, "no result within the lease");
    expect_nothing(c); // handed out once
    assert_false(coordinator_complete(c));
    tell(c, 31, EVENT_SET_ASIDE_COMMITTED, 0, 0);
    assert_true(coordinator_complete(c));
    assert_int_equal(coordinator_counts(c).aside, 1);
    assert_int_equal(coordinator_counts(c).done, 0);
    expect_stop(c, 0);
    coordinator_destroy(c);
}

static void failures_and_losses_count_attempts_and_the_last_reason_is_kept(void **state)
{
    (void)state;
    struct coordinator *c = create(1, 2);
    join(c, 0, 0, 1);
    expect_lease(c, 0);
    tell(c, 0, EVENT_FAILED, 0, 0);
    expect_lease(c, 0);
    tell(c, 0, EVENT_WORKER_LOST, 0, 0);
    join(c, 0, 1, 1);
    expect_lease(c, 1);
    tell(c, 0, EVENT_FAILED, 1, 0);
    expect_set_aside(c, 0, "it broke");
    assert_int_equal(coordinator_counts(c).retries, 3);
    coordinator_destroy(c);
}

static void a_fatal_failure_spends_all_attempts(void **state)
{
    (void)state;
    struct coordinator *c = create(2, 2);
    join(c, 0, 0, 1);
    expect_lease(c, 0);
    coordinator_handle(c, &(struct coordinator_event){
                              .kind = EVENT_FAILED, .task = 0, .reason = "never", .fatal = true});
    expect_set_aside(c, 0, "never");
    assert_int_equal(coordinator_counts(c).retries, 1);
    coordinator_destroy(c);
}

static void a_lost_worker_gives_back_everything_it_held(void **state)
{
    (void)state;
    struct coordinator *c = create(31, 2);
    size_t held[2];
    join(c, 0, 0, 100);
    assert_int_equal(take_leases(c, held, 2), 31);
    tell(c, 0, EVENT_COMMITTED, 0, 7);
    tell(c, 0, EVENT_WORKER_LOST, 0, 0);
    assert_int_equal(coordinator_counts(c).retries, 30);
    assert_int_equal(coordinator_counts(c).leased, 0);
    assert_int_equal(coordinator_counts(c).workers, 0);
    tell(c, 0, EVENT_WORKER_LOST, 0, 0); // again: nothing left to lose
    assert_int_equal(coordinator_counts(c).workers, 0);
    join(c, 0, 1, 100);
    assert_int_equal(take_leases(c, held, 2), 30);
    coordinator_destroy(c);
}

static void a_graceful_leave_counts_no_attempt(void **state)
{
    (void)state;
    struct coordinator *c = create(1, 1);
    for (int i = 0; i < 5 * MAX_ATTEMPTS; i++) {
        join(c, 0, 0, 1);
        assert_int_equal(expect_lease(c, 0), 0);
        tell(c, 0, EVENT_WORKER_LEFT, 0, 0);
        expect_nothing(c);
    }
    assert_int_equal(coordinator_counts(c).retries, 0);
    coordinator_destroy(c);
}

static void a_worker_that_joins_twice_has_lost_what_it_held(void **state)
{
    (void)state;
    struct coordinator *c = create(3, 1);
    size_t held[1];
    join(c, 0, 0, 3);
    assert_int_equal(take_leases(c, held, 1), 3);
    join(c, 0, 0, 2);
    assert_int_equal(coordinator_counts(c).workers, 1);
    assert_int_equal(coordinator_counts(c).retries, 3);
    assert_int_equal(take_leases(c, held, 1), 2);
    coordinator_destroy(c);
}

static void a_late_result_after_re_lease_is_accepted_once(void **state)
{
    (void)state;
    struct coordinator *c = create(2, 2);
    join(c, 0, 0, 1);
    assert_int_equal(expect_lease(c, 0), 0);
    join(c, 0, 1, 1);
    assert_int_equal(expect_lease(c, 1), 1);
    tell(c, 9, EVENT_COMMITTED, 1, 1);
    tell(c, 10, EVENT_TICK, 0, 0);
    assert_int_equal(expect_lease(c, 1), 0);
    tell(c, 11, EVENT_COMMITTED, 0, 0); // the first holder, late
    assert_true(coordinator_complete(c));
    assert_int_equal(coordinator_counts(c).leased, 0);
    tell(c, 12, EVENT_COMMITTED, 1, 0); // the second one
    assert_int_equal(coordinator_counts(c).done, 2);
    assert_int_equal(coordinator_counts(c).late_results, 1);
    coordinator_destroy(c);
}

static void a_late_failure_does_not_touch_the_new_lease(void **state)
{
    (void)state;
    struct coordinator *c = create(1, 2);
    join(c, 0, 0, 1);
    expect_lease(c, 0);
    join(c, 0, 1, 1);
    tell(c, 10, EVENT_TICK, 0, 0);
    expect_lease(c, 1);
    tell(c, 11, EVENT_FAILED, 0, 0);
    assert_int_equal(coordinator_counts(c).retries, 1);
    assert_int_equal(coordinator_counts(c).leased, 1);
    coordinator_destroy(c);
}

// Drives task 0 to the point where it is to be set aside.
static void spend_all_attempts(struct coordinator *c)
{
    join(c, 0, 0, 1);
    for (int i = 0; i < MAX_ATTEMPTS; i++) {
        expect_lease(c, 0);
        tell(c, 0, EVENT_FAILED, 0, 0);
    }
}

static void a_late_result_rescues_a_task_that_waits_to_be_set_aside(void **state)
{
    (void)state;
    struct coordinator *c = create(1, 1);
    spend_all_attempts(c);
    tell(c, 1, EVENT_COMMITTED, 0, 0);
    expect_stop(c, 0); // and no set-aside
    assert_int_equal(coordinator_counts(c).done, 1);
    assert_int_equal(coordinator_counts(c).aside, 0);
    coordinator_destroy(c);
}

static void a_result_between_set_aside_and_its_commit_counts_once(void **state)
{
    (void)state;
    struct coordinator *c = create(1, 1);
    spend_all_attempts(c);
    expect_set_aside(c, 0, "it broke");
    tell(c, 1, EVENT_COMMITTED, 0, 0);
    tell(c, 2, EVENT_SET_ASIDE_COMMITTED, 0, 0);
    assert_int_equal(coordinator_counts(c).done, 1);
    assert_int_equal(coordinator_counts(c).aside, 0);
    assert_int_equal(coordinator_counts(c).late_results, 1);
    coordinator_destroy(c);
}

static void a_late_result_after_set_aside_changes_nothing(void **state)
{
    (void)state;
    struct coordinator *c = create(1, 1);
    spend_all_attempts(c);
    expect_set_aside(c, 0, "it broke");
    tell(c, 1, EVENT_SET_ASIDE_COMMITTED, 0, 0);
    tell(c, 2, EVENT_COMMITTED, 0, 0);
    assert_int_equal(coordinator_counts(c).done, 0);
    assert_int_equal(coordinator_counts(c).aside, 1);
    assert_int_equal(coordinator_counts(c).late_results, 1);
    coordinator_destroy(c);
}

static void after_a_stop_nothing_is_leased_but_results_still_count(void **state)
{
    (void)state;
    struct coordinator *c = create(10, 2);
    size_t held[2];
    join(c, 0, 0, 2);
    join(c, 0, 1, 2);
    assert_int_equal(take_leases(c, held, 2), 4);
    tell(c, 1, EVENT_STOP_REQUESTED, 0, 0);
    expect_stop(c, 0);
    expect_stop(c, 1);
    expect_nothing(c);
    tell(c, 1, EVENT_COMMITTED, 0, 0);
    tell(c, 1, EVENT_WORKER_LEFT, 0, 0);
    assert_false(coordinator_ended(c));
    tell(c, 1, EVENT_WORKER_LEFT, 1, 0);
    assert_true(coordinator_ended(c));
    assert_false(coordinator_complete(c));
    assert_int_equal(coordinator_counts(c).done, 1);
    assert_int_equal(coordinator_counts(c).leased, 0);
    expect_nothing(c);
    coordinator_destroy(c);
}

static void who_joins_after_the_end_is_told_to_stop(void **state)
{
    (void)state;
    struct coordinator *c = create(1, 3);
    join(c, 0, 1, 1);
    expect_lease(c, 1);
    tell(c, 1, EVENT_COMMITTED, 1, 0);
    expect_stop(c, 1);
    tell(c, 2, EVENT_WORKER_LEFT, 1, 0);
    assert_true(coordinator_ended(c));
    join(c, 3, 2, 1);
    assert_false(coordinator_ended(c));
    expect_stop(c, 2);
    join(c, 4, 1, 1); // one that was told before, and came back
    expect_stop(c, 1);
    expect_nothing(c);
    tell(c, 5, EVENT_WORKER_LOST, 1, 0);
    tell(c, 5, EVENT_WORKER_LEFT, 2, 0);
    assert_true(coordinator_ended(c));
    coordinator_destroy(c);
}

static void restored_tasks_are_never_leased(void **state)
{
    (void)state;
    struct coordinator *c = create(4, 1);
    coordinator_restore(c, 0, false);
    coordinator_restore(c, 2, true);
    coordinator_restore(c, 3, false);
    assert_int_equal(coordinator_counts(c).done, 2);
    assert_int_equal(coordinator_counts(c).aside, 1);
    join(c, 0, 0, 10);
    assert_int_equal(expect_lease(c, 0), 1);
    expect_nothing(c);
    tell(c, 0, EVENT_COMMITTED, 0, 1);
    assert_true(coordinator_complete(c));
    coordinator_destroy(c);
}

static void a_worker_that_fell_silent_gets_one_task_at_a_time(void **state)
{
    (void)state;
    struct coordinator *c = create(100, 2);
    size_t held[2];
    join(c, 0, 0, 8);
    join(c, 0, 1, 8);
    assert_int_equal(take_leases(c, held, 2), 16);
    for (uint32_t t = 0; t < 16; t++) // worker 1 reports its eight, worker 0 nothing
        tell(c, 5, EVENT_COMMITTED, 1, t % 2 ? t : 1);
    take_leases(c, held, 2);
    assert_int_equal(held[1], 8);
    tell(c, LEASE_SECONDS, EVENT_TICK, 0, 0);
    take_leases(c, held, 2);
    assert_int_equal(held[0], 1);
    assert_int_equal(held[1], 0);
    tell(c, LEASE_SECONDS + 1, EVENT_COMMITTED, 0, 0); // it speaks again, late
    take_leases(c, held, 2);
    assert_int_equal(held[0], 7);
    coordinator_destroy(c);
}

static void a_silent_worker_does_not_delay_the_last_tasks(void **state)
{
    (void)state;
    struct coordinator *c = create(6, 2);
    size_t held[2];
    join(c, 0, 0, 3);
    assert_int_equal(take_leases(c, held, 2), 3);
    tell(c, LEASE_SECONDS, EVENT_TICK, 0, 0);
    join(c, LEASE_SECONDS, 1, 6);
    assert_int_equal(take_leases(c, held, 2), 6);
    assert_int_equal(held[1], 6);
    coordinator_destroy(c);
}

static void a_long_reason_is_cut(void **state)
{
    (void)state;
    struct coordinator *c = create(1, 1);
    struct coordinator_action action;
    char *reason = mem_calloc(1, 5001);
    memset(reason, 'x', 5000);
    join(c, 0, 0, 1);
    for (int i = 0; i < MAX_ATTEMPTS; i++) {
        expect_lease(c, 0);
        coordinator_handle(
            c, &(struct coordinator_event){.kind = EVENT_FAILED, .task = 0, .reason = reason});
    }
    free(reason);
    assert_true(coordinator_next_action(c, &action));
    assert_int_equal(strlen(action.reason), 1024);
    coordinator_destroy(c);
}

// Every lease, of 1,000 workers with windows of 1 to 64, in which some fall silent, come and go.
static void a_hundred_thousand_tasks_and_a_thousand_workers_take_less_than_a_second(void **state)
{
    (void)state;
    enum { TASKS = 100000, WORKERS = 1000 };
    struct coordinator *c = create(TASKS, WORKERS);
    uint32_t *queue = mem_calloc(4 * TASKS, sizeof(*queue));
    int *owner = mem_calloc(4 * TASKS, sizeof(*owner));
    size_t first = 0, count = 0, events = 0;
    const double begin = clock_seconds();
    double now = 0;
    for (int w = 0; w < WORKERS; w++)
        join(c, 0, w, 1 + (uint32_t)w % 64);
    while (!coordinator_complete(c)) {
        struct coordinator_action action;
        while (coordinator_next_action(c, &action)) {
            if (action.kind != ACTION_LEASE)
                continue;
            assert_true(count < 4 * TASKS);
            queue[count] = action.task;
            owner[count++] = action.worker;
        }
        assert_true(first < count);
        now += 1e-5;
        const bool lost = random_u64(1, 2, events++) % 1000 == 0;
        const uint32_t window = 1 + (uint32_t)owner[first] % 64;
        tell(c, now, lost ? EVENT_WORKER_LEFT : EVENT_COMMITTED, owner[first], queue[first]);
        if (lost)
            join(c, now, owner[first], window);
        else
            first++;
    }
    assert_true(clock_seconds() - begin < 60); // not a scan of all workers for each lease
    assert_int_equal(coordinator_counts(c).done, TASKS);
    free(queue);
    free(owner);
    coordinator_destroy(c);
}

static void stopping_a_thousand_workers_tells_each_one_once(void **state)
{
    (void)state;
    enum { WORKERS = 1000 };
    struct coordinator *c = create(10, WORKERS);
    struct coordinator_action action;
    int told[WORKERS] = {0};
    for (int w = 0; w < WORKERS; w++)
        join(c, 0, w, 1);
    tell(c, 0, EVENT_STOP_REQUESTED, 0, 0);
    while (coordinator_next_action(c, &action)) {
        assert_int_equal(action.kind, ACTION_STOP_WORKER);
        told[action.worker]++;
        tell(c, 0, EVENT_WORKER_LEFT, action.worker, 0);
    }
    for (int w = 0; w < WORKERS; w++)
        assert_int_equal(told[w], 1);
    assert_true(coordinator_ended(c));
    coordinator_destroy(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_task_is_leased_committed_and_the_worker_stopped),
        cmocka_unit_test(zero_tasks_are_complete_and_every_worker_is_told_to_stop),
        cmocka_unit_test(a_worker_never_holds_more_than_its_window),
        cmocka_unit_test(a_worker_without_window_gets_nothing),
        cmocka_unit_test(the_last_tasks_are_shared_fairly),
        cmocka_unit_test(a_late_worker_gets_what_is_pending_but_nothing_is_taken_away),
        cmocka_unit_test(those_who_are_expected_keep_their_share),
        cmocka_unit_test(an_expired_lease_counts_an_attempt_and_goes_to_somebody_else),
        cmocka_unit_test(a_result_in_the_instant_of_expiry_is_in_time),
        cmocka_unit_test(max_attempts_that_expire_set_the_task_aside),
        cmocka_unit_test(failures_and_losses_count_attempts_and_the_last_reason_is_kept),
        cmocka_unit_test(a_fatal_failure_spends_all_attempts),
        cmocka_unit_test(a_lost_worker_gives_back_everything_it_held),
        cmocka_unit_test(a_graceful_leave_counts_no_attempt),
        cmocka_unit_test(a_worker_that_joins_twice_has_lost_what_it_held),
        cmocka_unit_test(a_late_result_after_re_lease_is_accepted_once),
        cmocka_unit_test(a_late_failure_does_not_touch_the_new_lease),
        cmocka_unit_test(a_late_result_rescues_a_task_that_waits_to_be_set_aside),
        cmocka_unit_test(a_result_between_set_aside_and_its_commit_counts_once),
        cmocka_unit_test(a_late_result_after_set_aside_changes_nothing),
        cmocka_unit_test(after_a_stop_nothing_is_leased_but_results_still_count),
        cmocka_unit_test(who_joins_after_the_end_is_told_to_stop),
        cmocka_unit_test(restored_tasks_are_never_leased),
        cmocka_unit_test(a_worker_that_fell_silent_gets_one_task_at_a_time),
        cmocka_unit_test(a_silent_worker_does_not_delay_the_last_tasks),
        cmocka_unit_test(a_long_reason_is_cut),
        cmocka_unit_test(a_hundred_thousand_tasks_and_a_thousand_workers_take_less_than_a_second),
        cmocka_unit_test(stopping_a_thousand_workers_tells_each_one_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
