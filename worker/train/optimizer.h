// SPDX-License-Identifier: Apache-2.0
// AdamW over a model that is divided among ranks: this rank's states, the step, and the numbers of
// all ranks put together again. With `divided` a rank keeps the states of its own units only, and
// the weights are exchanged after each step (ZeRO-1 and 2, Rajbhandari et al. 2020); otherwise
// every rank keeps all of them and no weight travels.
#ifndef MEMO_WORKER_TRAIN_OPTIMIZER_H
#define MEMO_WORKER_TRAIN_OPTIMIZER_H

#include "collectives/group.h"
#include "worker/model/model.h"
#include "worker/train/state.h"

struct optimizer_options {
    struct state_form form;
    double beta1, beta2, epsilon;
    double weight_decay; // of matrices
};

struct optimizer_unit {
    size_t number; // among the units of all ranks
    struct state state;
    struct state_place place; // on the device
};

struct optimizer {
    struct model *model;
    struct group *group;        // control, and states on the host
    struct group *device_group; // weights where the device has them
    struct optimizer_options options;
    struct shards shards;
    bool divided;
    struct optimizer_unit *units; // this rank's, or all; in ascending order
    size_t unit_count;
    struct state_place place; // of all units, on the device
    size_t remainder_bytes, moment_bytes;
    void *exchange; // of a last bucket that is incomplete, on the device
};

// The model's weights must be f32; with form.weights DTYPE_BF16 they become bfloat16 here, and what
// is cut off becomes the remainder. Model and groups stay the caller's and outlive the optimizer;
// device_group's calls take the device's memory, and where that is the host's it may be group.
int optimizer_create(struct model *model, struct group *group, struct group *device_group,
                     const struct shards *shards, bool divided,
                     const struct optimizer_options *options, struct optimizer **out,
                     struct error *err);
void optimizer_destroy(struct optimizer *optimizer);

// Bytes of weights, of what else belongs to the master weights, of the moments, and of the
// exchange; and what all of it takes while the weights change their form, at the start and at the
// end, when there are no moments.
struct optimizer_bytes {
    size_t weights, remainder, moments, exchange;
    size_t conversion;
};
struct optimizer_bytes optimizer_bytes_needed(const struct layout *layout,
                                              const struct shards *shards, bool divided,
                                              struct state_form form);

// The sums of gradients: units[u] for this rank's unit u; where vectors is not NULL, what does not
// decay stands there instead (gradients.h).
struct optimizer_grads {
    const struct tensor *units;
    const float *vectors;
};
// Collective. step counts from 1.
int optimizer_step(struct optimizer *optimizer, struct optimizer_grads grads, double grad_scale,
                   double rate, int64_t step, struct error *err);

// Collective when divided: one part of every element's state, on the host [elements].
int optimizer_gather(struct optimizer *optimizer, enum state_part part, float *out,
                     struct error *err);

// Collective: the model's weights become the float32 master weights. No step can follow.
int optimizer_widen(struct optimizer *optimizer, struct error *err);

#endif
