// SPDX-License-Identifier: Apache-2.0
// The kinds of requests that the five steps send to a language model, and the JSON Schema of each
// one's answer.
//
//   kind         step  user turn                             answer
//   direct       1a    [document][instruction]               {"pairs":[{question,answer}]}
//   indirect     1b    [document][instruction]               the same
//   consolidate  2     [instruction][pairs]                  {"pairs":[{from,question,answer}]}
//   judge        3     [document][instruction][pair]         {"self_contained":boolean}
//   rewrite      3     [document][instruction][pair]         {"pairs":[{question,answer}]}
//   entities     4     [instruction][pairs]                  {"entities":[name]}
//   lookup       4     [instruction][name, pairs with it]    {"pairs":[{from,question}]}
//   cross        5     [pairs][instruction][anchor]          as consolidate, with a kind in front
//
// What many requests have in common stands in front, so that a model computes it once: the document
// of a chunk, the instruction where lists differ, the list where anchors differ. A continuation
// adds what its predecessors have written to the last part.
#ifndef MEMO_WORKER_REQUEST_KIND_H
#define MEMO_WORKER_REQUEST_KIND_H

#include "datasets/prompt_set.h"
#include "datasets/reflections.h"

#include <stdbool.h>
#include <stdint.h>

enum request_kind {
    REQUEST_DIRECT,
    REQUEST_INDIRECT,
    REQUEST_CONSOLIDATE,
    REQUEST_JUDGE,
    REQUEST_REWRITE,
    REQUEST_ENTITIES,
    REQUEST_LOOKUP,
    REQUEST_CROSS,
};
#define REQUEST_KINDS 8

struct request_kind_info {
    const char *name; // also of its section in steps.json
    enum reflection_step step;
    enum prompt prompt;     // the step's instruction
    bool with_document;     // [document] stands in front
    const char *answer_key; // the array in the answer; NULL: the answer is a verdict
};
const struct request_kind_info *request_kind_info(enum request_kind kind);

struct answer_limits {
    uint32_t max_items;
    uint32_t question_chars; // code points
    uint32_t answer_chars;
    uint32_t batch; // pairs of the list, which "from" refers to
};

// The schema of a kind's answer, NUL-terminated; the caller frees it.
char *request_kind_schema(enum request_kind kind, const struct answer_limits *limits);

#endif
