// SPDX-License-Identifier: Apache-2.0
// The process that runs an engine for a rank: reads requests from its socket, works, and answers.
// It ends when the rank closes the socket, and is killed by the kernel when launcher or rank die.
// It takes no more requests than the model has capacity for, and computes nothing while the rank
// does not take its answers.
#ifndef MEMO_WORKER_ENGINE_CHILD_H
#define MEMO_WORKER_ENGINE_CHILD_H

#include "worker/lm/lm_engine.h"

struct engine_child_options {
    int socket; // taken over
    // Makes the model; lm_engine_create, or a test's own.
    int (*open)(const struct lm_engine_options *options, struct lm **out, struct error *err);
    // For tests of the whole binary: "KIND:TEXT", what happens when a request holds the text (see
    // engine_fault.h); NULL: nothing does.
    const char *fault;
};

// 0 when the rank has closed the socket; -1 when the engine broke, which the rank was told.
int engine_child_run(const struct engine_child_options *options, struct error *err);

#endif
