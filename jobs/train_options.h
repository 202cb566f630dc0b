// SPDX-License-Identifier: Apache-2.0
// The options of `memo train`.
#ifndef MEMO_JOBS_TRAIN_OPTIONS_H
#define MEMO_JOBS_TRAIN_OPTIONS_H

#include "base/options.h"

struct train_options {
    const char *base;
    struct option_list data;
    const char *out;
    const char *objective;
    const char *part;
    const char *chat_template;
    int64_t sample;
    int64_t max_tokens;
    int64_t epochs;
    int64_t batch;
    int64_t micro_batch_tokens;
    double learning_rate;
    const char *schedule;
    double warmup;
    double weight_decay;
    double clip;
    double beta1, beta2, epsilon;
    const char *dtype;
    int64_t lora_r;
    double lora_alpha, lora_dropout;
    const char *lora_targets;
    const char *moments;
    const char *grad_dtype;
    int64_t zero;
    const char *reduce;
    int64_t seed;
    bool loss_on_header;
    int64_t held_out;
    int64_t eval_steps;
    int64_t eval_answers;
    int64_t eval_answer_tokens;
    const char *best_by;
    bool best;
    const char *token_cache;
    const char *checkpoint_activations;
    double memory;
    int64_t checkpoint_steps;
    double checkpoint_minutes;
    int64_t keep;
    double time_left;
    const char *backend;
    int64_t threads;
    bool measure_products;
    double collective_seconds;
    const char *rendezvous; // NULL: MPI, or one process
};

extern const struct option train_option_table[]; // ends with an option without a name

#endif
