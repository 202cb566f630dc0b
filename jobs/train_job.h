// SPDX-License-Identifier: Apache-2.0
// What the files of `memo train` share: one run of it, on one rank.
#ifndef MEMO_JOBS_TRAIN_JOB_H
#define MEMO_JOBS_TRAIN_JOB_H

#include "base/time_limit.h"
#include "jobs/closed_book.h"
#include "jobs/run_directory.h"
#include "jobs/train_options.h"
#include "jobs/train_plan.h"
#include "jobs/train_records.h"
#include "jobs/training_set.h"
#include "worker/train/checkpoint.h"

// When checkpoints are written, and how long they held the run up.
struct train_checkpoints {
    char *directory;
    char *request;                    // a file: while it is there, somebody wants one now
    struct checkpoint_write *writing; // NULL: none is under way
    bool serves;                      // the one under way is what the file asks for
    double due;                       // when the next one by the clock is
    double looked;                    // when the file was last looked for
    double began;                     // when the one under way began, 0: none is
    double longest_seconds;           // that one took until it stood
    double seconds;                   // since the last record of a step
    double total_seconds;
};

// Measurements on what is held out.
struct train_held_out {
    struct closed_book answers;
    struct held_out_figures last;
    struct held_out_figures best; // only of this run's measurements; see best_step
    bool measured;                // at all, in this run
    size_t best_step;
    bool best_measured;          // in this run
    struct held_out_score score; // of best_step, of whatever run; not known: none was measured
};

struct train_job {
    const struct train_options *options;
    struct group *group;
    struct group *gpus; // sums gradients; NULL: group does
    struct device *device;
    struct text_codec codec;
    struct model *model;
    struct training_set data;
    struct train_plan plan;
    struct trainer *trainer;
    struct run_directory run; // rank 0
    struct train_checkpoints checkpoints;
    struct train_held_out held_out;
    uint64_t tokens; // trained on in this run
    uint64_t target_tokens;
    double first_loss, last_loss;
    double training_seconds;
    struct time_limit limit; // rank 0 sees to it
    double longest_step_seconds;
};

static inline bool train_is_rank0(const struct train_job *job)
{
    return group_rank(job->group) == 0;
}

// --- train_loop.c: the steps that are left ---

// Collective. 0: all steps done; 1: stopped on request after a checkpoint; -1: failed.
int train_steps(struct train_job *job, struct error *err);

// --- train_held_out.c ---

void train_held_out_open(struct train_job *job);
// Collective, once checkpoints were loaded: which of them is the best so far.
int train_held_out_resume(struct train_job *job, struct error *err);
// Collective, after each step. *measured: job->held_out.last is of this step; *improved: it is the
// best so far.
int train_held_out_measure(struct train_job *job, bool *measured, bool *improved,
                           struct error *err);

// --- train_checkpoints.c ---

// How many will lie on the disk, but for one being written.
size_t train_checkpoints_kept(const struct train_options *options);
bool train_checkpoints_save_best(const struct train_options *options);
void train_checkpoints_open(struct train_job *job);
// Whether one will be due before the last of so many steps.
bool train_checkpoints_come(const struct train_options *options, size_t steps);
// Rank 0's: whether the clock or a file asks for one, or a time limit does, which must know how
// long one takes. The file OUT/run/checkpoint-now goes away when the checkpoint that it asked for
// stands.
bool train_checkpoints_wanted(struct train_job *job);
// Collective. Only a last one must stand when this returns.
int train_checkpoints_save(struct train_job *job, bool last, struct error *err);
// Collective, after each step: finishes what is written behind the run.
int train_checkpoints_poll(struct train_job *job, struct error *err);
int train_checkpoints_complete(struct train_job *job, struct error *err);
void train_checkpoints_close(struct train_job *job);

// --- train_result.c ---

// Collective, after the last step: the model in --out, with its card.
int train_save_model(struct train_job *job, struct error *err);
void train_record_summary(struct train_job *job); // rank 0

#endif
