// SPDX-License-Identifier: Apache-2.0
// Merging models: task vectors or model directories, by one recipe or several at once, into model
// directories.
//
// Inputs are mapped and read tile by tile; the outputs are written behind. Memory holds tiles, not
// tensors. Models are summed in the order of their digests, so the order in which they are named
// does not matter (but memo-ref, whose first model is the base). Ranks divide the tensors by bytes
// and write into the same files. A merge that was killed continues in its directory.
#ifndef MEMO_WORKER_MERGE_MERGE_H
#define MEMO_WORKER_MERGE_MERGE_H

#include "base/error.h"
#include "base/fs.h"
#include "collectives/group.h"
#include "worker/merge/recipe.h"
#include "worker/merge/weights.h"

#define MERGE_MEMORY_DEFAULT "2" // GB

struct merge_request {
    struct fs *fs;
    struct group *group;
    const char *base; // model directory; NULL for methods that need none
    const char *const *sources;
    size_t count;
    const struct merge_recipe *recipes; // [outputs]
    const char *const *outs;            // [outputs] directories to write
    size_t outputs;
    int threads;
    uint64_t memory_bytes; // of this process
    // Called on rank 0 when the inputs are known to fit, before anything is written, with the
    // identity of inputs, recipes and dtypes; sets *done when there is nothing to do. May be NULL.
    int (*begin)(void *context, const char *identity, bool *done, struct error *err);
    void *context;
};

struct merge_report {
    struct differences differences; // between the inputs, when they do not fit
    bool done;                      // as request->begin said
    size_t tensors;
    size_t continued; // tensors that stood there from an earlier attempt, all outputs
    uint64_t parameters;
    uint64_t bytes_read; // of all inputs, once
    uint64_t bytes_written;
    size_t tile;   // elements
    double change; // of the first output: Euclidean distance to the base (0 without)
};

// Collective. Checks everything before anything is written. Shapes, dtypes, tokenizers and the
// vectors' bases must agree; values that are not finite, in the inputs or in a result, are errors
// that name the tensor. Each directory then holds a whole model and README.md, its card. An output
// of another merge in a directory is replaced; out must not be one of the inputs.
int merge_models(const struct merge_request *request, struct merge_report *report,
                 struct error *err);
// What a later attempt would need is removed from a directory whose merge is complete.
int merge_seal(struct fs *fs, const char *directory, struct error *err);
void merge_report_release(struct merge_report *report);

#endif
