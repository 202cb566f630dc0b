// SPDX-License-Identifier: Apache-2.0
// The float32 master weights in a training checkpoint. This is the one place of merging that knows
// how the trainer stores them.
#ifndef MEMO_WORKER_MERGE_MASTER_H
#define MEMO_WORKER_MERGE_MASTER_H

#include "base/fs.h"
#include "datasets/safetensors.h"

#include <stddef.h>

struct master;

// The master of exactly the weights in a model directory: DIR/run/checkpoints holds a checkpoint
// whose every value rounds to the stored one. NULL when there is none, or when it is of another
// step.
struct master *master_open(struct fs *fs, const char *directory, const struct safetensors *tensors);
void master_close(struct master *master);

// Elements [begin, begin + count) of a tensor.
void master_read(const struct master *master, const char *name, size_t begin, size_t count,
                 float *out);

#endif
