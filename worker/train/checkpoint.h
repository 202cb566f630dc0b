// SPDX-License-Identifier: Apache-2.0
// Training checkpoints. A checkpoint is a directory DIR/step-NNNNNNNN:
//
//     part-PPPPP.bin  weights and optimizer states of one range of elements: 64-byte header {magic
//                     "MEMOCKPT", u32 version, u32 zero, u64 begin, u64 end, u64 step, zeros}, the
//                     weights (f32 or bfloat16, filled with zeros to 64 bytes), and the block that
//                     state.h describes
//     manifest.json   version, step, identity of the run, what was consumed, the environment (what
//                     the bits depend on besides), "rounded" once that changed, the score if one
//                     was measured, types of weights and moments, element count, elements of a
//                     part, and the XXH3-128 of every part's file
//
// A part is a unit of shards.h, cut at multiples of 4,096 elements; rank p % ranks writes part p,
// and whoever loads reads all parts, on any number of ranks and with any stage of ZeRO.
//
// The manifest is written last: a directory with a manifest is whole; one without is the rest of a
// write that was interrupted, and is removed. The directory belongs to one run.
#ifndef MEMO_WORKER_TRAIN_CHECKPOINT_H
#define MEMO_WORKER_TRAIN_CHECKPOINT_H

#include "base/fs.h"
#include "worker/train/trainer.h"

// Collective. Writes the state after trainer->step steps, unless it is there already, and then
// removes older checkpoints but `keep`, the new one among them, and the one with the best score of
// the figure trainer->score.name. A failed save leaves the older checkpoints as they are and takes
// back what it wrote.
int checkpoint_save(struct trainer *trainer, struct fs *fs, const char *directory, size_t keep,
                    struct error *err);

// The same behind the run: a thread copies this rank's parts, which takes as much memory again as
// the states have, while the next step computes its gradients, and writes them while training goes
// on. The step that would change the states before they are copied waits (settle_seconds). Every
// call is collective.
//
// One write at a time; *out is NULL when the state was saved before. A write is finished by polls,
// which do nothing while a rank still writes, or by complete, which waits; both accept NULL, make
// *write NULL when it is finished, and report what failed in writing. It ends before the trainer.
struct checkpoint_write;
int checkpoint_begin(struct trainer *trainer, struct fs *fs, const char *directory, size_t keep,
                     struct checkpoint_write **out, struct error *err);
int checkpoint_poll(struct checkpoint_write **write, struct error *err);
int checkpoint_complete(struct checkpoint_write **write, struct error *err);
// Not collective: waits for the thread and leaves no checkpoint, or a whole one. Accepts NULL.
void checkpoint_abandon(struct checkpoint_write *write);

// Collective. Loads the newest whole checkpoint of this run: 1 loaded, 0 none there, -1 error, also
// when the newest belongs to other data or options, or is damaged; the trainer is then of no more
// use. *changed, released by the caller, is what the environment differs in since it was written,
// for people; trainer->rounded remembers it.
int checkpoint_load(struct trainer *trainer, struct fs *fs, const char *directory,
                    struct strbuf *changed, struct error *err);

// The same of the checkpoint of one step, whose weights alone will be used.
int checkpoint_load_step(struct trainer *trainer, struct fs *fs, const char *directory,
                         uint64_t step, struct error *err);

// The whole checkpoint with the best score of this figure; *step is -1 when none has one. Not
// collective.
int checkpoint_best(struct fs *fs, const char *directory, const char *figure, int64_t *step,
                    struct held_out_score *score, struct error *err);

// The float32 master weights of the newest whole checkpoint in the directory, in the order of the
// model's layout: out [elements]. For readers that are no trainer.
int checkpoint_read_master(struct fs *fs, const char *directory, uint64_t elements, float *out,
                           struct error *err);

#endif
