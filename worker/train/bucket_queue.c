// SPDX-License-Identifier: Apache-2.0
#include "worker/train/bucket_queue.h"

#include "base/mem.h"
#include "base/strbuf.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

void bucket_queue_init(struct bucket_queue *queue, size_t buckets, size_t per_batch)
{
    assert(buckets > 0 && per_batch > 0);
    *queue = (struct bucket_queue){.buckets = buckets, .per_batch = per_batch};
    queue->ready = mem_calloc(buckets, sizeof(*queue->ready));
    queue->marks = mem_calloc(buckets, sizeof(*queue->marks));
}

void bucket_queue_release(struct bucket_queue *queue)
{
    free(queue->ready);
    free(queue->marks);
    *queue = (struct bucket_queue){0};
}

bool bucket_queue_is_done(const struct bucket_queue *queue)
{
    return !queue->open || queue->aborted || queue->finished == queue->buckets;
}

void bucket_queue_begin(struct bucket_queue *queue, bool shared)
{
    assert(bucket_queue_is_done(queue));
    memset(queue->ready, 0, queue->buckets * sizeof(*queue->ready));
    queue->ready_count = queue->issued = queue->finished = 0;
    queue->open = true;
    queue->shared = shared;
}

void bucket_queue_ready(struct bucket_queue *queue, size_t bucket, uint64_t mark)
{
    assert(bucket < queue->buckets);
    if (queue->ready[bucket])
        return;
    queue->ready[bucket] = true;
    queue->marks[bucket] = mark;
    queue->ready_count++;
}

// Buckets of the next batch; 0: all are issued.
static size_t next_count(const struct bucket_queue *queue)
{
    const size_t left = queue->buckets - queue->issued;
    return left < queue->per_batch ? left : queue->per_batch;
}

static bool can_issue(const struct bucket_queue *queue)
{
    const size_t count = next_count(queue), end = queue->buckets - queue->issued;
    if (!queue->open || queue->aborted || count == 0 || queue->issued != queue->finished)
        return false;
    for (size_t bucket = end - count; bucket < end; bucket++)
        if (!queue->ready[bucket])
            return false;
    return true;
}

static void keep_order(struct bucket_queue *queue, struct bucket_batch *batch)
{
    struct digest_builder builder;
    batch->number = ++queue->batches;
    queue->log[batch->number % BUCKET_LOG] = *batch;
    digest_begin(&builder);
    digest_update(&builder, queue->order.bytes, sizeof(queue->order.bytes));
    digest_field_u64(&builder, batch->lowest);
    digest_field_u64(&builder, batch->count);
    queue->order = digest_end(&builder);
}

bool bucket_queue_take(struct bucket_queue *queue, double now, struct bucket_batch *out)
{
    if (!can_issue(queue))
        return false;
    const size_t count = next_count(queue);
    *out = (struct bucket_batch){.lowest = queue->buckets - queue->issued - count, .count = count};
    for (size_t i = 0; i < count; i++) {
        const uint64_t mark = queue->marks[out->lowest + i];
        out->mark = mark > out->mark ? mark : out->mark;
    }
    queue->issued += count;
    queue->issued_seconds = now;
    if (queue->shared)
        keep_order(queue, out);
    return true;
}

void bucket_queue_finish(struct bucket_queue *queue)
{
    assert(queue->issued > queue->finished);
    queue->finished = queue->issued;
}

void bucket_queue_abort(struct bucket_queue *queue)
{
    queue->aborted = true;
}

size_t bucket_queue_waiting(const struct bucket_queue *queue)
{
    return bucket_queue_is_done(queue) ? 0 : queue->ready_count - queue->finished;
}

double bucket_queue_under_way(const struct bucket_queue *queue, double now)
{
    return queue->issued > queue->finished ? now - queue->issued_seconds : 0;
}

// --- comparing ---

struct order_summary {
    uint64_t batches;
    struct digest order;
};

static bool same_order(const struct order_summary *a, const struct order_summary *b)
{
    return a->batches == b->batches && digest_equal(a->order, b->order);
}

static bool same_batch(const struct bucket_batch *a, const struct bucket_batch *b)
{
    return a->number == b->number && a->lowest == b->lowest && a->count == b->count;
}

static void describe(const struct bucket_batch *batch, uint64_t number, struct strbuf *out)
{
    if (batch->number != number)
        strbuf_adds(out, "nothing");
    else if (batch->count == 1)
        strbuf_addf(out, "bucket %" PRIu64, batch->lowest);
    else
        strbuf_addf(out, "buckets %" PRIu64 " to %" PRIu64, batch->lowest + batch->count - 1,
                    batch->lowest);
}

// Where the logs of rank 0 and rank r begin to differ, if they reach back so far.
static int name_difference(const struct bucket_batch *zero, const struct bucket_batch *other, int r,
                           const struct order_summary *summaries, struct error *err)
{
    const uint64_t last =
        summaries[0].batches > summaries[r].batches ? summaries[0].batches : summaries[r].batches;
    struct strbuf text = {0};
    uint64_t n = last > BUCKET_LOG / 2 ? last - BUCKET_LOG / 2 : 1;
    while (n < last && same_batch(&zero[n % BUCKET_LOG], &other[n % BUCKET_LOG]))
        n++;
    if (same_batch(&zero[n % BUCKET_LOG], &other[n % BUCKET_LOG])) {
        strbuf_addf(&text, "rank %d and rank 0 differ before sum number %" PRIu64, r, n);
    } else {
        strbuf_addf(&text, "as sum number %" PRIu64 " rank %d made that of ", n, r);
        describe(&other[n % BUCKET_LOG], n, &text);
        strbuf_adds(&text, ", rank 0 that of ");
        describe(&zero[n % BUCKET_LOG], n, &text);
    }
    error_set(err,
              "the ranks sum gradients in different orders: %s; the sums are worthless, and "
              "this is a mistake of the program or a mixture of versions",
              text.bytes);
    strbuf_release(&text);
    return -1;
}

int bucket_queue_agree(const struct bucket_queue *queue, struct group *group, struct error *err)
{
    const int size = group_size(group);
    const struct order_summary own = {queue->batches, queue->order};
    struct order_summary *all = mem_calloc((size_t)size, sizeof(*all));
    struct bucket_batch *logs = NULL;
    int rc = group_all_gather(group, all, &own, sizeof(own), err), odd = 0;
    for (int r = 1; rc == 0 && odd == 0 && r < size; r++)
        odd = same_order(&all[0], &all[r]) ? 0 : r;
    if (odd != 0) { // on all ranks alike
        logs = mem_calloc((size_t)size * BUCKET_LOG, sizeof(*logs));
        rc = group_all_gather(group, logs, queue->log, sizeof(queue->log), err) ||
                     name_difference(logs, logs + (size_t)odd * BUCKET_LOG, odd, all, err)
                 ? -1
                 : 0;
    }
    free(logs);
    free(all);
    return rc;
}
