// SPDX-License-Identifier: Apache-2.0
// What a training run will need, said before it takes it: memory of a rank by part, disk, and time.
#ifndef MEMO_JOBS_TRAIN_PLAN_H
#define MEMO_JOBS_TRAIN_PLAN_H

#include "worker/train/trainer.h"

enum recompute_choice { RECOMPUTE_AUTO, RECOMPUTE_ON, RECOMPUTE_OFF };

struct train_plan {
    struct trainer_bytes bytes;
    size_t program_bytes;    // what the process holds already, but for the model's weights
    size_t total_bytes;      // of a rank
    size_t available_bytes;  // for it, what it holds already included
    size_t checkpoint_bytes; // of all ranks
    size_t copy_bytes;       // of a rank, while a checkpoint is written behind the run
    bool behind;             // there is memory for it
    double peak_flops;       // of all ranks, for weights of their type; 0: unknown
};

// Chooses options->recompute, and fills *out. An error says by how much a rank's memory is too
// small and which option would make it fit. limit_bytes 0: what is free, shared among the host's
// ranks. The model is loaded already, in f32.
int train_plan_make(struct model *model, const struct group *group, size_t limit_bytes,
                    enum recompute_choice choice, struct trainer_options *options,
                    struct train_plan *out, struct error *err);

// Lines for people. keep: checkpoints kept in `directory`, whose file system's free space is told.
void train_plan_log(const struct train_plan *plan, const struct trainer *trainer, size_t keep,
                    const char *directory);

size_t process_resident_bytes(void); // now; 0 when the system does not tell
size_t process_peak_bytes(void);     // resident, so far

#endif
