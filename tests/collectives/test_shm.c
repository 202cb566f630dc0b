// SPDX-License-Identifier: Apache-2.0
#include "base/clock.h"
#include "collectives/group.h"
#include "collectives/group_internal.h"
#include "group_checks.h"

#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static void every_collective_works_with(int ranks)
{
    for (const struct group_check *check = group_checks; check->name != NULL; check++) {
        struct error err = {{0}};
        if (group_run_shm(ranks, check->run, NULL, &err) != 0) {
            fail_msg("%d ranks, %s: %s", ranks, check->name, err.text);
        }
    }
}

static void every_collective_works_with_1_rank(void **state)
{
    (void)state;
    every_collective_works_with(1);
}

static void every_collective_works_with_2_ranks(void **state)
{
    (void)state;
    every_collective_works_with(2);
}

static void every_collective_works_with_3_ranks(void **state)
{
    (void)state;
    every_collective_works_with(3);
}

static void every_collective_works_with_4_ranks(void **state)
{
    (void)state;
    every_collective_works_with(4);
}

static int describe(struct group *group, void *context, struct error *err)
{
    int rank = group_rank(group);
    if (group_size(group) != 3 || group_local_rank(group) != rank ||
        strcmp(group_transport(group), "shm") != 0) {
        return error_set(err, "wrong description");
    }
    *(int *)context += 1 + rank; // seen only in the caller's process
    return 0;
}

static void caller_is_rank_0(void **state)
{
    (void)state;
    struct error err = {{0}};
    int calls = 0;
    assert_int_equal(group_run_shm(3, describe, &calls, &err), 0);
    assert_int_equal(calls, 1);
}

static int fail_on_two_ranks(struct group *group, void *context, struct error *err)
{
    (void)context;
    int rank = group_rank(group);
    return rank == 1 || rank == 3 ? error_set(err, "shelf %d is empty", rank) : 0;
}

static void text_of_the_lowest_failing_rank_returns(void **state)
{
    (void)state;
    struct error err = {{0}};
    assert_int_equal(group_run_shm(4, fail_on_two_ranks, NULL, &err), -1);
    assert_string_equal(err.text, "rank 1: shelf 1 is empty");
}

static int fail_early(struct group *group, void *context, struct error *err)
{
    if (group_rank(group) == *(int *)context) {
        return error_set(err, "no such corpus");
    }
    return group_barrier(group, err);
}

static void rank_that_fails_early_releases_the_others(void **state)
{
    (void)state;
    for (int who = 0; who < 3; who++) {
        struct error err = {{0}};
        assert_int_equal(group_run_shm(3, fail_early, &who, &err), -1);
        assert_non_null(strstr(err.text, "no such corpus"));
        if (who == 2) {
            assert_string_equal(err.text, "rank 0 of 3, barrier number 1: rank 2 failed: "
                                          "no such corpus");
        }
    }
}

static int skip_a_call(struct group *group, void *context, struct error *err)
{
    (void)context;
    return group_rank(group) == 1 ? 0 : group_barrier(group, err);
}

static void rank_that_ends_early_releases_the_others(void **state)
{
    (void)state;
    struct error err = {{0}};
    assert_int_equal(group_run_shm(2, skip_a_call, NULL, &err), -1);
    assert_non_null(strstr(err.text, "rank 1 ended its work without making this call"));
}

// Rank 2 dies in the middle of many calls; every survivor must notice by an error of its own.
static int die_in_the_middle(struct group *group, void *context, struct error *err)
{
    static float data[100000];
    int victim = *(int *)context;
    for (int call = 0; call < 1000; call++) {
        if (group_rank(group) == victim && call == 20) {
            raise(SIGKILL);
        }
        if (group_all_reduce_f32(group, data, 100000, err) != 0) {
            return call == 20 ? -1 : error_set(err, "failed in call %d already", call);
        }
    }
    return error_set(err, "a dead rank was not noticed");
}

static void killed_rank_is_an_error_on_the_others_within_5_seconds(void **state)
{
    (void)state;
    for (int victim = 1; victim < 4; victim++) {
        struct error err = {{0}};
        char want[160];
        double begin = clock_seconds();
        assert_int_equal(group_run_shm(4, die_in_the_middle, &victim, &err), -1);
        assert_true(clock_seconds() - begin < 5.0);
        snprintf(want, sizeof(want),
                 "rank 0 of 4, all-reduce f32 number 21: rank %d failed: the process was killed by "
                 "signal 9 (Killed)",
                 victim);
        assert_string_equal(err.text, want);
    }
}

static int die_first(struct group *group, void *context, struct error *err)
{
    (void)context;
    if (group_rank(group) == 0) {
        raise(SIGKILL);
    }
    return group_barrier(group, err);
}

// The children hold the writing end of a pipe: it closes when the last of them is gone.
static void children_die_with_the_caller(void **state)
{
    (void)state;
    int ends[2];
    char byte = 0;
    assert_int_equal(pipe(ends), 0);
    pid_t caller = fork();
    assert_true(caller >= 0);
    if (caller == 0) {
        struct error err = {{0}};
        close(ends[0]);
        group_run_shm(3, die_first, NULL, &err);
        _exit(1);
    }
    close(ends[1]);
    struct pollfd end = {.fd = ends[0]};
    assert_int_equal(poll(&end, 1, 5000), 1);
    assert_int_equal(read(ends[0], &byte, 1), 0);
    close(ends[0]);
    int status = 0;
    assert_int_equal(waitpid(caller, &status, 0), caller);
    assert_true(WIFSIGNALED(status));
}

static int exit_in_the_middle(struct group *group, void *context, struct error *err)
{
    (void)context;
    if (group_rank(group) == 1) {
        _exit(3);
    }
    return group_barrier(group, err);
}

static void rank_that_exits_is_an_error_on_the_others(void **state)
{
    (void)state;
    struct error err = {{0}};
    assert_int_equal(group_run_shm(2, exit_in_the_middle, NULL, &err), -1);
    assert_non_null(strstr(err.text, "exited with status 3"));
}

static int call_again(struct group *group, void *context, struct error *err)
{
    (void)context;
    if (group_rank(group) == 1) {
        return 0;
    }
    float value = 1;
    struct error first = {{0}};
    if (group_barrier(group, &first) == 0) {
        return error_set(err, "barrier passed");
    }
    return group_all_reduce_f32(group, &value, 1, err);
}

static void broken_group_stays_broken(void **state)
{
    (void)state;
    struct error err = {{0}};
    assert_int_equal(group_run_shm(2, call_again, NULL, &err), -1);
    assert_string_equal(err.text, "rank 0 of 2, all-reduce f32 number 2: an earlier call of this "
                                  "group failed, the job must end");
}

static int disagree_on_size(struct group *group, void *context, struct error *err)
{
    (void)context;
    float data[8] = {0};
    return group_all_reduce_f32(group, data, group_rank(group) == 1 ? 7 : 8, err);
}

static int disagree_on_call(struct group *group, void *context, struct error *err)
{
    (void)context;
    char mine[16] = {0};
    char all[32];
    return group_rank(group) == 1 ? group_broadcast(group, mine, sizeof(mine), 0, err)
                                  : group_all_gather(group, all, mine, sizeof(mine), err);
}

static void ranks_that_make_different_calls_are_told(void **state)
{
    (void)state;
    struct error err = {{0}};
    assert_int_equal(group_run_shm(2, disagree_on_size, NULL, &err), -1);
    assert_non_null(strstr(err.text, "rank 0 of 2, all-reduce f32 number 1: the ranks disagree"));
    assert_int_equal(group_run_shm(2, disagree_on_call, NULL, &err), -1);
    assert_non_null(strstr(err.text, "rank 1 is in its broadcast number 1 with 16 bytes"));
}

static int arrive_late(struct group *group, void *context, struct error *err)
{
    (void)context;
    group->deadline_seconds = 0.1;
    if (group_rank(group) == 1) {
        struct timespec nap = {.tv_nsec = 600000000};
        nanosleep(&nap, NULL);
        return 0;
    }
    return group_barrier(group, err);
}

static void waiting_ends_at_the_deadline(void **state)
{
    (void)state;
    struct error err = {{0}};
    assert_int_equal(group_run_shm(2, arrive_late, NULL, &err), -1);
    assert_non_null(strstr(err.text, "barrier number 1: rank 1 did not arrive within 0 s"));
}

static void impossible_numbers_of_ranks_are_refused(void **state)
{
    (void)state;
    struct error err = {{0}};
    int calls = 0;
    assert_int_equal(group_run_shm(0, describe, &calls, &err), -1);
    assert_int_equal(group_run_shm(65, describe, &calls, &err), -1);
    assert_non_null(strstr(err.text, "65 ranks"));
    assert_int_equal(calls, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_collective_works_with_1_rank),
        cmocka_unit_test(every_collective_works_with_2_ranks),
        cmocka_unit_test(every_collective_works_with_3_ranks),
        cmocka_unit_test(every_collective_works_with_4_ranks),
        cmocka_unit_test(caller_is_rank_0),
        cmocka_unit_test(text_of_the_lowest_failing_rank_returns),
        cmocka_unit_test(rank_that_fails_early_releases_the_others),
        cmocka_unit_test(rank_that_ends_early_releases_the_others),
        cmocka_unit_test(killed_rank_is_an_error_on_the_others_within_5_seconds),
        cmocka_unit_test(children_die_with_the_caller),
        cmocka_unit_test(rank_that_exits_is_an_error_on_the_others),
        cmocka_unit_test(broken_group_stays_broken),
        cmocka_unit_test(ranks_that_make_different_calls_are_told),
        cmocka_unit_test(waiting_ends_at_the_deadline),
        cmocka_unit_test(impossible_numbers_of_ranks_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
