// SPDX-License-Identifier: Apache-2.0
// Shared by the files of `memo bench`.
#ifndef MEMO_JOBS_BENCH_H
#define MEMO_JOBS_BENCH_H

#include "kernels/bench.h"

enum { BENCH_BATCHES_LIMIT = 16 };

struct bench_options {
    const char *shape;
    const char *batch;
    int64_t prompt;
    const char *dtype;
    const char *tokenizer;
    int64_t micro_batch_tokens;
    int64_t documents, requests, document_tokens, own_tokens, answer_tokens;
    double seconds;
    const char *backend;
    int64_t threads;
    bool json;
};

struct bench {
    const struct bench_options *options;
    struct device *device;
    struct model *model; // small and float32, for all but bench_model
    struct bench_limits limits;
    size_t batches[BENCH_BATCHES_LIMIT]; // as given
    size_t batch_count;                  // 0: none given
};

// Prefill and decode of a model whose weights do not change.
int bench_model(struct bench *bench, struct error *err);

// Many requests on few documents.
int bench_engine(struct bench *bench, struct error *err);

// Noise, in no time: normal initialisation of half a billion weights takes half a minute.
struct model;
void bench_fill_weights(struct model *model);

// Token masks of JSON by schema, with the tokenizer of a directory.
int bench_json(struct bench *bench, struct error *err);

#endif
