// SPDX-License-Identifier: Apache-2.0
// What the micro-batches of a step add up to, over ranks: the losses, and which sequences were
// computed, so that a step that skipped one or computed one twice is an error and no result.
#ifndef MEMO_WORKER_TRAIN_STEP_SUM_H
#define MEMO_WORKER_TRAIN_STEP_SUM_H

#include "collectives/group.h"
#include "datasets/packing.h"

struct step_sum {
    double loss;
    int64_t fixed_loss; // the same in units of 2^-32: its sum does not depend on any order
    int64_t sequences;
    int64_t tags; // of them, random numbers: sums of these tell sets of sequences apart
};

void step_sum_add_sequence(struct step_sum *sum, uint32_t sequence);
// Those of one micro-batch.
void step_sum_add_bin(struct step_sum *sum, const struct step_layout *layout, uint32_t bin);
// An error when the loss is no number, or beyond any that training comes back from.
int step_sum_add_loss(struct step_sum *sum, double loss, struct error *err);

// Collective, in place.
int step_sum_reduce(struct step_sum *sum, struct group *group, struct error *err);

double step_sum_loss(const struct step_sum *sum, bool exact);

// An error when the sequences of both are not the same ones, each as often.
int step_sum_check(const struct step_sum *sum, const struct step_sum *planned, struct error *err);

#endif
