// SPDX-License-Identifier: Apache-2.0
// A language model made of rules, for tests of the five steps. What it answers depends on the
// request alone (its kind, texts and seed), as a real one's does; in which order answers come
// depends on `shuffle`. It keeps book of what it answered, and fails the test when it is used
// against the contract of lm.h.
#ifndef MEMO_TESTS_FAKE_LM_H
#define MEMO_TESTS_FAKE_LM_H

#include "base/strbuf.h"
#include "datasets/prompt_set.h"
#include "datasets/reflections.h"
#include "worker/lm/lm.h"
#include "worker/reflect/request_kind.h"

#include <stdbool.h>

// A request as the fake sees it. Texts are valid during the call.
struct fake_request {
    enum request_kind kind;
    const struct lm_request *lm;
    const char *prompt; // all parts of the user turn, joined; a NUL follows
    size_t prompt_bytes;
    const char *item;      // what stands behind the instruction
    const char *continued; // what stands behind the continuation's text; NULL: it is none
    uint64_t hash;         // of prompt and seed
};

struct fake_answer {
    enum lm_end end;
    struct strbuf text;
    size_t forced_from; // SIZE_MAX unless set
    const char *problem;
};

struct fake_lm {
    struct lm base;
    // Fills *answer, which is LM_STOP without text at first.
    void (*answer)(void *state, const struct fake_request *request, struct fake_answer *answer);
    void *state;
    uint64_t shuffle; // 0: first come, first served
    bool lose;        // forget what was submitted
    bool breaks;      // LM_POLL_BROKEN
    bool strays;      // results carry ids of nobody
    size_t requests[REQUEST_KINDS];
    size_t made[REFLECTION_STEPS]; // items in answers, complete or cut
    uint64_t prompt_tokens[REFLECTION_STEPS];
    uint64_t output_tokens[REFLECTION_STEPS];
    size_t most_in_flight;
    size_t *destroyed; // counted, if not NULL
    struct strbuf log; // the whole prompt of every request, when keep_log is set
    bool keep_log;
    struct prompt_set prompts; // the built-in ones
    struct fake_flight *flights;
    size_t flight_count;
    size_t flight_capacity;
    size_t polls;
    struct strbuf last; // text of the result delivered last
};

struct fake_lm *fake_lm_create(size_t capacity);

// Rules that use everything: pairs about a few names, some repeated, some unfit, some that cannot
// be mended; names; look-ups, some of them useless; comparisons, most of them empty; about one
// answer in eight is cut or unreadable. state is not used.
void fake_lm_rules(void *state, const struct fake_request *request, struct fake_answer *answer);

#endif
