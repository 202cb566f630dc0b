// SPDX-License-Identifier: Apache-2.0
// A draft is a pair on its way through the steps. It is made once, may be rewritten in place, and
// is in the end a reflection or dropped with a reason. Pointers to drafts stay valid as long as
// their task.
#ifndef MEMO_WORKER_DRAFT_H
#define MEMO_WORKER_DRAFT_H

#include "base/arena.h"
#include "datasets/reflections.h"
#include "worker/reflect/tally.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Where in a task a draft was made first. Drafts are ordered by it, so that nothing depends on the
// order in which answers arrive.
struct draft_origin {
    enum reflection_step step;
    uint32_t request; // of the step, in the order in which they were planned
    uint32_t item;    // of the request and its continuations
};

struct draft {
    struct draft_origin origin;
    enum reflection_step step; // that wrote the words as they are now
    const char *question;      // UTF-8 on one line; a NUL follows
    size_t question_bytes;
    const char *answer;
    size_t answer_bytes;
    struct draft *const *parents; // that it was made from, whatever became of them since
    size_t parent_count;
    const struct reflection_source *sources;
    size_t source_count;
    uint32_t document; // index in the corpus; of a cross-document draft unused
    uint64_t seed;     // of the request that wrote the words
    uint32_t prompt_tokens;
    uint32_t output_tokens;
    uint32_t rounds;         // of rewriting
    const char *dropped;     // why; NULL while it is alive
    struct digest record_id; // set when the task is finished, or given (a member's pair)
};

struct draft_list {
    struct draft **items;
    size_t count;
    size_t capacity;
};
void draft_list_add(struct draft_list *list, struct draft *draft);
void draft_list_release(struct draft_list *list); // not the drafts

// By step, then by origin: the order of the records of a task.
void draft_list_sort(struct draft_list *list);

// Takes the draft out and counts it under the step that wrote it. Once only.
void draft_drop(struct draft *draft, const char *reason, struct tally *tally);

// Of live drafts with the same question (text_key.h) the first in order stays. Drafts whose
// question is one of `known` are dropped as well.
void draft_list_drop_repeated(const struct draft_list *list, const struct draft_list *known,
                              struct tally *tally);

// The text on one line: white space and control characters become single spaces, none at the ends.
// A NUL follows.
const char *draft_clean_text(const char *text, size_t bytes, struct arena *arena,
                             size_t *out_bytes);

// Question and answer as one key (text_key.h), which the caller frees.
char *draft_key(const struct draft *draft);
// Whether the answer's words stand in the question.
bool draft_tells_answer(const struct draft *draft);

#endif
