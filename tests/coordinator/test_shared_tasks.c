// SPDX-License-Identifier: Apache-2.0
// The state machine of one of several jobs: what it asks for, when, and what it does with answers.
#include "tests/coordinator/machine.h"

#define BLOCK 4

static struct coordinator *create(size_t tasks, size_t workers)
{
    const struct coordinator_options options = {.tasks = tasks,
                                                .max_workers = workers,
                                                .lease_seconds = 100,
                                                .claim_retry_seconds = 5,
                                                .max_attempts = 2};
    return coordinator_create(&options);
}

static struct coordinator *create_with_blocks(size_t tasks, size_t workers)
{
    struct coordinator *c = create(tasks, workers);
    for (uint32_t t = 0; t < tasks; t += BLOCK)
        assert_int_equal(coordinator_add_block(c, t, BLOCK), t / BLOCK);
    return c;
}

static void a_block_is_asked_for_when_a_worker_has_nothing(void **state)
{
    (void)state;
    struct coordinator *c = create_with_blocks(12, 1);
    expect_nothing(c);
    join(c, 0, 0, 6);
    assert_int_equal(expect_claim(c), 0);
    tell_claim(c, 0, 0, true);
    for (uint32_t t = 0; t < BLOCK; t++)
        assert_int_equal(expect_lease(c, 0), t);
    assert_int_equal(expect_claim(c), 1);
    tell_claim(c, 0, 1, true);
    assert_int_equal(expect_lease(c, 0), 4);
    assert_int_equal(expect_lease(c, 0), 5);
    expect_nothing(c); // full, and two tasks are still pending
    coordinator_destroy(c);
}

static void what_another_job_holds_is_asked_for_again_later(void **state)
{
    (void)state;
    struct coordinator *c = create_with_blocks(8, 1);
    join(c, 1, 0, 10);
    assert_int_equal(expect_claim(c), 0);
    tell_claim(c, 1, 0, false);
    assert_int_equal(expect_claim(c), 1);
    tell_claim(c, 1, 1, true);
    for (uint32_t t = 4; t < 8; t++)
        assert_int_equal(expect_lease(c, 0), t);
    assert_int_equal(expect_claim(c), 0); // at once: who held it may have ended meanwhile
    tell_claim(c, 1, 0, false);
    expect_nothing(c);
    tell(c, 5.9, EVENT_TICK, 0, 0);
    expect_nothing(c);
    tell(c, 6, EVENT_TICK, 0, 0);
    assert_int_equal(expect_claim(c), 0);
    tell_claim(c, 6, 0, true);
    assert_int_equal(expect_lease(c, 0), 0);
    coordinator_destroy(c);
}

static void what_others_have_done_counts_and_is_never_leased(void **state)
{
    (void)state;
    struct coordinator *c = create_with_blocks(8, 1);
    join(c, 0, 0, 10);
    assert_int_equal(expect_claim(c), 0);
    tell_claim(c, 0, 0, false);
    assert_int_equal(expect_claim(c), 1);
    tell_found(c, 0, 5); // by the one that held it before
    tell_claim(c, 0, 1, true);
    assert_int_equal(expect_lease(c, 0), 4);
    assert_int_equal(expect_lease(c, 0), 6);
    assert_int_equal(expect_lease(c, 0), 7);
    assert_true(coordinator_needs_news(c));
    for (uint32_t t = 0; t < BLOCK; t++)
        tell_found(c, 1, t);
    tell_found(c, 1, 3); // again: nothing
    assert_false(coordinator_needs_news(c));
    expect_nothing(c);
    for (uint32_t t = 4; t < 8; t++)
        tell(c, 2, EVENT_COMMITTED, 0, t);
    const struct coordinator_counts counts = coordinator_counts(c);
    assert_true(coordinator_complete(c));
    assert_int_equal(counts.done, 8);
    assert_int_equal(counts.elsewhere, 5);
    assert_int_equal(counts.computed, 4);
    assert_int_equal(counts.late_results, 1);
    coordinator_destroy(c);
}

static void a_task_found_elsewhere_is_taken_from_the_worker_that_has_it(void **state)
{
    (void)state;
    struct coordinator *c = create_with_blocks(4, 1);
    join(c, 0, 0, 10);
    assert_int_equal(expect_claim(c), 0);
    tell_claim(c, 0, 0, true);
    for (uint32_t t = 0; t < BLOCK; t++)
        assert_int_equal(expect_lease(c, 0), t);
    tell_found(c, 1, 2);
    const struct coordinator_action drop = expect(c, ACTION_DROP);
    assert_int_equal(drop.worker, 0);
    assert_int_equal(drop.task, 2);
    expect_nothing(c);
    assert_int_equal(coordinator_counts(c).leased, 3);
    coordinator_destroy(c);
}

static void a_group_waits_for_chunks_that_other_jobs_do(void **state)
{
    (void)state;
    struct coordinator *c = create(8, 1);
    for (uint32_t t = 0; t < 8; t++)
        coordinator_set_priority(c, t, t < 6 ? 0 : 9);
    coordinator_depend(c, 6, 0);
    coordinator_depend(c, 6, 5);
    coordinator_depend(c, 7, 5);
    (void)coordinator_add_block(c, 0, 4);
    (void)coordinator_add_block(c, 4, 2);
    (void)coordinator_add_block(c, 6, 2);
    join(c, 0, 0, 4);
    assert_int_equal(expect_claim(c), 0); // the groups are not ready
    tell_claim(c, 0, 0, true);
    for (uint32_t t = 0; t < 4; t++)
        tell(c, 0, EVENT_COMMITTED, 0, expect_lease(c, 0));
    assert_int_equal(expect_claim(c), 1);
    tell_claim(c, 0, 1, false);
    assert_true(coordinator_needs_news(c));
    tell_found(c, 1, 5);
    assert_int_equal(expect_claim(c), 2); // more important than what was refused
    tell_claim(c, 1, 2, true);
    assert_int_equal(expect_lease(c, 0), 6);
    assert_int_equal(expect_lease(c, 0), 7);
    coordinator_destroy(c);
}

static void no_job_holds_more_than_its_share(void **state)
{
    (void)state;
    struct coordinator *c = create_with_blocks(40, 1);
    size_t held = 0;
    tell_jobs(c, 0, 4);
    join(c, 0, 0, 100);
    for (struct coordinator_action action; coordinator_next_action(c, &action);) {
        if (action.kind == ACTION_CLAIM)
            tell_claim(c, 0, action.block, true);
        else
            held++;
    }
    assert_int_equal(held, 12); // a quarter is 10: three blocks
    tell_jobs(c, 0, 1);         // the others have ended
    for (struct coordinator_action action; coordinator_next_action(c, &action);) {
        if (action.kind == ACTION_CLAIM)
            tell_claim(c, 0, action.block, true);
        else
            held++;
    }
    assert_int_equal(held, 40);
    coordinator_destroy(c);
}

static void restored_blocks_are_not_asked_for(void **state)
{
    (void)state;
    struct coordinator *c = create_with_blocks(8, 1);
    for (uint32_t t = 0; t < 5; t++)
        coordinator_restore(c, t, false);
    join(c, 0, 0, 10);
    assert_int_equal(expect_claim(c), 1);
    tell_claim(c, 0, 1, true);
    assert_int_equal(expect_lease(c, 0), 5);
    coordinator_destroy(c);
}

static void nothing_is_claimed_after_a_stop(void **state)
{
    (void)state;
    struct coordinator *c = create_with_blocks(8, 1);
    join(c, 0, 0, 10);
    tell(c, 0, EVENT_STOP_REQUESTED, 0, 0);
    assert_int_equal(expect(c, ACTION_STOP_WORKER).worker, 0);
    expect_nothing(c);
    coordinator_destroy(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_block_is_asked_for_when_a_worker_has_nothing),
        cmocka_unit_test(what_another_job_holds_is_asked_for_again_later),
        cmocka_unit_test(what_others_have_done_counts_and_is_never_leased),
        cmocka_unit_test(a_task_found_elsewhere_is_taken_from_the_worker_that_has_it),
        cmocka_unit_test(a_group_waits_for_chunks_that_other_jobs_do),
        cmocka_unit_test(no_job_holds_more_than_its_share),
        cmocka_unit_test(restored_blocks_are_not_asked_for),
        cmocka_unit_test(nothing_is_claimed_after_a_stop),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
