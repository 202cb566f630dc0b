// SPDX-License-Identifier: Apache-2.0
// Training data as token sequences, and how a step is laid out.
//
// A step is a set of sequences chosen by the seed alone: epoch e visits all sequences in the order
// of random_permutation(seed, e), cut into steps of `per_step` (the last step of an epoch may be
// smaller). Ranks, packing and micro-batches only lay that set out; every rank can compute every
// rank's layout, so that nobody needs to be asked how many target tokens a step has.
#ifndef MEMO_DATASETS_PACKING_H
#define MEMO_DATASETS_PACKING_H

#include "base/error.h"
#include "base/hash.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Sequence s is ids[offsets[s]..offsets[s + 1]); the tokens target_begin[s]..target_end[s]
// (positions inside the sequence, begin at least 1) are predicted, each from the token before it.
struct sequence_set {
    int32_t *ids;
    uint64_t *offsets; // [count + 1]
    uint32_t *target_begin;
    uint32_t *target_end;
    size_t count;
    size_t ids_capacity, count_capacity;
    size_t too_long;        // refused by sequence_set_add
    size_t longest;         // tokens
    size_t longest_refused; // tokens
    size_t lead_tokens;     // targets of every sequence that stand in front of its answer
    bool borrowed;          // the arrays are somebody else's: nothing can be added
};

// Copies one sequence; one longer than max_tokens is counted in too_long and not added, never cut
// (returns 1).
int sequence_set_add(struct sequence_set *set, const int32_t *ids, size_t length,
                     size_t target_begin, size_t target_end, size_t max_tokens);
void sequence_set_release(struct sequence_set *set);

// Of everything that training sees.
struct digest sequence_set_digest(const struct sequence_set *set);

struct step_plan {
    uint64_t seed;
    size_t per_step; // at least 1
    size_t epochs;
};
size_t plan_steps_per_epoch(const struct step_plan *plan, const struct sequence_set *set);
size_t plan_steps(const struct step_plan *plan, const struct sequence_set *set);

// Where a plan stands. Entering an epoch costs a permutation of the whole set, a step inside it
// nothing. The set must not change while a cursor walks it. Zero-initialise.
struct step_cursor {
    uint32_t *order; // [set->count], of `epoch`; NULL: none yet
    size_t epoch;
};
// The sequences of a step (from 0, in any order of steps), valid until the next call.
const uint32_t *step_cursor_sequences(struct step_cursor *cursor, const struct step_plan *plan,
                                      const struct sequence_set *set, size_t step, size_t *count);
void step_cursor_release(struct step_cursor *cursor);

size_t sequences_tokens(const struct sequence_set *set, const uint32_t *sequences, size_t count);
size_t sequences_target_tokens(const struct sequence_set *set, const uint32_t *sequences,
                               size_t count);

// How a step is divided: its sequences over ranks by tokens, each rank then packing its own; or
// packed first into micro-batches that are the same for any number of ranks, which are then
// divided.
enum step_division { DIVIDE_SEQUENCES, DIVIDE_MICRO_BATCHES };

// One rank's part of a step, cut into micro-batches. Arrays are reused from step to step.
// Zero-initialise.
struct step_layout {
    uint32_t *sequences; // [count], this rank's, longest first
    uint32_t *bins;      // [count], which micro-batch each is in
    size_t count;        // may be 0
    size_t bin_count;
    size_t most_bins;  // of any rank
    size_t total_bins; // of all ranks
    uint64_t *loads;   // [ranks] tokens; scratch
    size_t *rooms;     // [bin_count] tokens left; scratch
    uint32_t *order;   // [count]; scratch
    uint32_t *owners;  // [count] ranks; scratch
    size_t capacity, ranks_capacity;
};

// Sequences or micro-batches go to ranks by tokens, longest first to the lightest rank, ties to the
// lowest; sequences into micro-batches of at most max_tokens by best fit decreasing. No sequence
// may be longer than max_tokens.
void step_layout_make(struct step_layout *layout, const struct sequence_set *set,
                      const uint32_t *sequences, size_t count, enum step_division division,
                      int rank, int ranks, size_t max_tokens);
void step_layout_release(struct step_layout *layout);

// A micro-batch: sequences one after another. Arrays are reused from one to the next.
struct packed_batch {
    int32_t *ids;       // [tokens]
    int32_t *positions; // from 0 in each sequence
    int32_t *targets;   // ids[t + 1] where it is to be predicted, else -1
    int32_t *offsets;   // [sequences + 1]
    size_t tokens;
    size_t sequences;
    size_t tokens_capacity, sequences_capacity;
};

// Builds micro-batch `bin` of the layout.
void packed_batch_fill(struct packed_batch *batch, const struct sequence_set *set,
                       const struct step_layout *layout, uint32_t bin);
void packed_batch_release(struct packed_batch *batch);

#endif
