// SPDX-License-Identifier: Apache-2.0
// The order in which buckets are issued, alone and between ranks. Runs by itself (bookkeeping, and
// ranks over shared memory) and under mpirun (the same checks between ranks over MPI).
#include "base/clock.h"
#include "base/mem.h"
#include "base/random.h"
#include "collectives/group.h"
#include "worker/train/bucket_queue.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

static bool take(struct bucket_queue *queue, size_t lowest, size_t count)
{
    struct bucket_batch batch;
    if (!bucket_queue_take(queue, 0, &batch))
        return false;
    assert_int_equal(batch.lowest, lowest);
    assert_int_equal(batch.count, count);
    return true;
}

static void batches_go_from_the_last_bucket_to_the_first(void **state)
{
    (void)state;
    struct bucket_queue queue;
    bucket_queue_init(&queue, 5, 2);
    assert_true(bucket_queue_is_done(&queue));
    bucket_queue_begin(&queue, true);
    assert_false(bucket_queue_is_done(&queue));
    for (size_t b = 0; b < 5; b++)
        bucket_queue_ready(&queue, b, b);
    assert_true(take(&queue, 3, 2));
    bucket_queue_finish(&queue);
    assert_true(take(&queue, 1, 2));
    bucket_queue_finish(&queue);
    assert_false(bucket_queue_is_done(&queue));
    assert_true(take(&queue, 0, 1)); // what is left
    bucket_queue_finish(&queue);
    assert_true(bucket_queue_is_done(&queue));
    assert_false(take(&queue, 0, 0));
    bucket_queue_release(&queue);
}

static void batch_waits_for_all_its_buckets_in_whatever_order_they_come(void **state)
{
    (void)state;
    struct bucket_queue queue;
    struct bucket_batch batch;
    bucket_queue_init(&queue, 6, 3);
    bucket_queue_begin(&queue, true);
    bucket_queue_ready(&queue, 3, 7);
    bucket_queue_ready(&queue, 0, 9);
    bucket_queue_ready(&queue, 5, 2);
    bucket_queue_ready(&queue, 5, 8); // once more: nothing
    assert_int_equal(bucket_queue_waiting(&queue), 3);
    assert_false(bucket_queue_take(&queue, 0, &batch));
    bucket_queue_ready(&queue, 4, 5);
    assert_true(bucket_queue_take(&queue, 0, &batch));
    assert_int_equal(batch.lowest, 3);
    assert_int_equal(batch.mark, 7); // the latest of its three
    bucket_queue_ready(&queue, 2, 1);
    bucket_queue_ready(&queue, 1, 1);
    assert_false(bucket_queue_take(&queue, 0, &batch)); // one at a time
    bucket_queue_finish(&queue);
    assert_int_equal(bucket_queue_waiting(&queue), 3);
    assert_true(bucket_queue_take(&queue, 0, &batch));
    assert_int_equal(batch.mark, 9);
    bucket_queue_finish(&queue);
    assert_int_equal(bucket_queue_waiting(&queue), 0);
    bucket_queue_release(&queue);
}

static void round_forgets_what_was_ready_before(void **state)
{
    (void)state;
    struct bucket_queue queue;
    bucket_queue_init(&queue, 2, 1);
    for (int round = 0; round < 3; round++) {
        bucket_queue_begin(&queue, true);
        assert_false(take(&queue, 0, 0));
        bucket_queue_ready(&queue, 1, 0);
        bucket_queue_ready(&queue, 0, 0);
        assert_true(take(&queue, 1, 1));
        bucket_queue_finish(&queue);
        assert_true(take(&queue, 0, 1));
        bucket_queue_finish(&queue);
    }
    assert_int_equal(queue.batches, 6);
    bucket_queue_release(&queue);
}

static void abort_ends_the_round_and_issues_nothing_more(void **state)
{
    (void)state;
    struct bucket_queue queue;
    bucket_queue_init(&queue, 3, 1);
    bucket_queue_begin(&queue, true);
    bucket_queue_ready(&queue, 2, 0);
    bucket_queue_ready(&queue, 1, 0);
    assert_true(take(&queue, 2, 1));
    bucket_queue_abort(&queue); // in flight
    assert_true(bucket_queue_is_done(&queue));
    assert_int_equal(bucket_queue_waiting(&queue), 0);
    bucket_queue_finish(&queue);
    assert_false(take(&queue, 0, 0));
    bucket_queue_begin(&queue, true);
    bucket_queue_ready(&queue, 2, 0);
    assert_false(take(&queue, 0, 0));
    assert_true(bucket_queue_is_done(&queue));
    bucket_queue_release(&queue);
}

static void time_under_way_is_that_of_the_batch(void **state)
{
    (void)state;
    struct bucket_queue queue;
    struct bucket_batch batch;
    bucket_queue_init(&queue, 1, 1);
    bucket_queue_begin(&queue, true);
    assert_true(bucket_queue_under_way(&queue, 100) == 0);
    bucket_queue_ready(&queue, 0, 0);
    assert_true(bucket_queue_under_way(&queue, 100) == 0);
    assert_true(bucket_queue_take(&queue, 101, &batch));
    assert_true(bucket_queue_under_way(&queue, 131.5) == 30.5);
    bucket_queue_finish(&queue);
    assert_true(bucket_queue_under_way(&queue, 200) == 0);
    bucket_queue_release(&queue);
}

// --- between ranks ---

enum { BUCKETS = 37, ELEMENTS = 100, ROUNDS = 4 };

enum fault { FAULT_NONE, FAULT_SIZE, FAULT_SKIP, FAULT_LATE };

struct sums {
    struct group *group;
    enum fault fault; // of the last rank
    size_t per_batch;
    struct bucket_queue queue;
    float grads[BUCKETS][ELEMENTS];
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    bool stop;
    int rc;
    struct error failure;
};

static bool is_odd_one(const struct sums *s)
{
    return group_rank(s->group) == group_size(s->group) - 1;
}

static int sum_batch(struct sums *s, const struct bucket_batch *batch, struct error *err)
{
    for (uint64_t i = batch->count; i-- > 0;) {
        if (group_all_reduce_f32(s->group, s->grads[batch->lowest + i], ELEMENTS, err))
            return -1;
    }
    return 0;
}

static void *sum_thread(void *argument)
{
    struct sums *s = argument;
    pthread_mutex_lock(&s->mutex);
    for (;;) {
        struct bucket_batch batch;
        while (!s->stop && !bucket_queue_take(&s->queue, clock_seconds(), &batch))
            pthread_cond_wait(&s->changed, &s->mutex);
        if (s->stop)
            break;
        pthread_mutex_unlock(&s->mutex);
        struct error err;
        const int rc = sum_batch(s, &batch, &err);
        pthread_mutex_lock(&s->mutex);
        if (rc != 0) {
            s->rc = rc;
            s->failure = err;
            bucket_queue_abort(&s->queue); // with buckets ready and others still to come
        }
        bucket_queue_finish(&s->queue);
        pthread_cond_broadcast(&s->changed);
    }
    pthread_mutex_unlock(&s->mutex);
    return NULL;
}

static void make_ready(struct sums *s, size_t bucket)
{
    pthread_mutex_lock(&s->mutex);
    bucket_queue_ready(&s->queue, bucket, 0);
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->mutex);
}

// Every rank completes its buckets in an order of its own.
static void complete_in_random_order(struct sums *s, uint64_t round)
{
    size_t order[BUCKETS];
    for (size_t b = 0; b < BUCKETS; b++)
        order[b] = b;
    for (size_t b = BUCKETS; b-- > 1;) {
        const size_t other =
            (size_t)(random_u64(round, (uint64_t)group_rank(s->group), b) % (b + 1));
        const size_t kept = order[b];
        order[b] = order[other];
        order[other] = kept;
    }
    if (s->fault == FAULT_LATE && is_odd_one(s) && round == 2) {
        struct timespec nap = {.tv_sec = 2};
        nanosleep(&nap, NULL);
    }
    for (size_t b = 0; b < BUCKETS; b++)
        make_ready(s, order[b]);
}

static int await_round(struct sums *s, struct error *err)
{
    pthread_mutex_lock(&s->mutex);
    while (!bucket_queue_is_done(&s->queue))
        pthread_cond_wait(&s->changed, &s->mutex);
    const int rc = s->rc;
    if (rc != 0)
        *err = s->failure;
    pthread_mutex_unlock(&s->mutex);
    return rc;
}

static int check_sums(const struct sums *s, uint64_t round, struct error *err)
{
    const int size = group_size(s->group);
    for (size_t b = 0; b < BUCKETS; b++)
        for (size_t i = 0; i < ELEMENTS; i++)
            if (s->grads[b][i] !=
                (float)((size_t)size * (b * 10 + i + round) + (size_t)(size * (size - 1) / 2)))
                return error_set(err, "bucket %zu, element %zu is %g", b, i, s->grads[b][i]);
    return 0;
}

static int one_round(struct sums *s, uint64_t round, struct error *err)
{
    for (size_t b = 0; b < BUCKETS; b++)
        for (size_t i = 0; i < ELEMENTS; i++)
            s->grads[b][i] = (float)(b * 10 + i + round + (size_t)group_rank(s->group));
    pthread_mutex_lock(&s->mutex);
    const bool skipped = s->fault == FAULT_SKIP && is_odd_one(s) && round == 2;
    bucket_queue_begin(&s->queue, !skipped);
    pthread_mutex_unlock(&s->mutex);
    complete_in_random_order(s, round);
    if (await_round(s, err) || bucket_queue_agree(&s->queue, s->group, err))
        return -1;
    return check_sums(s, round, err);
}

static int sum_rounds(struct group *group, void *context, struct error *err)
{
    const struct sums *how = context;
    struct sums *s = mem_calloc(1, sizeof(*s));
    pthread_t thread;
    s->group = group;
    s->fault = how->fault;
    pthread_mutex_init(&s->mutex, NULL);
    pthread_cond_init(&s->changed, NULL);
    const bool small = s->fault == FAULT_SIZE && is_odd_one(s);
    bucket_queue_init(&s->queue, BUCKETS, small ? how->per_batch - 1 : how->per_batch);
    if (s->fault == FAULT_LATE)
        group_set_deadline(group, 0.5);
    pthread_create(&thread, NULL, sum_thread, s);
    int rc = 0;
    for (uint64_t round = 1; rc == 0 && round <= ROUNDS; round++)
        rc = one_round(s, round, err);
    pthread_mutex_lock(&s->mutex);
    s->stop = true;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->mutex);
    pthread_join(thread, NULL);
    bucket_queue_release(&s->queue);
    free(s);
    return rc;
}

static struct group *launched; // NULL: ranks over shared memory

static int run(int ranks, struct sums how, struct error *err)
{
    if (launched)
        return group_agree(launched, sum_rounds(launched, &how, err), err);
    return group_run_shm(ranks, sum_rounds, &how, err);
}

static int most_ranks(void)
{
    return launched ? 1 : 4; // one pass over the ranks that there are
}

static void ranks_that_complete_in_different_orders_sum_the_same(void **state)
{
    (void)state;
    for (int ranks = 1; ranks <= most_ranks(); ranks++) {
        for (size_t per_batch = 1; per_batch <= BUCKETS + 1; per_batch += 12) {
            struct error err = {{0}};
            if (run(ranks, (struct sums){.per_batch = per_batch}, &err))
                fail_msg("%s", err.text);
        }
    }
}

static void assert_difference(struct sums how, const char *want)
{
    struct error err = {{0}};
    if (launched && group_size(launched) == 1)
        return; // nobody to differ from
    assert_int_equal(run(3, how, &err), -1);
    if (!strstr(err.text, want))
        fail_msg("'%s' does not say '%s'", err.text, want);
}

static void other_batches_are_named(void **state)
{
    (void)state;
    char want[160];
    snprintf(want, sizeof(want),
             "as sum number 1 rank %d made that of buckets 36 to 33, rank 0 that of buckets 36 to "
             "32; the sums are worthless",
             launched ? group_size(launched) - 1 : 2);
    // The calls are the same ones; what differs is what they belong to.
    assert_difference((struct sums){.per_batch = 5, .fault = FAULT_SIZE}, want);
}

static void round_that_one_rank_leaves_out_is_named(void **state)
{
    (void)state;
    char want[160];
    snprintf(want, sizeof(want),
             "as sum number 5 rank %d made that of nothing, rank 0 that of buckets 36 to 27",
             launched ? group_size(launched) - 1 : 2);
    assert_difference((struct sums){.per_batch = 10, .fault = FAULT_SKIP}, want);
}

// Breaks the group: not under mpirun, which it would end.
static void late_rank_ends_the_round_of_all_at_the_deadline(void **state)
{
    (void)state;
    struct error err = {{0}};
    assert_int_equal(
        group_run_shm(3, sum_rounds, &(struct sums){.per_batch = 4, .fault = FAULT_LATE}, &err),
        -1);
    assert_non_null(strstr(err.text, "all-reduce f32 number "));
    assert_non_null(strstr(err.text, "rank 2 did not arrive within 0 s"));
}

int main(void)
{
    const struct CMUnitTest alone[] = {
        cmocka_unit_test(batches_go_from_the_last_bucket_to_the_first),
        cmocka_unit_test(batch_waits_for_all_its_buckets_in_whatever_order_they_come),
        cmocka_unit_test(round_forgets_what_was_ready_before),
        cmocka_unit_test(abort_ends_the_round_and_issues_nothing_more),
        cmocka_unit_test(time_under_way_is_that_of_the_batch),
        cmocka_unit_test(ranks_that_complete_in_different_orders_sum_the_same),
        cmocka_unit_test(other_batches_are_named),
        cmocka_unit_test(round_that_one_rank_leaves_out_is_named),
        cmocka_unit_test(late_rank_ends_the_round_of_all_at_the_deadline),
    };
    const struct CMUnitTest between[] = {
        cmocka_unit_test(ranks_that_complete_in_different_orders_sum_the_same),
        cmocka_unit_test(other_batches_are_named),
        cmocka_unit_test(round_that_one_rank_leaves_out_is_named),
    };
    struct error err = {{0}};
    struct group *group = NULL;
    if (group_open(&group, &err)) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    if (strcmp(group_transport(group), "self") == 0) {
        group_close(group);
        return cmocka_run_group_tests(alone, NULL, NULL);
    }
    launched = group;
    const int failed = cmocka_run_group_tests(between, NULL, NULL);
    group_close(group);
    return failed;
}
