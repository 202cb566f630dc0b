// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/cpu/pool.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>

enum { TASKS = 1000, THREADS = 5 };

struct counts {
    atomic_int tasks[TASKS];
    atomic_int busy[THREADS]; // tasks that run on a thread now: never two
    atomic_int wrong;
};

static void count_task(void *argument, size_t task, int thread)
{
    struct counts *counts = argument;
    if (thread < 0 || thread >= THREADS || atomic_fetch_add(&counts->busy[thread], 1) != 0)
        atomic_fetch_add(&counts->wrong, 1);
    atomic_fetch_add(&counts->tasks[task], 1);
    atomic_fetch_sub(&counts->busy[thread], 1);
}

static void check_runs(int threads, size_t count, bool idle)
{
    static struct counts counts;
    struct pool *pool;
    struct error err;
    assert_int_equal(pool_create(threads, &pool, &err), 0);
    for (int round = 1; round <= 20; round++) {
        if (round == 1)
            memset(&counts, 0, sizeof counts);
        if (idle) // long enough for the workers to fall asleep
            nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
        pool_run(pool, count, count_task, &counts);
        for (size_t task = 0; task < count; task++)
            assert_int_equal(counts.tasks[task], round);
    }
    assert_int_equal(counts.wrong, 0);
    pool_destroy(pool);
}

static void every_task_runs_once(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 2, 31, 33, TASKS};
    for (int threads = 1; threads <= THREADS; threads++)
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
            check_runs(threads, sizes[i], false);
}

static void sleeping_workers_wake(void **state)
{
    (void)state;
    check_runs(3, 31, true);
}

static void unused_pool_ends(void **state)
{
    (void)state;
    struct pool *pool;
    struct error err;
    for (int threads = 1; threads <= THREADS; threads++) {
        assert_int_equal(pool_create(threads, &pool, &err), 0);
        pool_destroy(pool);
    }
    pool_destroy(NULL);
}

// Idle threads leave the processor to others.
static void idle_threads_do_not_burn(void **state)
{
    (void)state;
    struct pool *pool;
    struct error err;
    struct timespec before, after;
    static struct counts counts;
    assert_int_equal(pool_create(THREADS, &pool, &err), 0);
    memset(&counts, 0, sizeof counts);
    pool_run(pool, TASKS, count_task, &counts);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    double burnt =
        (double)(after.tv_sec - before.tv_sec) + 1e-9 * (double)(after.tv_nsec - before.tv_nsec);
    assert_true(burnt < 0.05);
    pool_destroy(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_task_runs_once),
        cmocka_unit_test(sleeping_workers_wake),
        cmocka_unit_test(unused_pool_ends),
        cmocka_unit_test(idle_threads_do_not_burn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
