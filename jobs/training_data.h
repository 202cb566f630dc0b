// SPDX-License-Identifier: Apache-2.0
// Text into training sequences.
#ifndef MEMO_JOBS_TRAINING_DATA_H
#define MEMO_JOBS_TRAINING_DATA_H

#include "datasets/packing.h"
#include "datasets/pairs.h"
#include "jobs/compute.h"
#include "jobs/task_plan.h"

// One conversation per pair, user = question, assistant = answer; the answer and its <|im_end|> are
// the targets, with loss_on_header also what the template writes in front of the answer.
int training_data_from_pairs(const struct text_codec *codec, const struct pair_list *pairs,
                             size_t max_tokens, bool loss_on_header, struct sequence_set *out,
                             struct error *err);

// The digest of everything that the sequences of training_data_from_pairs follow from.
struct digest training_data_pairs_key(const struct text_codec *codec, const struct pair_list *pairs,
                                      size_t max_tokens, bool loss_on_header);
// The same of training_data_from_corpus.
struct digest training_data_corpus_key(const struct text_codec *codec, const struct corpus *corpus,
                                       struct corpus_part part, size_t max_tokens, size_t sample);

// Moves the last `count` sequences into a set of their own.
void training_data_hold_out(struct sequence_set *set, size_t count, struct sequence_set *held_out);

// Documents of one part of a corpus, cut into pieces of at most max_tokens; every token but the
// first of a piece is a target. A document ends with the end-of-text token.
int training_data_from_corpus(const struct text_codec *codec, const struct corpus *corpus,
                              struct corpus_part part, size_t max_tokens, size_t sample,
                              struct sequence_set *out, struct error *err);

#endif
