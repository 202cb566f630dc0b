// SPDX-License-Identifier: Apache-2.0
// The parts of memo plan: its options, the quote that follows from them, and how it is written.
#ifndef MEMO_JOBS_PLAN_H
#define MEMO_JOBS_PLAN_H

#include "base/error.h"
#include "base/options.h"
#include "base/strbuf.h"
#include "jobs/cost_model.h"

// The paper's NarrativeQA (arXiv 2605.15156): books cut into chunks of 4,000 words that overlap by
// 400. How much text it took is assumed: the 355 stories of the test part, of 62,528 words on
// average (Kocisky et al. 2018, table 3). What the authors state of its cost is printed beside the
// quote.
#define CASE_WORDS (355 * 62528.0)
#define CASE_GENERATION_HOURS 240.0
#define CASE_TRAINING_HOURS 180.0

struct plan_options {
    const char *example;
    const char *corpus;
    double words;
    double chunk_words;
    const char *model;
    const char *memory_model;
    const char *hardware;
    const char *steps;
    double gpus;
    double rate_in, rate_out;
    const char *measured;
    struct option_list assume;
    double epochs;
    int64_t zero;
    const char *moments;
    const char *grad_dtype;
    int64_t micro_batch_tokens;
    int64_t keep;
    bool json;
    const char *out;
};

struct quote {
    const struct plan_options *options;
    struct cost_text text;
    struct cost_assumptions assume;
    struct cost_hardware hardware;
    struct cost_model generator, memory;
    struct cost_generation generation;
    struct cost_training training;
    bool measured;
};

// Reckons everything from options and assume, which are set.
int quote_make(struct quote *quote, struct error *err);

void quote_print(const struct quote *quote); // for people, to standard output
void quote_write_json(const struct quote *quote, struct strbuf *out); // "memo quote 1"

#endif
