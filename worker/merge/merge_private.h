// SPDX-License-Identifier: Apache-2.0
// Shared by merge.c (the run), merge_open.c (inputs and checks) and card.c.
#ifndef MEMO_WORKER_MERGE_MERGE_PRIVATE_H
#define MEMO_WORKER_MERGE_MERGE_PRIVATE_H

#include "worker/merge/merge.h"
#include "worker/merge/output.h"
#include "worker/merge/source.h"
#include "worker/merge/tensor.h"

struct merge_job {
    const struct merge_request *request;
    struct merge_report *report;
    struct source base;     // path NULL: none
    struct source *sources; // [count] in digest order; memo-ref: the first given one first
    size_t count;
    bool memo_ref;
    struct safetensors view; // names and shapes of the result, in name order
    int layers;
    const char **keys; // [view.count] names for masks and rules: a tied head has its embedding's
    int *owners;       // [view.count] ranks
    struct safetensors_entry **entries; // [outputs][view.count] with the output's dtype
    struct digest *identities;          // [outputs]
    double *changes;                    // [outputs * view.count]
};

int merge_job_open(struct merge_job *job, struct pool *pool, struct error *err);
void merge_job_close(struct merge_job *job);

// README.md of one output.
void merge_card(const struct merge_job *job, size_t output, struct strbuf *out);

#endif
