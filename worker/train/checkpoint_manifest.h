// SPDX-License-Identifier: Apache-2.0
// manifest.json of a checkpoint: step, identity of the run, and what its parts are. It is written
// last, so a directory that has one is whole.
#ifndef MEMO_WORKER_TRAIN_CHECKPOINT_MANIFEST_H
#define MEMO_WORKER_TRAIN_CHECKPOINT_MANIFEST_H

#include "base/fs.h"
#include "base/hash.h"
#include "worker/train/environment.h"
#include "worker/train/held_out_score.h"
#include "worker/train/state.h"

#define CHECKPOINT_VERSION 3

struct manifest {
    uint64_t step;
    struct digest identity;
    uint64_t tokens;        // consumed by the steps done
    struct digest consumed; // see trainer_step
    struct environment environment;
    char *rounded;               // see trainer.h; NULL while the run is exact
    struct held_out_score score; // see trainer.h
    struct state_form form;
    uint64_t elements;
    uint64_t part_elements; // part p holds elements p * part_elements and following
    struct digest *parts;   // [count] of the files
    size_t count;
};

// How many parts of part_elements there are.
size_t manifest_part_count(uint64_t elements, uint64_t part_elements);
uint64_t manifest_part_begin(const struct manifest *manifest, size_t part);
uint64_t manifest_part_end(const struct manifest *manifest, size_t part);

int manifest_write(const struct manifest *manifest, struct fs *fs, const char *directory,
                   struct error *err);
int manifest_read(struct fs *fs, const char *directory, struct manifest *out, struct error *err);
void manifest_release(struct manifest *manifest);

// 1: the directory has a manifest; 0: it has none, or is not there itself; -1: cannot tell.
int manifest_exists(struct fs *fs, const char *directory, struct error *err);
// Without its manifest a checkpoint does not exist. 0 also when there was none.
int manifest_remove(struct fs *fs, const char *directory);

#endif
