// SPDX-License-Identifier: Apache-2.0
// One rank while it merges: merge.c (outputs), merge_read.c (a tensor's values and parameters),
// merge_trim.c (thresholds over all tensors).
#ifndef MEMO_WORKER_MERGE_MERGE_RUN_H
#define MEMO_WORKER_MERGE_MERGE_RUN_H

#include "worker/merge/merge_private.h"

struct run {
    struct merge_job *job;
    struct merge_engine *engine;
    struct merge_output **outputs;
    struct magnitude_cut **cuts; // [outputs] NULL, or [tensors * vectors] of a global trim
    double *numbers;             // [4 * count]
    struct merge_parameter_arrays arrays;
    uint64_t *streams; // [count]
    bool *is_delta;    // [count]
};

// One tensor while it is read.
struct tensor_reading {
    const struct merge_job *job;
    struct source_tensor base;
    struct source_tensor *sources; // [count]
};

// The caller frees out->sources.
void merge_reading_open(const struct merge_job *job, size_t tensor, struct tensor_reading *out);
// Parameters in the order of the sources; they live in run until the next call.
struct merge_parameters merge_run_resolve(struct run *run, size_t output, size_t tensor);
// What the engine reads; groups may become those of a vector.
struct merge_tensor merge_run_tensor(const struct run *run, size_t tensor,
                                     struct merge_parameters *p, struct tensor_reading *reading);
size_t merge_run_vectors(const struct merge_job *job); // that the engine sees
bool merge_run_owns(const struct merge_job *job, size_t tensor);

// Collective. The cuts of recipes with a global trim.
int merge_run_cut(struct run *run, struct error *err);

#endif
