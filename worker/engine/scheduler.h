// SPDX-License-Identifier: Apache-2.0
// Inside worker/engine: which tokens of which requests the next step computes, and where their keys
// and values go.
//
// A request that is admitted gets the blocks of all its tokens: those of prefixes that the tree
// knows, computed or about to be, and new ones. Each block has one owner who computes it; others
// wait until it is there. Where a request parts from a known prefix inside a block, the common
// tokens are copied (not in models with convolutions, whose blocks know one state only).
//
// Requests that generate come first, then prompts as far as the budget goes, each in the order of
// arrival. When a request that generates needs a block and none can be had, the one that arrived
// last is put back and its blocks are left to the tree; it goes on later, from what is still there.
// So the request that arrived first always gets on, and in time all do.
#ifndef MEMO_WORKER_ENGINE_SCHEDULER_H
#define MEMO_WORKER_ENGINE_SCHEDULER_H

#include "worker/engine/job.h"
#include "worker/engine/prefix_tree.h"

// Tokens [first, first + count) of a job.
struct piece {
    struct job *job;
    size_t first, count;
};

struct scheduler {
    struct kv_cache *cache;
    struct prefix_tree *tree;
    size_t slots, max_tokens, table_blocks;
    bool copies; // parts of blocks
    struct queue waiting;
    struct job **running; // [slots], by arrival
    size_t running_count;
    struct engine_statistics *statistics;

    // the step being put together
    struct piece *pieces; // [slots], one per sequence
    size_t piece_count;
    int32_t *ids, *sequences, *positions; // [max_tokens]
    int32_t *tables;                      // [slots, table_blocks]
    int32_t *wanted;                      // [slots]
    struct job **wanted_jobs;             // [slots]
    size_t tokens, wanted_count;
};

struct scheduler *scheduler_create(const struct model *model, struct kv_cache *cache,
                                   const struct engine_options *options, size_t blocks,
                                   struct engine_statistics *statistics);
void scheduler_destroy(struct scheduler *scheduler); // and its jobs

void scheduler_plan(struct scheduler *scheduler);     // at least one token when there are jobs
void scheduler_computed(struct scheduler *scheduler); // the planned step was
void scheduler_remove(struct scheduler *scheduler, struct job *job);              // it has ended
void scheduler_cancel(struct scheduler *scheduler, uint64_t id, size_t *removed); // destroys

#endif
