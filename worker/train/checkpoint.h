// SPDX-License-Identifier: Apache-2.0
// Training checkpoints. A checkpoint is a directory DIR/step-NNNNNNNN:
//
//     part-RRRR.bin   parameters, first and second moments of one element range, f32:
//                     64-byte header {magic "MEMOCKPT", u32 version, u32 zero, u64 begin, u64 end,
//                     u64 step, zeros}, then 3 x (end - begin) floats
//     manifest.json   step, identity of the run (data, options, model), element count, and for
//     every
//                     part its range and XXH3-128
//
// Each rank writes one part, cut at multiples of 4,096 elements, so that any number of ranks can
// load it. The manifest is written last: a directory with a manifest is whole; one without is the
// rest of a write that was interrupted, and is removed.
#ifndef MEMO_WORKER_TRAIN_CHECKPOINT_H
#define MEMO_WORKER_TRAIN_CHECKPOINT_H

#include "base/fs.h"
#include "worker/train/trainer.h"

// What must be equal for a run to be continued: digest of data, options and model shape.
struct digest trainer_identity(const struct trainer *trainer);

// Collective. Writes the state after trainer->step steps and removes older checkpoints but `keep`.
int checkpoint_save(struct trainer *trainer, struct fs *fs, const char *directory, size_t keep,
                    struct error *err);

// Collective. Loads the newest whole checkpoint of this run: 1 loaded, 0 none there, -1 error, also
// when the newest belongs to other data or options, or is damaged.
int checkpoint_load(struct trainer *trainer, struct fs *fs, const char *directory,
                    struct error *err);

#endif
