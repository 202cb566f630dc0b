// SPDX-License-Identifier: Apache-2.0
// Which buckets of gradients may be summed, and which are next. Bookkeeping alone: no thread, clock
// or group is inside; reducer.c has them.
//
// Backward completes buckets in any order; they are issued in one that is fixed when the queue is
// made, because ranks must make the same calls: from the last bucket to the first, `per_batch` of
// them together (the last batch of a round may be smaller). A batch is issued when all its buckets
// are ready, and finished before the next is issued:
//
//     begin ──▶ ready(bucket, mark) ... ──▶ take ──▶ finish ──▶ take ... ──▶ is_done
//
// After an abort nothing more is issued, and everything counts as done.
//
// What was issued is kept, so that ranks can compare: sums of the same size in another order would
// be wrong without anybody noticing.
#ifndef MEMO_WORKER_TRAIN_BUCKET_QUEUE_H
#define MEMO_WORKER_TRAIN_BUCKET_QUEUE_H

#include "base/hash.h"
#include "collectives/group.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define BUCKET_LOG 64 // last batches kept, to say where ranks begin to differ

struct bucket_batch {
    uint64_t number; // among those of shared rounds since the queue was made, from 1; 0: not shared
    uint64_t lowest; // bucket; the batch is lowest + count - 1 down to lowest
    uint64_t count;
    uint64_t mark; // greatest of its buckets
};

struct bucket_queue {
    size_t buckets, per_batch;
    bool *ready;     // [buckets]
    uint64_t *marks; // [buckets]
    size_t ready_count;
    size_t issued, finished; // buckets of the round
    bool open;               // a round is under way
    bool shared;             // all ranks make it
    bool aborted;
    double issued_seconds;               // when the batch under way was; its caller's clock
    uint64_t batches;                    // issued since the queue was made
    struct digest order;                 // of all of them
    struct bucket_batch log[BUCKET_LOG]; // batch n is log[n % BUCKET_LOG]
};

void bucket_queue_init(struct bucket_queue *queue, size_t buckets, size_t per_batch);
void bucket_queue_release(struct bucket_queue *queue);

// A round; the one before must be done. shared: all ranks make it, and calls of the group in it.
void bucket_queue_begin(struct bucket_queue *queue, bool shared);
// A bucket that is ready already stays so. mark: what its sum has to wait for, see group_device.h.
void bucket_queue_ready(struct bucket_queue *queue, size_t bucket, uint64_t mark);
// False while no batch can be issued. `now`: for bucket_queue_overdue.
bool bucket_queue_take(struct bucket_queue *queue, double now, struct bucket_batch *out);
void bucket_queue_finish(struct bucket_queue *queue); // the batch under way
void bucket_queue_abort(struct bucket_queue *queue);

bool bucket_queue_is_done(const struct bucket_queue *queue);   // also before the first round
size_t bucket_queue_waiting(const struct bucket_queue *queue); // ready, but not finished
// How long the batch under way is; 0: there is none.
double bucket_queue_under_way(const struct bucket_queue *queue, double now);

// Collective: an error on all ranks, which names the first batch and a rank that differ, unless all
// have issued the same batches in shared rounds since the queue was made.
int bucket_queue_agree(const struct bucket_queue *queue, struct group *group, struct error *err);

#endif
