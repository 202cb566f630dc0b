// SPDX-License-Identifier: Apache-2.0
// Data-parallel training of all weights, or of adapters (lora.h): every rank holds the weights,
// computes its part of a step's sequences, and the gradients are summed over the group while
// backward still computes (reducer.h) before the AdamW step (optimizer.h).
//
// The loss of a step is the mean over all its target tokens, whatever rank or micro-batch they fall
// into; so ranks, packing and micro-batch size change the result by rounding only. With exact_sums
// micro-batches do not depend on the ranks and gradients are added as integers: then ranks and
// stage change nothing at all.
#ifndef MEMO_WORKER_TRAIN_TRAINER_H
#define MEMO_WORKER_TRAIN_TRAINER_H

#include "collectives/group.h"
#include "datasets/packing.h"
#include "worker/model/model.h"
#include "worker/train/environment.h"
#include "worker/train/held_out_score.h"
#include "worker/train/optimizer.h"
#include "worker/train/reducer.h"
#include "worker/train/schedule.h"

// What ranks divide among themselves (Rajbhandari et al. 2020): nothing, the optimizer's states, or
// the sums of gradients too.
enum zero_stage { ZERO_0, ZERO_1, ZERO_2 };

struct trainer_options {
    struct step_plan plan;
    struct schedule schedule;  // total_steps is set by trainer_create
    double warmup_fraction;    // of all steps
    size_t micro_batch_tokens; // most tokens computed at once on a rank
    double clip_norm;          // 0: no clipping
    struct optimizer_options optimizer;
    enum zero_stage zero;
    bool exact_sums;
    enum dtype grads; // how gradients are held and summed: float32, or bfloat16 (gradients.h); of
                      // adapters float32
    bool recompute;   // keep layers' inputs only and compute them again for backward
    // Sums gradients and exchanges weights; NULL: the trainer's group does. Several GPUs need one
    // whose calls take their memory (group_device.h); it stays the caller's and outlives the
    // trainer.
    struct group *device_group;
};

struct step_stats {
    size_t step;      // from 0, the one just done
    double loss;      // mean over target tokens
    double grad_norm; // before clipping
    double learning_rate;
    size_t sequences;
    size_t tokens;                // of all ranks
    size_t target_tokens;         // of all ranks
    double communication_seconds; // of this rank's sums of gradients
    double exposed_seconds;       // of them, while nothing was computed
    double settle_seconds;        // that the step waited for who reads states beside it
};

struct trainer {
    struct model *model;
    struct group *group;        // control
    struct group *device_group; // gradients and weights; often the same
    const struct sequence_set *set;
    struct trainer_options options; // per_step is at most the set's count
    struct digest identity;         // of data, options, model shape and initial weights
    size_t steps;                   // in all
    size_t step;                    // next one to do
    uint64_t tokens;                // of the steps done, whatever run did them
    struct digest consumed;         // of their sequences in their order: see trainer_step
    struct environment environment; // of this run
    char *rounded;                  // what environment changed between its runs; NULL: nothing
    struct held_out_score score;    // of the weights as they are: the caller's, forgotten by a step
    struct shards shards;
    struct optimizer *optimizer;
    struct reducer *reducer;
    struct tensor *sums; // [units of the optimizer], of the reducer
    float *product;      // of the matrix at work, see gradients.h; NULL with float32
    double *squares; // [shards' padded elements / cut + 1], device: sums of squares of this rank,
                     // at last of vectors
    double *host_squares; // [of all ranks]
    struct workspace *workspace;
    struct step_cursor cursor;
    struct step_layout layout;
    struct packed_batch batch;
    uint64_t *dropout_keys; // [micro_batch_tokens]; NULL: nothing is dropped
    double (*settle)(void *context);
    void *settle_context;
    unsigned char *staging; // [staging_bytes], host; NULL: none yet
    size_t staging_bytes;
};

// Collective. The model's weights must be f32, and become bfloat16 when the optimizer's form says
// so; of a model with adapters those alone are trained, the weights may be of any type, and the
// form must say f32; model, group and set stay the caller's and outlive the trainer. An error when
// there is no sequence, when one has more tokens than a micro-batch or than the model has
// positions, or ids outside its vocabulary, and when a rank has other data, options or weights than
// the others.
int trainer_create(struct model *model, struct group *group, const struct sequence_set *set,
                   const struct trainer_options *options, struct trainer **out, struct error *err);
void trainer_destroy(struct trainer *trainer);

// What must be equal for a run to be continued; equal on all ranks.
struct digest trainer_identity(const struct trainer *trainer);

// Collective. A loss or gradient norm that is not finite is an error, and weights, moments and step
// keep the values that they had before. consumed becomes the digest of itself and the numbers of
// the step's sequences: runs that end with the same one trained on the same sequences in the same
// order. That the ranks computed just these sequences, each once, is verified.
int trainer_step(struct trainer *trainer, struct step_stats *out, struct error *err);

// Weights and states change only at the end of a step. A thread may read them beside the rest of
// it: settle is called before they change, waits until nobody reads them any more, and returns how
// many seconds that took. NULL: nobody reads.
void trainer_watch_states(struct trainer *trainer, double (*settle)(void *context), void *context);

// Host memory for copies of states, in pages that are there: it is kept from one use to the next,
// since asking the system for new pages takes longer than the copy. What it held may be lost.
unsigned char *trainer_staging(struct trainer *trainer, size_t bytes);

// Collective, after the last step: the model's weights become the float32 master weights; those of
// a model with adapters stay what they are.
int trainer_finish(struct trainer *trainer, struct error *err);

// Collective: the mean loss over the target tokens of sequences that must fit like those of the
// training set; with exact_sums the same bits on any number of ranks. Not after trainer_finish.
int trainer_evaluate(struct trainer *trainer, const struct sequence_set *set, double *out,
                     struct error *err);

// How gradients are summed.
struct reducer_options trainer_sums(const struct model *model,
                                    const struct trainer_options *options);

// Of this rank, at most. With ZeRO-2 gradients count where they are before their bucket is summed.
// workspace: of the matrix whose gradients are computed, of sums of squares, of exchanges.
// conversion: what is taken before the first and after the last step, when none of these but the
// weights is there, which are there twice.
struct trainer_bytes {
    size_t weights, remainder, moments, gradients, activations, workspace;
    size_t conversion;
};
// What a trainer of this model will allocate, the model's weights among them.
struct trainer_bytes trainer_bytes_needed(struct model *model, int rank, int ranks,
                                          const struct trainer_options *options);
size_t trainer_bytes_total(struct trainer_bytes bytes); // at the peak

// What the plan says that tokens and consumed are after so many steps.
void trainer_plan_consumed(struct trainer *trainer, size_t steps, uint64_t *tokens,
                           struct digest *consumed);
// What all steps together will have consumed.
uint64_t trainer_planned_tokens(const struct trainer *trainer);

// Floating-point operations that a step needs: 6 per trained parameter of a matrix and token, 4 of
// another, of the head and of the last layer's feed-forward block per target token, and causal
// attention; what is computed twice counts once.
double trainer_flops(const struct model *model, const struct step_stats *stats);

#endif
