// SPDX-License-Identifier: Apache-2.0
// Closed-book exact match and F1 of a model on a set of pairs.
#ifndef MEMO_JOBS_SCORE_H
#define MEMO_JOBS_SCORE_H

#include "datasets/pairs.h"
#include "jobs/answers.h"

struct score {
    size_t asked;
    size_t right; // but for white space at both ends
    double f1;    // of words, in the mean; see answer_token_f1
    uint64_t tokens;
    double seconds;
};

// Shows the first `misses` wrong answers in the log; label is for the progress line.
int score_pairs(struct answering *answering, const struct pair_list *pairs, int64_t misses,
                const char *label, struct score *out, struct error *err);

#endif
