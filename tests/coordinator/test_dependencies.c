// SPDX-License-Identifier: Apache-2.0
// Tasks that wait for others, and priorities; tests/sim drives both through all orders at once.
#include "base/mem.h"
#include "base/random.h"
#include "coordinator/coordinator.h"
#include "coordinator/index_heap.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#define MAX_ATTEMPTS 2

static struct coordinator *create(size_t tasks)
{
    const struct coordinator_options options = {
        .tasks = tasks, .max_workers = 2, .lease_seconds = 10, .max_attempts = MAX_ATTEMPTS};
    return coordinator_create(&options);
}

static void tell(struct coordinator *c, enum coordinator_event_kind kind, uint32_t task)
{
    coordinator_handle(c, &(struct coordinator_event){
                              .kind = kind, .window = 8, .task = task, .reason = "it broke"});
}

static void expect_leases(struct coordinator *c, const uint32_t *tasks, size_t count)
{
    struct coordinator_action action;
    for (size_t i = 0; i < count; i++) {
        assert_true(coordinator_next_action(c, &action));
        assert_int_equal(action.kind, ACTION_LEASE);
        assert_int_equal(action.task, tasks[i]);
    }
    if (coordinator_next_action(c, &action))
        fail_msg("unexpected action %d, task %u", action.kind, action.task);
}
#define EXPECT_LEASES(c, ...)                                                                      \
    expect_leases(c, (const uint32_t[]){__VA_ARGS__},                                              \
                  sizeof((const uint32_t[]){__VA_ARGS__}) / sizeof(uint32_t))

static void a_task_waits_for_all_its_prerequisites(void **state)
{
    (void)state;
    struct coordinator *c = create(4);
    coordinator_depend(c, 3, 0);
    coordinator_depend(c, 3, 2);
    coordinator_depend(c, 3, 2); // twice is no error
    assert_int_equal(coordinator_counts(c).waiting, 1);
    tell(c, EVENT_WORKER_JOINED, 0);
    EXPECT_LEASES(c, 0, 1, 2);
    tell(c, EVENT_COMMITTED, 1);
    tell(c, EVENT_COMMITTED, 2);
    expect_leases(c, NULL, 0);
    assert_int_equal(coordinator_counts(c).waiting, 1);
    tell(c, EVENT_COMMITTED, 0);
    assert_int_equal(coordinator_counts(c).waiting, 0);
    assert_false(coordinator_complete(c));
    EXPECT_LEASES(c, 3);
    tell(c, EVENT_COMMITTED, 3);
    assert_true(coordinator_complete(c));
    coordinator_destroy(c);
}

static void a_prerequisite_that_is_set_aside_releases_it_too(void **state)
{
    (void)state;
    struct coordinator_action action;
    struct coordinator *c = create(2);
    coordinator_depend(c, 1, 0);
    tell(c, EVENT_WORKER_JOINED, 0);
    for (int attempt = 0; attempt < MAX_ATTEMPTS; attempt++) {
        EXPECT_LEASES(c, 0);
        tell(c, EVENT_FAILED, 0);
    }
    assert_true(coordinator_next_action(c, &action));
    assert_int_equal(action.kind, ACTION_SET_ASIDE);
    expect_leases(c, NULL, 0); // its row is not durable yet
    tell(c, EVENT_SET_ASIDE_COMMITTED, 0);
    EXPECT_LEASES(c, 1);
    coordinator_destroy(c);
}

static void chains_unfold_one_after_another(void **state)
{
    (void)state;
    struct coordinator *c = create(100);
    for (uint32_t t = 1; t < 100; t++)
        coordinator_depend(c, t, t - 1);
    tell(c, EVENT_WORKER_JOINED, 0);
    for (uint32_t t = 0; t < 100; t++) {
        assert_int_equal(coordinator_counts(c).waiting, 99 - t);
        EXPECT_LEASES(c, t);
        tell(c, EVENT_COMMITTED, t);
    }
    assert_true(coordinator_complete(c));
    coordinator_destroy(c);
}

// Rows found on disk count in whatever order the plan is told.
static void what_was_restored_releases_what_waits(void **state)
{
    (void)state;
    struct coordinator *c = create(6);
    coordinator_restore(c, 0, false);
    coordinator_depend(c, 3, 0); // its only one
    coordinator_depend(c, 4, 1);
    coordinator_depend(c, 4, 0);
    coordinator_restore(c, 1, true);
    coordinator_depend(c, 5, 2);
    coordinator_restore(c, 5, false); // though its prerequisite is missing
    assert_int_equal(coordinator_counts(c).waiting, 0);
    tell(c, EVENT_WORKER_JOINED, 0);
    EXPECT_LEASES(c, 2, 3, 4);
    tell(c, EVENT_COMMITTED, 2);
    expect_leases(c, NULL, 0);
    assert_int_equal(coordinator_counts(c).done, 3);
    assert_int_equal(coordinator_counts(c).aside, 1);
    coordinator_destroy(c);
}

static void higher_priorities_go_first_and_retries_last_among_equals(void **state)
{
    (void)state;
    struct coordinator *c = create(5);
    const uint32_t priorities[] = {1, 7, 1, 0, 7};
    for (uint32_t t = 0; t < 5; t++)
        coordinator_set_priority(c, t, priorities[t]);
    coordinator_depend(c, 4, 3);
    coordinator_handle(c, &(struct coordinator_event){.kind = EVENT_WORKER_JOINED, .window = 1});
    EXPECT_LEASES(c, 1);
    tell(c, EVENT_COMMITTED, 1);
    EXPECT_LEASES(c, 0);
    tell(c, EVENT_FAILED, 0);
    EXPECT_LEASES(c, 2);
    tell(c, EVENT_COMMITTED, 2);
    EXPECT_LEASES(c, 0);
    tell(c, EVENT_COMMITTED, 0);
    EXPECT_LEASES(c, 3);
    tell(c, EVENT_COMMITTED, 3);
    EXPECT_LEASES(c, 4);
    coordinator_destroy(c);
}

// A late result may reach a task while it waits again in the queue: it leaves the queue for good.
static void a_late_result_takes_a_pending_task_out(void **state)
{
    (void)state;
    struct coordinator *c = create(3);
    coordinator_handle(c, &(struct coordinator_event){.kind = EVENT_WORKER_JOINED, .window = 2});
    EXPECT_LEASES(c, 0, 1);
    coordinator_handle(c, &(struct coordinator_event){.kind = EVENT_WORKER_LOST});
    coordinator_handle(c, &(struct coordinator_event){.kind = EVENT_COMMITTED, .task = 0});
    coordinator_handle(c, &(struct coordinator_event){.kind = EVENT_WORKER_JOINED, .window = 2});
    EXPECT_LEASES(c, 2, 1);
    coordinator_destroy(c);
}

static bool has_lower_key(const void *state, uint32_t a, uint32_t b)
{
    const uint64_t *keys = state;
    return keys[a] != keys[b] ? keys[a] < keys[b] : a < b;
}

// Random sets and removals beside a plain array.
static void index_heap_agrees_with_a_search(void **state)
{
    enum { CAPACITY = 61, ROUNDS = 20000 };
    uint64_t keys[CAPACITY] = {0};
    bool present[CAPACITY] = {false};
    struct index_heap heap;
    (void)state;
    index_heap_init(&heap, CAPACITY, has_lower_key, keys);
    for (uint64_t round = 0; round < ROUNDS; round++) {
        const uint32_t number = random_u64(1, 0, round) % CAPACITY;
        if (random_u64(1, 1, round) % 3 == 0) {
            index_heap_remove(&heap, number);
            present[number] = false;
        } else {
            keys[number] = random_u64(1, 2, round) % 40;
            index_heap_set(&heap, number);
            present[number] = true;
        }
        uint32_t best = INDEX_HEAP_NONE;
        for (uint32_t i = 0; i < CAPACITY; i++) {
            if (present[i] && (best == INDEX_HEAP_NONE || has_lower_key(keys, i, best)))
                best = i;
        }
        assert_int_equal(index_heap_first(&heap), best);
    }
    index_heap_release(&heap);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_task_waits_for_all_its_prerequisites),
        cmocka_unit_test(a_prerequisite_that_is_set_aside_releases_it_too),
        cmocka_unit_test(chains_unfold_one_after_another),
        cmocka_unit_test(what_was_restored_releases_what_waits),
        cmocka_unit_test(higher_priorities_go_first_and_retries_last_among_equals),
        cmocka_unit_test(a_late_result_takes_a_pending_task_out),
        cmocka_unit_test(index_heap_agrees_with_a_search),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
