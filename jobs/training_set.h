// SPDX-License-Identifier: Apache-2.0
// What a training run trains on and what it holds out. One rank reads and tokenizes, and leaves the
// tokens in a file (datasets/token_cache.h) that all ranks map, and that the next run of the same
// command finds.
#ifndef MEMO_JOBS_TRAINING_SET_H
#define MEMO_JOBS_TRAINING_SET_H

#include "collectives/group.h"
#include "datasets/token_cache.h"
#include "jobs/compute.h"
#include "jobs/train_options.h"

struct training_set {
    struct sequence_set sequences;
    struct sequence_set held_out;
    uint64_t pairs;        // read; 0 of text
    size_t longest_prompt; // of the held-out questions that are answered; tokens
    struct digest key;
    bool found; // tokenized by an earlier run
    struct token_cache cache;
};

// How many held-out questions a measurement answers.
size_t training_set_questions(const struct train_options *options);

// Collective. Rank 0 reads the data and tokenizes them, or finds them tokenized; the other ranks
// learn how many sequences there are and how long, and no more. Writes nothing.
int training_set_prepare(const struct train_options *options, const struct text_codec *codec,
                         struct group *group, struct training_set *out, struct error *err);

// Collective, after prepare: the file, in --token-cache or the run directory, which is created; and
// the sequences on every rank.
int training_set_share(const struct train_options *options, struct group *group,
                       struct training_set *set, struct error *err);

void training_set_release(struct training_set *set); // also what was never prepared

#endif
