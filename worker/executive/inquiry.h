// SPDX-License-Identifier: Apache-2.0
// One question answered by an executive that asks a memory: the protocol of MeMo (arXiv 2605.15156)
// as a state machine without clock, I/O or model. It says what to ask whom, is told the answers,
// and ends with the executive's own.
//
//   grounding      the executive takes the question apart; the memory is asked each clue
//   identifying    up to identify_turns: known facts, candidates, questions that tell them apart;
//                  a candidate whose questions were answered with "I don't know" dead_after times
//                  is given up. Ends when one is confirmed, nothing new is asked, or turns are
//                  spent
//   seeking        up to seek_turns: facts about the subject, which may change. Ends when there is
//                  enough, nothing new is asked, or turns are spent
//   concluding     the answer, from all that the memory knew
//
// Every turn of the executive is a JSON object by a schema. One that cannot be read is asked for
// again, `tries` times in all; then the stage ends, and an inquiry without a conclusion fails. The
// memory gets plain questions, as it was trained on; the same question is not put to it twice.
#ifndef MEMO_WORKER_EXECUTIVE_INQUIRY_H
#define MEMO_WORKER_EXECUTIVE_INQUIRY_H

#include "worker/lm/lm.h"

#include <stdbool.h>

struct inquiry_limits {
    int questions;        // of one turn
    int memory_questions; // of one inquiry
    int identify_turns, seek_turns;
    int dead_after;                         // answers "I don't know" about a candidate
    int tries;                              // of one turn
    size_t executive_tokens, memory_tokens; // of one answer
    size_t transcript_bytes;                // that the executive is shown: the latest of it
};
extern const struct inquiry_limits inquiry_usual_limits;

enum inquiry_stage {
    INQUIRY_GROUNDING,
    INQUIRY_IDENTIFYING,
    INQUIRY_SEEKING,
    INQUIRY_CONCLUDING,
    INQUIRY_ANSWERED,
    INQUIRY_FAILED,
};
const char *inquiry_stage_name(enum inquiry_stage stage); // "identifying"

// What the memory was asked.
struct inquiry_line {
    enum inquiry_stage stage;
    char *question;
    char *candidate; // that it tests; "" for none
    char *answer;    // NULL: not yet
    bool unknown;    // "I don't know", or nothing
    bool sent;
};

struct inquiry;
struct inquiry *inquiry_create(const char *question, const struct inquiry_limits *limits,
                               uint64_t seed);
void inquiry_destroy(struct inquiry *inquiry);

enum inquiry_whom { INQUIRY_EXECUTIVE, INQUIRY_MEMORY };

// The next request that can be made now; false: none, until an answer comes. Texts are valid until
// the next call; out->id numbers the requests of this inquiry.
bool inquiry_next(struct inquiry *inquiry, enum inquiry_whom *whom, struct lm_request *out);
// The answer to the request with result->id.
void inquiry_take(struct inquiry *inquiry, enum inquiry_whom whom, const struct lm_result *result);

enum inquiry_stage inquiry_stage(const struct inquiry *inquiry);
const char *inquiry_answer(const struct inquiry *inquiry);  // once answered
const char *inquiry_problem(const struct inquiry *inquiry); // once failed
const char *inquiry_subject(const struct inquiry *inquiry); // "" while none is found
size_t inquiry_line_count(const struct inquiry *inquiry);
const struct inquiry_line *inquiry_line_at(const struct inquiry *inquiry, size_t at);

// Whether a memory's answer means that it does not know.
bool answer_is_unknown(const char *text, size_t bytes);

#endif
