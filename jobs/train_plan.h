// SPDX-License-Identifier: Apache-2.0
// What a training run will need, said before it takes it: memory of a rank by part, disk, and time.
#ifndef MEMO_JOBS_TRAIN_PLAN_H
#define MEMO_JOBS_TRAIN_PLAN_H

#include "base/strbuf.h"
#include "worker/train/trainer.h"

enum recompute_choice { RECOMPUTE_AUTO, RECOMPUTE_ON, RECOMPUTE_OFF };

struct train_plan {
    struct trainer_bytes bytes;
    size_t answer_bytes;     // while held-out questions are answered
    size_t program_bytes;    // what the process holds already, but for the model's weights
    size_t total_bytes;      // of a rank
    size_t available_bytes;  // for it, what it holds already included
    size_t checkpoint_bytes; // of all ranks
    size_t copy_bytes;       // of a rank, for a checkpoint that is written behind the run
    bool half_gradients_allowed;
    bool behind;       // there is memory for it
    bool copied;       // and it is part of the total, as the run keeps it
    double peak_flops; // of all ranks, for weights of their type; 0: unknown
};

struct train_plan_request {
    struct model *model; // loaded already
    const struct group *group;
    size_t limit_bytes; // of a rank; 0: what is free, shared among the host's ranks
    enum recompute_choice recompute;
    size_t answer_bytes;
    bool copies; // checkpoints will be due while the run goes on
};

// Chooses options->recompute, and fills *out. An error says by how much a rank's memory is too
// small and which option would make it fit.
int train_plan_make(const struct train_plan_request *request, struct trainer_options *options,
                    struct train_plan *out, struct error *err);

// Appends the parts for people.
void train_plan_parts(const struct trainer_bytes *bytes, bool recompute, struct strbuf *out);

// Lines for people. kept: checkpoints kept in `directory`, whose file system's free space is told.
void train_plan_log(const struct train_plan *plan, const struct trainer *trainer, size_t kept,
                    const char *directory);

size_t process_resident_bytes(void); // now; 0 when the system does not tell
size_t process_peak_bytes(void);     // resident, so far

#endif
