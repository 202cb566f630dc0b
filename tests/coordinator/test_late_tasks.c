// SPDX-License-Identifier: Apache-2.0
// Observed durations, second leases of late tasks, and limits that follow how a worker keeps up.
#include "coordinator/durations.h"
#include "tests/coordinator/machine.h"

#include <math.h>

#define LATE_SECONDS 2.0
#define LEASE_SECONDS 1000.0

static struct coordinator *create(size_t tasks, size_t workers)
{
    const struct coordinator_options options = {.tasks = tasks,
                                                .max_workers = workers,
                                                .lease_seconds = LEASE_SECONDS,
                                                .late_seconds = LATE_SECONDS,
                                                .max_attempts = 2};
    return coordinator_create(&options);
}

// Workers 0 and 1 do tasks of one second each, until `left` are left; returns the time.
static double do_all_but(struct coordinator *c, size_t tasks, size_t left)
{
    double now = 0;
    join(c, now, 0, 1);
    join(c, now, 1, 1);
    for (size_t done = 0; done < tasks - left;) {
        struct coordinator_action leases[2];
        for (int i = 0; i < 2; i++)
            leases[i] = expect(c, ACTION_LEASE);
        now += 1;
        for (int i = 0; i < 2; i++, done++)
            tell(c, now, EVENT_COMMITTED, leases[i].worker, leases[i].task);
    }
    return now;
}

static void the_usual_duration_is_known_after_enough_samples(void **state)
{
    (void)state;
    struct durations *d = durations_create();
    for (int i = 0; i < DURATION_MINIMUM_SAMPLES; i++) {
        assert_true(isinf(durations_usual(d, 3)));
        durations_add(d, 3, i % 10 == 9 ? 5.0 : 1.0);
    }
    assert_true(durations_usual(d, 3) >= 5.0 && durations_usual(d, 3) <= 5.0 * sqrt(sqrt(2)));
    assert_true(isinf(durations_usual(d, 4)));
    for (int i = 0; i < 1000; i++)
        durations_add(d, 3, 0.1);
    assert_true(durations_usual(d, 3) < 0.13);
    for (int i = 0; i < DURATION_MINIMUM_SAMPLES; i++)
        durations_add(d, 100000, i % 2 ? 0 : 1e300);
    assert_true(isfinite(durations_usual(d, 100001)));
    durations_destroy(d);
}

static void a_late_task_gets_a_second_worker_when_nothing_is_pending(void **state)
{
    (void)state;
    struct coordinator *c = create(42, 2);
    const double now = do_all_but(c, 42, 2);
    const struct coordinator_action slow = expect(c, ACTION_LEASE), fast = expect(c, ACTION_LEASE);
    assert_true(slow.late_seconds - now >= 3 && slow.late_seconds - now < 5);
    assert_true(slow.deadline_seconds == now + LEASE_SECONDS);
    tell(c, now + 1, EVENT_COMMITTED, fast.worker, fast.task);
    expect_nothing(c);
    tell(c, slow.late_seconds, EVENT_TICK, 0, 0);
    const struct coordinator_action second = expect(c, ACTION_LEASE);
    assert_int_equal(second.task, slow.task);
    assert_int_equal(second.worker, fast.worker);
    assert_true(second.second);
    expect_nothing(c);
    assert_int_equal(coordinator_counts(c).leased, 1);
    tell(c, now + 6, EVENT_COMMITTED, second.worker, second.task);
    const struct coordinator_action drop = expect(c, ACTION_DROP);
    assert_int_equal(drop.worker, slow.worker);
    assert_int_equal(drop.task, slow.task);
    assert_true(coordinator_complete(c));
    assert_int_equal(coordinator_counts(c).retries, 0);
    assert_int_equal(coordinator_counts(c).second_leases, 1);
    coordinator_destroy(c);
}

static void while_tasks_are_pending_nothing_is_done_twice(void **state)
{
    (void)state;
    struct coordinator *c = create(44, 2);
    const double now = do_all_but(c, 44, 4);
    const struct coordinator_action slow = expect(c, ACTION_LEASE), fast = expect(c, ACTION_LEASE);
    tell(c, slow.late_seconds, EVENT_TICK, 0, 0);
    tell(c, slow.late_seconds, EVENT_COMMITTED, fast.worker, fast.task);
    const struct coordinator_action next = expect(c, ACTION_LEASE);
    assert_int_not_equal(next.task, slow.task);
    assert_int_equal(next.worker, fast.worker);
    expect_nothing(c);
    (void)now;
    coordinator_destroy(c);
}

static void a_failure_of_one_worker_leaves_the_task_to_the_other(void **state)
{
    (void)state;
    struct coordinator *c = create(42, 2);
    const double now = do_all_but(c, 42, 2);
    const struct coordinator_action slow = expect(c, ACTION_LEASE), fast = expect(c, ACTION_LEASE);
    tell(c, now + 1, EVENT_COMMITTED, fast.worker, fast.task);
    tell(c, slow.late_seconds, EVENT_TICK, 0, 0);
    const struct coordinator_action second = expect(c, ACTION_LEASE);
    tell(c, now + 6, EVENT_FAILED, second.worker, second.task);
    assert_int_equal(coordinator_counts(c).leased, 1);
    const struct coordinator_action third = expect(c, ACTION_LEASE); // it is still late
    assert_int_equal(third.worker, fast.worker);
    tell(c, now + 7, EVENT_FAILED, third.worker, third.task);
    assert_int_equal(coordinator_counts(c).leased, 1); // attempts are spent, the first may succeed
    tell(c, now + 8, EVENT_WORKER_LOST, slow.worker, 0);
    assert_int_equal(expect(c, ACTION_SET_ASIDE).task, slow.task);
    assert_int_equal(coordinator_counts(c).retries, 3);
    coordinator_destroy(c);
}

static void a_worker_that_is_late_gets_less_and_earns_it_back(void **state)
{
    (void)state;
    struct coordinator *c = create(1000, 2);
    double now = do_all_but(c, 1000, 960);
    uint32_t tasks[8];
    tell(c, now, EVENT_WORKER_LEFT, 1, 0);
    join(c, now, 0, 8);
    for (int i = 0; i < 8; i++)
        tasks[i] = expect_lease(c, 0);
    expect_nothing(c);
    now += 100;
    tell(c, now, EVENT_TICK, 0, 0); // eight are late: the limit falls to one
    tell(c, now, EVENT_COMMITTED, 0, tasks[0]);
    expect_nothing(c);
    for (int i = 1; i < 8; i++)
        tell(c, now, EVENT_COMMITTED, 0, tasks[i]);
    for (int i = 0; i < 8; i++)
        (void)expect_lease(c, 0);
    expect_nothing(c);
    coordinator_destroy(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_usual_duration_is_known_after_enough_samples),
        cmocka_unit_test(a_late_task_gets_a_second_worker_when_nothing_is_pending),
        cmocka_unit_test(while_tasks_are_pending_nothing_is_done_twice),
        cmocka_unit_test(a_failure_of_one_worker_leaves_the_task_to_the_other),
        cmocka_unit_test(a_worker_that_is_late_gets_less_and_earns_it_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
