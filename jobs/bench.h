// SPDX-License-Identifier: Apache-2.0
// Shared by the files of `memo bench`.
#ifndef MEMO_JOBS_BENCH_H
#define MEMO_JOBS_BENCH_H

#include "base/options.h"
#include "collectives/group.h"
#include "datasets/packing.h"
#include "kernels/bench.h"

enum { BENCH_BATCHES_LIMIT = 16 };

struct bench_options {
    const char *shape;
    const char *batch;
    int64_t prompt, rows;
    const char *dtype;
    const char *tokenizer;
    struct option_list data;
    const char *checkpoint;
    int64_t layers, step_tokens, micro_batch_tokens, ranks, zero;
    int64_t documents, requests, document_tokens, own_tokens, answer_tokens;
    const char *moments;
    const char *grad_dtype;
    bool recompute;
    double seconds;
    const char *backend;
    int64_t threads;
    bool batch_invariant;
    bool json;
};

struct bench {
    const struct bench_options *options;
    bool is_usual;       // no part was named
    struct group *group; // of mpirun's ranks; only training shares work, rank 0 prints
    struct device *device;
    struct model *model; // small and float32, of those parts that say so
    struct bench_limits limits;
    size_t batches[BENCH_BATCHES_LIMIT]; // as given
    size_t batch_count;                  // 0: none given
};

// One measurement: a rate, and its share of a limit when there is one (of NULL: none).
void bench_report(const struct bench *bench, const char *what, double rate, const char *unit,
                  double share, const char *of);

// One JSON object: what, and these.
struct bench_figure {
    const char *name;
    double value;
};
void bench_report_figures(const char *what, const struct bench_figure *figures, size_t count);

// Of a device, at most, as it is asked for (cudaMemGetInfo) behind every allocation: bytes beyond
// those of `before`; 0 when the device does not say.
double bench_memory_taken(struct device *device, struct device_memory before);
// What was taken, if that is known, as a share of what was planned (0: nothing was).
void bench_report_memory(const struct bench *bench, double planned, double taken);

// Before a fork, and where memory is needed: the next part opens again what it needs.
void bench_close_device(struct bench *bench);

// Steps of training, by one rank and by several.
int bench_train(struct bench *bench, struct error *err);

// A checkpoint behind training, of a rank; collective.
struct trainer;
struct bench_checkpoint {
    double bytes;         // of all ranks
    double waited;        // seconds of the run: begin, settle, polls
    double seconds;       // until it stood
    double tokens, steps; // trained meanwhile, by all ranks
    double copy_bytes;    // per second, memory to memory, by one thread
};
int bench_checkpoint(struct trainer *trainer, const char *directory, struct bench_checkpoint *out,
                     struct error *err);
void bench_checkpoint_report(const struct bench *bench, const struct bench_checkpoint *checkpoint,
                             double tokens_per_second);

// Pairs of --data as token sequences of the given tokenizer's chat template.
int bench_pairs(const struct bench_options *options, struct sequence_set *out, struct error *err);

// Prefill and decode of a model whose weights do not change.
int bench_model(struct bench *bench, struct error *err);

// Every operation alone.
int bench_kernels(struct bench *bench, struct error *err);

// Many requests on few documents.
int bench_engine(struct bench *bench, struct error *err);

// Noise, in no time: normal initialisation of half a billion weights takes half a minute.
struct model;
void bench_fill_weights(struct model *model);

// Token masks of JSON by schema, with the tokenizer of a directory.
int bench_json(struct bench *bench, struct error *err);

#endif
