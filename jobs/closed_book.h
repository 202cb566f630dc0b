// SPDX-License-Identifier: Apache-2.0
// How well weights in training answer questions that they were not trained on: greedy answers of
// our engine to the begin of held-out sequences, held against the rest of them.
#ifndef MEMO_JOBS_CLOSED_BOOK_H
#define MEMO_JOBS_CLOSED_BOOK_H

#include "collectives/group.h"
#include "datasets/packing.h"
#include "jobs/compute.h"
#include "worker/engine/engine.h"

struct closed_book {
    size_t questions;      // the first of the held-out sequences
    size_t longest_prompt; // tokens
    size_t max_new;        // most tokens of an answer
};

struct closed_book_score {
    size_t asked;
    size_t exact; // see answer_is_exact
    double f1;    // see answer_token_f1, in the mean
};

static inline double closed_book_exact_share(const struct closed_book_score *score)
{
    return (double)score->exact / (double)score->asked;
}

// Where the answer of a sequence begins.
static inline size_t sequence_answer(const struct sequence_set *set, size_t sequence)
{
    return set->target_begin[sequence] + set->lead_tokens;
}

// Of the engine that a rank of so many makes for each measurement.
struct engine_options closed_book_engine(const struct closed_book *how,
                                         const struct model_config *config, int ranks);

// Collective: the ranks share the questions; the result does not depend on how many they are where
// the engine's does not depend on the batch. The set holds at least the questions.
int closed_book_measure(const struct closed_book *how, struct model *model, struct group *group,
                        const struct text_codec *codec, const struct sequence_set *set,
                        struct closed_book_score *out, struct error *err);

#endif
