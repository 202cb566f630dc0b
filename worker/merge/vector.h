// SPDX-License-Identifier: Apache-2.0
// A task vector is a safetensors file with the model's tensor names, dtype F32, value tuned - base
// (computed in f32), and in its metadata
//
//     format  "memo task vector"      base, tuned  weights_digest of the two models, hexadecimal
//     version "1"
#ifndef MEMO_WORKER_MERGE_VECTOR_H
#define MEMO_WORKER_MERGE_VECTOR_H

#include "base/fs.h"
#include "base/hash.h"
#include "datasets/safetensors.h"
#include "worker/merge/merge.h"

struct vector_stats {
    struct merge_stats io;
    double norm;    // Euclidean, of the whole vector
    uint64_t zeros; // elements that training did not change
    double largest; // magnitude
};

// Writes tuned - base. The two directories must agree in names and shapes.
int vector_write(struct fs *fs, const char *base, const char *tuned, const char *out,
                 struct vector_stats *stats, struct error *err);

struct vector {
    struct safetensors tensors;
    struct digest base;
    struct digest tuned;
};

// Checks format, version and dtypes.
int vector_open(const char *path, struct vector *out, struct error *err);
void vector_close(struct vector *vector);

#endif
