// SPDX-License-Identifier: Apache-2.0
// Data-parallel full-parameter training: every rank holds the weights, computes its part of a
// step's sequences, and the gradients are summed over the group before the same AdamW step
// everywhere.
//
// The loss of a step is the mean over all its target tokens, whatever rank or micro-batch they fall
// into; so ranks, packing and micro-batch size change the result by rounding only.
#ifndef MEMO_WORKER_TRAIN_TRAINER_H
#define MEMO_WORKER_TRAIN_TRAINER_H

#include "collectives/group.h"
#include "datasets/packing.h"
#include "worker/model/model.h"
#include "worker/train/schedule.h"

struct trainer_options {
    struct step_plan plan;
    struct schedule schedule;  // total_steps is set by trainer_create
    double warmup_fraction;    // of all steps
    size_t micro_batch_tokens; // most tokens computed at once on a rank
    double beta1, beta2, epsilon;
    double weight_decay;
    double clip_norm; // 0: no clipping
};

struct step_stats {
    size_t step;      // from 0, the one just done
    double loss;      // mean over target tokens
    double grad_norm; // before clipping
    double learning_rate;
    size_t sequences;
    size_t tokens;        // of all ranks
    size_t target_tokens; // of all ranks
};

struct trainer {
    struct model *model;
    struct group *group;
    const struct sequence_set *set;
    struct trainer_options options; // per_step is at most the set's count
    struct digest identity;         // of data, options, model shape and initial weights
    size_t steps;                   // in all
    size_t step;                    // next one to do
    float *grads;                   // [layout.elements], device; so are the moments
    float *moment1;
    float *moment2;
    double *norm_squared; // [1], device
    struct workspace *workspace;
    struct step_cursor cursor;
    struct step_layout layout;
    struct packed_batch batch;
};

// Collective. The model's weights must be f32; model, group and set stay the caller's and outlive
// the trainer. An error when there is no sequence, when one has more tokens than a micro-batch or
// than the model has positions, or ids outside its vocabulary, and when a rank has other data,
// options or weights than the others.
int trainer_create(struct model *model, struct group *group, const struct sequence_set *set,
                   const struct trainer_options *options, struct trainer **out, struct error *err);
void trainer_destroy(struct trainer *trainer);

// What must be equal for a run to be continued; equal on all ranks.
struct digest trainer_identity(const struct trainer *trainer);

// Collective. A loss or gradient norm that is not finite is an error, and weights, moments and step
// keep the values that they had before.
int trainer_step(struct trainer *trainer, struct step_stats *out, struct error *err);

// Bytes of parameters, gradients, moments and activations on this rank's device.
size_t trainer_device_bytes(const struct trainer *trainer);

#endif
