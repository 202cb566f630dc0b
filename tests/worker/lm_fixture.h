// SPDX-License-Identifier: Apache-2.0
// A model directory with random weights and a small tokenizer, and requests to it.
#ifndef MEMO_TESTS_WORKER_LM_FIXTURE_H
#define MEMO_TESTS_WORKER_LM_FIXTURE_H

#include "worker/lm/lm_engine.h"

enum { LM_FIXTURE_VOCABULARY = 420, LM_FIXTURE_POSITIONS = 1024 };

// The path of a fresh directory, which lm_fixture_remove removes and frees.
char *lm_fixture_directory(uint64_t seed);
void lm_fixture_remove(char *directory);

struct lm *lm_fixture_open(const char *directory, const struct lm_engine_options *options);

// Polls until everything has a result; results[i] belongs to id i, its answer is a copy.
struct lm_answer {
    bool is_there;
    enum lm_end end;
    struct strbuf answer;
    char problem[256];
    size_t forced_from;
    uint32_t prompt_tokens, cached_tokens, output_tokens;
};
void lm_fixture_keep(struct lm_answer *answers, size_t count, const struct lm_result *result);
void lm_fixture_collect(struct lm *lm, struct lm_answer *answers, size_t count);
void lm_fixture_release(struct lm_answer *answers, size_t count);

static inline struct lm_text lm_fixture_text(const char *text, size_t bytes)
{
    return (struct lm_text){text, bytes};
}

#endif
