// SPDX-License-Identifier: Apache-2.0
// Inside worker/executive: what an inquiry holds.
#ifndef MEMO_WORKER_EXECUTIVE_INQUIRY_INTERNAL_H
#define MEMO_WORKER_EXECUTIVE_INQUIRY_INTERNAL_H

#include "base/arena.h"
#include "base/json.h"
#include "base/strbuf.h"
#include "worker/executive/inquiry.h"

struct inquiry {
    struct inquiry_limits limits;
    char *question, *subject, *known, *answer;
    uint64_t seed;
    enum inquiry_stage stage;
    int turn, tries; // of the stage, of the turn; from 0
    bool asking;     // the executive was asked and has not answered
    struct inquiry_line *lines;
    size_t line_count, line_capacity;
    size_t open; // lines without an answer
    char problem[512];

    struct strbuf instruction, shown; // of the last request
    struct arena arena;               // of one answer
};

// What the executive is asked at this stage: fills texts, schema, sampling and limits.
void inquiry_render_turn(struct inquiry *inquiry, struct lm_request *out);

// Answers "I don't know" to questions about the candidate so far.
int inquiry_unknowns(const struct inquiry *inquiry, const char *candidate);

#endif
