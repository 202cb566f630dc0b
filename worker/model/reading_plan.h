// SPDX-License-Identifier: Apache-2.0
// Inside worker/model: which tokens of a step read which blocks together (see struct attention_plan
// in kernels.h), so that a block that many sequences share is read once for all of them.
#ifndef MEMO_WORKER_MODEL_READING_PLAN_H
#define MEMO_WORKER_MODEL_READING_PLAN_H

#include "worker/model/model.h"

enum { READING_GROUP_LIMIT = 32 }; // tokens: more would leave the second cache

struct reading_run;

struct reading_plan {
    int32_t *order;                     // [max_tokens]
    struct attention_group *groups;     // [max_tokens]
    struct attention_segment *segments; // [2 max_tokens]: a tree of n leaves has 2 n - 1 nodes
    size_t group_count, segment_count, group_tokens;
    struct reading_run *runs; // [max_tokens]
    size_t tokens;            // in order so far
};

struct reading_plan *reading_plan_create(size_t max_tokens);
void reading_plan_destroy(struct reading_plan *plan);

// table_blocks: of a row of the tables. group_tokens: wanted size of groups, so that there are
// enough of them for all threads; cut to 1..READING_GROUP_LIMIT.
void reading_plan_make(struct reading_plan *plan, const struct step_tokens *step,
                       size_t table_blocks, size_t group_tokens);

#endif
