// SPDX-License-Identifier: Apache-2.0
// What a task's steps dropped and cost.
#ifndef MEMO_WORKER_TALLY_H
#define MEMO_WORKER_TALLY_H

#include "datasets/reflections.h"
#include "worker/lm/lm.h"

// Why pairs are dropped: every reason that a tally can hold.
#define DROP_REPEATED "repeated question"
#define DROP_NOT_SELF_CONTAINED "not self-contained"
#define DROP_REWRITTEN "rewritten" // its rewritten form counts for step 3
#define DROP_NO_VERDICT "no verdict"
#define DROP_CUT "cut short"
#define DROP_MALFORMED "malformed"
#define DROP_TOO_LONG "too long"
#define DROP_UNREADABLE "unreadable answer" // counts as one pair
#define DROP_NO_PARENTS "not made from pairs of the list"
#define DROP_TELLS_ANSWER "question tells the answer"
#define DROP_NAMES_SOURCE "names its source file"
#define DROP_REASONS 11

struct tally {
    struct reflection_drop drops[REFLECTION_STEPS * DROP_REASONS];
    size_t drop_count;
    struct reflection_usage usage[REFLECTION_STEPS];
    size_t usage_count;
};

// reason is one of the constants above; nothing is counted for 0 pairs.
void tally_drop(struct tally *tally, enum reflection_step step, const char *reason, uint32_t pairs);
// A server's count of cached tokens is not believed beyond that of its prompt tokens.
void tally_use(struct tally *tally, enum reflection_step step, const struct lm_result *result);

// By step, then by reason.
void tally_sort(struct tally *tally);

#endif
