// SPDX-License-Identifier: Apache-2.0
// Sums the gradients of all ranks, bucket by bucket from the last to the first, in a thread of its
// own, while backward still computes those of lower layers: backward goes down through the model,
// whose layers stand in ascending order in memory.
//
//     reducer_begin_step        nothing is summed yet
//     for every round           a micro-batch of this rank, or none
//         reducer_begin         the thread may start
//         reducer_advance       ... as gradients are complete, at last with 0
//         reducer_wait          all buckets of the round are done
//     reducer_agree             all ranks summed the same buckets in the same order
//     reducer_sums              the sums
//
// Plain sums of float32 are made once, of the last round. Exact sums are of integers: each round's
// gradients, which must not depend on how micro-batches are spread over ranks, are multiplied by
// 2^44 and rounded, and integers have one sum in any order. With `partial` (ZeRO-2) a round's
// gradients leave this rank at once, and only the sums of its own units stay, in float32.
//
// Gradients may be held and sent in bfloat16 (gradients.h); those of vectors are then summed in
// float32 when a step's last round ends, and exact sums are refused: they take 64 bits an element.
//
// While the thread works, between begin and wait, nobody else may use the group. Of a group on GPUs
// (group_device.h) gradients are memory of the device, and what backward has only enqueued when it
// advances is waited for there, without stopping it: what the thread computes goes into the group's
// own stream.
#ifndef MEMO_WORKER_TRAIN_REDUCER_H
#define MEMO_WORKER_TRAIN_REDUCER_H

#include "collectives/group.h"
#include "kernels/device.h"
#include "worker/train/shards.h"

#include <stdbool.h>

struct reducer_options {
    bool exact;
    bool divided;           // a rank wants the sums of its own units only
    bool partial;           // and keeps no others; then divided too
    enum dtype grads;       // float32 or bfloat16
    size_t vector_elements; // with bfloat16: of the model's vectors
    // Of gradients that GPUs sum in one launch, but at least one bucket; 0: 64 MiB, which take some
    // 0.3 ms.
    size_t batch_bytes;
};

struct reducer;

int reducer_create(struct device *device, struct group *group, const struct shards *shards,
                   struct reducer_options options, struct reducer **out, struct error *err);
void reducer_destroy(struct reducer *reducer);
// Of gradients and sums, which a partial reducer touches only in part.
size_t reducer_bytes_needed(const struct shards *shards, struct reducer_options options);

// Where backward accumulates, [shards' elements].
struct tensor reducer_grads(const struct reducer *reducer);
// Where it adds those of vectors, and where their sums are: NULL with float32 gradients.
float *reducer_vectors(const struct reducer *reducer);

// contributions: rounds of all ranks together; bounds what an exact sum may add.
void reducer_begin_step(struct reducer *reducer, size_t contributions);
void reducer_begin(struct reducer *reducer, bool last);
// Gradients of the elements from `from` on are complete. A partial reducer may wait here until it
// has summed more of them: they would take too much memory.
void reducer_advance(void *reducer, uint64_t from);
// An error of the collectives, or a gradient that exact sums cannot hold.
int reducer_wait(struct reducer *reducer, struct error *err);

// Collective over a group in host memory, after reducer_wait.
int reducer_agree(const struct reducer *reducer, struct group *control, struct error *err);

// The sums of bucket `bucket`: of this rank's unit when divided, otherwise of all of it.
struct tensor reducer_sums(const struct reducer *reducer, size_t bucket);

struct reducer_times {
    double busy_seconds;    // of the thread, since reducer_begin_step
    double exposed_seconds; // of them, while reducer_wait waited
};
struct reducer_times reducer_times(const struct reducer *reducer);

#endif
