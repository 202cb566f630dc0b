// SPDX-License-Identifier: Apache-2.0
// A fake model that says what a test has written down for it, request by request.
#ifndef MEMO_TESTS_LM_SCRIPT_H
#define MEMO_TESTS_LM_SCRIPT_H

#include "tests/worker/reflect_fixture.h"

#define SCRIPT_TURNS 4

// What the model says to the n-th request of a kind; the last answer stands for all that follow.
// NULL: an empty list, or the verdict "good".
struct lm_script {
    const char *says[REQUEST_KINDS][SCRIPT_TURNS];
    size_t cut_from[REQUEST_KINDS]; // bytes behind are forced; 0: none are
    bool length[REQUEST_KINDS];     // the first answer ends at the token budget
    size_t asked[REQUEST_KINDS];
    const char *fails[REQUEST_KINDS]; // with this problem
    enum lm_end end;                  // of failures
    // What was asked first, for the test to look at.
    uint64_t seeds[REQUEST_KINDS][SCRIPT_TURNS];
    char *prompts[REQUEST_KINDS][SCRIPT_TURNS]; // behind the instruction
};

void script_play(void *state, const struct fake_request *request, struct fake_answer *answer);
void script_release(struct lm_script *script);

// The result of the fixture's first chunk with these steps. The caller releases it.
struct generated script_run(struct lm_script *script, const char *steps);

uint32_t script_dropped(const struct generated *result, enum reflection_step step,
                        const char *reason);
void assert_pair(const struct generated *result, uint32_t ordinal, enum reflection_step step,
                 const char *question, const char *answer);

#define PAIR(question, answer) "{\"question\":\"" question "\",\"answer\":\"" answer "\"}"
#define PAIRS(items) "{\"pairs\":[" items "]}"
#define THREE                                                                                      \
    PAIRS(PAIR("Q one?", "A one.") "," PAIR("Q two?", "A two.") "," PAIR("Q three?", "A three."))

#endif
