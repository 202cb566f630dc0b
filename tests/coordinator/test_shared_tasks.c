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

// Another job holds all: two blocks of four tasks. Time is 100 then.
static struct coordinator *create_idle(uint32_t window, double late_seconds)
{
    const struct coordinator_options options = {.tasks = 2 * BLOCK,
                                                .max_workers = 1,
                                                .lease_seconds = 1000,
                                                .late_seconds = late_seconds,
                                                .claim_retry_seconds = 5,
                                                .max_attempts = 1};
    struct coordinator *c = coordinator_create(&options);
    (void)coordinator_add_block(c, 0, BLOCK);
    (void)coordinator_add_block(c, BLOCK, BLOCK);
    tell_jobs(c, 100, 2);
    join(c, 100, 0, window);
    for (uint32_t b = 0; b < 2; b++) {
        assert_int_equal(expect_claim(c), b);
        tell_claim(c, 100, b, false);
    }
    return c;
}

// At `now` both blocks are asked for once more, and in vain.
static void refuse_again(struct coordinator *c, double now)
{
    tell(c, now, EVENT_TICK, 0, 0);
    for (uint32_t b = 0; b < 2; b++) {
        assert_int_equal(expect_claim(c), b);
        tell_claim(c, now, b, false);
    }
}

static void an_idle_job_backs_up_the_last_tasks_of_others(void **state)
{
    (void)state;
    struct coordinator *c = create_idle(10, 10);
    refuse_again(c, 100);
    assert_int_equal(expect_backup(c), 7);
    tell_backup(c, 100, 7, false); // a third job does it
    assert_int_equal(expect_backup(c), 6);
    tell_backup(c, 100, 6, true);
    assert_int_equal(expect_lease(c, 0), 6);
    for (uint32_t t = 5; t >= 3; t--) {
        assert_int_equal(expect_backup(c), t);
        tell_backup(c, 100, t, true);
        assert_int_equal(expect_lease(c, 0), t);
    }
    expect_nothing(c); // four of eight: its share
    assert_int_equal(coordinator_counts(c).backups, 4);
    tell(c, 101, EVENT_COMMITTED, 0, 6);
    tell_found(c, 101, 5); // its owner was faster
    assert_int_equal(expect(c, ACTION_DROP).task, 5);
    assert_int_equal(expect_backup(c), 2);
    tell_found(c, 102, 2);
    tell_backup(c, 102, 2, true); // too late
    assert_int_equal(coordinator_counts(c).done, 3);
    assert_int_equal(coordinator_counts(c).elsewhere, 2);
    coordinator_destroy(c);
}

static void backups_wait_until_others_are_slow(void **state)
{
    (void)state;
    struct coordinator *c = create_idle(2, 10);
    tell(c, 101, EVENT_TICK, 0, 0);
    assert_int_equal(expect_claim(c), 0);
    tell_claim(c, 101, 0, true);
    assert_int_equal(expect_lease(c, 0), 0);
    assert_int_equal(expect_lease(c, 0), 1);
    for (uint32_t t = 0; t < BLOCK; t++)
        tell(c, 102, EVENT_COMMITTED, 0, t < 2 ? t : expect_lease(c, 0));
    assert_int_equal(expect_claim(c), 1);
    tell_claim(c, 102, 1, false);
    tell(c, 107, EVENT_TICK, 0, 0);
    assert_int_equal(expect_claim(c), 1);
    tell_claim(c, 107, 1, false);
    expect_nothing(c); // five seconds after its last own lease
    tell(c, 112, EVENT_TICK, 0, 0);
    assert_int_equal(expect_claim(c), 1);
    tell_claim(c, 112, 1, false);
    assert_int_equal(expect_backup(c), 7);
    coordinator_destroy(c);
}

static void a_backup_that_fails_leaves_the_task_to_its_owner(void **state)
{
    (void)state;
    struct coordinator *c = create_idle(1, 10);
    refuse_again(c, 100);
    assert_int_equal(expect_backup(c), 7);
    tell_backup(c, 100, 7, true);
    assert_int_equal(expect_lease(c, 0), 7);
    tell_event(c, (struct coordinator_event){
                      .kind = EVENT_FAILED, .now_seconds = 101, .task = 7, .fatal = true});
    assert_int_equal(expect_backup(c), 6); // and 7 is not set aside, though one attempt is all
    tell_backup(c, 101, 6, false);
    refuse_again(c, 105);
    assert_int_equal(expect_backup(c), 6); // 7 is not tried again
    tell_claim(c, 106, 1, true);           // but when the block becomes this job's
    tell_event(c,
               (struct coordinator_event){.kind = EVENT_BACKUP_WON, .now_seconds = 106, .task = 6});
    for (uint32_t t = 4; t < 8; t++) {
        assert_int_equal(expect_lease(c, 0), t);
        tell(c, 107, EVENT_COMMITTED, 0, t);
    }
    coordinator_destroy(c);
}

static void a_job_without_late_tasks_backs_nothing_up(void **state)
{
    (void)state;
    struct coordinator *c = create_idle(10, 0);
    refuse_again(c, 105);
    expect_nothing(c);
    coordinator_destroy(c);
}

// What a job has leased may be backed up by others: it looks at the disk as long as they live.
static void an_owner_looks_for_backups_of_its_last_tasks(void **state)
{
    (void)state;
    struct coordinator *c = create_with_blocks(4, 1);
    tell_jobs(c, 0, 2);
    join(c, 0, 0, 10);
    assert_int_equal(expect_claim(c), 0);
    tell_claim(c, 0, 0, true);
    for (uint32_t t = 0; t < BLOCK; t++)
        assert_int_equal(expect_lease(c, 0), t);
    assert_true(coordinator_needs_news(c));
    tell_jobs(c, 0, 1);
    assert_false(coordinator_needs_news(c));
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
        cmocka_unit_test(an_idle_job_backs_up_the_last_tasks_of_others),
        cmocka_unit_test(backups_wait_until_others_are_slow),
        cmocka_unit_test(a_backup_that_fails_leaves_the_task_to_its_owner),
        cmocka_unit_test(a_job_without_late_tasks_backs_nothing_up),
        cmocka_unit_test(an_owner_looks_for_backups_of_its_last_tasks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
