// SPDX-License-Identifier: Apache-2.0
// One input of a merge: a model directory, or a task vector file.
#ifndef MEMO_WORKER_MERGE_SOURCE_H
#define MEMO_WORKER_MERGE_SOURCE_H

#include "worker/merge/vector.h"
#include "worker/merge/weights.h"

struct source {
    char *path;
    bool is_vector;
    struct vector vector;
    struct safetensors model;
    struct digest digest; // of a vector: the tuned model's
    int position;         // in the order given
    uint64_t bytes;
};

// A directory is a model, a file must be a vector.
int source_open(const char *path, int position, struct source *out, struct error *err);
// Reads everything: NaN and infinity are errors; a model's digest.
int source_scan(struct source *source, struct pool *pool, struct error *err);
void source_close(struct source *source);

// The tensors with their own shapes and, of a model, dtypes. The caller frees entries.
struct safetensors source_view(const struct source *source);

// A tensor of a source. A missing one is the caller's mistake: sources are compared before.
struct source_tensor {
    const struct safetensors_entry *entry; // of a model
    const struct vector_tensor *vector;
};
struct source_tensor source_find(const struct source *source, const char *name);
void source_read(const struct source_tensor *tensor, size_t begin, size_t count, float *out);
void source_release(const struct source_tensor *tensor, size_t begin, size_t count);
// Whether two tensors of one source hold the same values, bit for bit.
bool source_equal(const struct source_tensor *a, const struct source_tensor *b);

#endif
