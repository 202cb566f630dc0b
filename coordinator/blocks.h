// SPDX-License-Identifier: Apache-2.0
// Blocks of tasks that several jobs divide among themselves by claims (claims.h), as one job sees
// them. Every call is O(log blocks), but blocks_reopen, which is O(blocks).
//
//     UNCLAIMED --asked--> ASKED --won--> OURS
//         ^                  |
//         +----- reopen -- REFUSED
#ifndef MEMO_COORDINATOR_BLOCKS_H
#define MEMO_COORDINATOR_BLOCKS_H

#include "coordinator/index_heap.h"

#define NO_BLOCK UINT32_MAX

enum block_state { BLOCK_UNCLAIMED, BLOCK_ASKED, BLOCK_OURS, BLOCK_REFUSED };

struct block {
    uint32_t first; // task
    uint32_t count;
    uint32_t open;  // tasks that are not final
    uint32_t ready; // of them, those that could be leased if the block were this job's
    uint32_t priority;
    enum block_state state;
};

struct blocks {
    struct block *items;
    size_t count;
    size_t capacity;
    struct index_heap claimable; // unclaimed, with ready tasks; the most important first
    size_t claimable_tasks;      // ready ones in these
    size_t foreign_tasks;        // open ones in blocks that are not this job's
    size_t refused;              // blocks with open tasks
};

void blocks_init(struct blocks *blocks); // stays where it is until release
void blocks_release(struct blocks *blocks);
uint32_t blocks_add(struct blocks *blocks, uint32_t first, uint32_t count, uint32_t priority);

void blocks_set_state(struct blocks *blocks, uint32_t number, enum block_state state);
void blocks_task_ready(struct blocks *blocks, uint32_t number, bool ready); // became, or is no more
void blocks_task_final(struct blocks *blocks, uint32_t number); // was not ready, or is no more

uint32_t blocks_first_claimable(const struct blocks *blocks); // NO_BLOCK: none
void blocks_reopen(struct blocks *blocks);                    // those that were refused

#endif
