// SPDX-License-Identifier: Apache-2.0
// Which pairs of a group are compared with which (step 5).
//
// A name that step 4 surfaced (the answers of entity pairs) and that stands in pairs of two
// documents or more is shared; the fewer pairs hold it, the more it tells. Anchors are the pairs
// that hold a shared name, those with the most telling ones first; without any shared name, all
// pairs. An anchor is compared with the pairs of the other documents, batch by batch, pairs with
// the same most telling name beside one another and those without a shared name last. All anchors
// of a document see the same batches, so that a model computes each batch once. Entity pairs are
// neither anchors nor compared: they say again what the pairs say that they were made from.
//
// Integers only; ties by position: the plan depends on nothing but its input.
#ifndef MEMO_WORKER_CROSS_PLAN_H
#define MEMO_WORKER_CROSS_PLAN_H

#include "worker/reflect/draft.h"

struct cross_limits {
    size_t batch;   // pairs
    size_t anchors; // 0: no limit
    size_t batches; // of one anchor; 0: no limit
};

struct cross_batch {
    struct draft **pairs; // of documents other than the anchors'
    size_t pair_count;
    struct draft **anchors; // of one document, ascending
    size_t anchor_count;
};

struct cross_plan {
    struct cross_batch *batches;
    size_t count;
};

// members: the pairs of the group; their `document` tells documents apart. The plan lives in the
// arena.
void cross_plan_make(const struct draft_list *members, const struct cross_limits *limits,
                     struct arena *arena, struct cross_plan *out);

#endif
