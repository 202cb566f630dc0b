// SPDX-License-Identifier: Apache-2.0
// Whole training runs for tests: every rank makes its own device and model, rank 0 (the test's own
// process) leaves what came out.
#ifndef MEMO_TESTS_WORKER_TRAIN_FIXTURE_H
#define MEMO_TESTS_WORKER_TRAIN_FIXTURE_H

#include "base/fs.h"
#include "worker/model/lora.h"
#include "worker/train/trainer.h"

enum { FIXTURE_MAX_STEPS = 64 };

struct training {
    // What to do.
    int ranks;
    const struct sequence_set *set;
    struct trainer_options options;
    const char *model;               // a directory; NULL: random weights of seed 1
    const struct lora_options *lora; // NULL: all weights are trained
    const char *lora_initial; // safetensors with "initial.NAME"; NULL: as model_add_lora does
    enum dtype dtype;         // of a model that is loaded; bfloat16 with adapters only
    const char *checkpoints;  // directory; NULL: neither loaded nor saved
    struct fs *fs;            // NULL: the system's
    size_t save_every;        // steps; 0: never
    size_t keep;
    bool behind;        // checkpoints are written behind the run
    int64_t vocabulary; // of the random model; 0: the fixture's 37
    bool load_only;     // no step
    bool save_loaded;   // once more, before the first step
    size_t stop_after;  // steps in this run; 0: all
    int die_rank;       // kills itself after stop_after steps; 0: none dies; otherwise rank + 1
    int odd_rank;       // begins from other weights; otherwise rank + 1
    struct held_out_score score;    // its name is the figure that checkpoints are kept by
    double (*measure)(size_t step); // the score after a step, before it is saved; NULL: none

    // What came out, of rank 0.
    struct error err;
    int loaded; // what checkpoint_load returned
    char changed[512];
    size_t first_step;
    size_t steps; // done in this run
    struct step_stats stats[FIXTURE_MAX_STEPS];
    uint64_t tokens; // of all runs up to here
    struct digest consumed;
    size_t elements;
    float *state; // weights, first and second moments, [3 * elements]
};

// 24 steps of a small model: per_step 8, rate 1e-2, everything else as the trainer is meant to run.
struct training training_default(const struct sequence_set *set);
int training_run(struct training *training);       // what the group's run returned
void training_run_well(struct training *training); // fails the test on an error
void training_release(struct training *training);

// `count` sequences over a vocabulary of 37, of 2 to 24 tokens, targets anywhere in them.
void fixture_set_fill(struct sequence_set *set, size_t count, uint64_t seed);

void assert_same_state(const struct training *a, const struct training *b); // bit for bit
// Losses of b's steps as a's at the same steps, relative.
void assert_losses_near(const struct training *a, const struct training *b, double tolerance);

#endif
