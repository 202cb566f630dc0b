// SPDX-License-Identifier: Apache-2.0
// Numbered requests and what became of them. For tests only.
#ifndef MEMO_TESTS_HTTP_LOAD_H
#define MEMO_TESTS_HTTP_LOAD_H

#include "worker/http/lm_http.h"

#include <stdbool.h>

// An object with an array of question and answer pairs and a judgement.
extern const char load_schema[];

// Short delays between tries, so that faults pass quickly; long timeouts, so that a busy machine is
// none; model "scripted".
struct lm_http_options load_options(const char *urls);
struct lm *load_create(const struct lm_http_options *options); // asserts

// Request i: every second one asks for JSON; its user's message names i.
void load_submit(struct lm *lm, uint64_t id);

struct load_result {
    int times; // a result came
    enum lm_end end;
    char *answer; // NUL-terminated
    char *problem;
    uint32_t prompt_tokens, cached_tokens, output_tokens;
};

// Polls until the model is idle; results[id] for id < count. Returns the last poll's value.
enum lm_poll load_drain(struct lm *lm, struct load_result *results, size_t count,
                        struct error *err);
void load_release(struct load_result *results, size_t count);

#endif
