// SPDX-License-Identifier: Apache-2.0
// Many inquiries at once over two language models: their requests share the models' batches.
#ifndef MEMO_WORKER_EXECUTIVE_H
#define MEMO_WORKER_EXECUTIVE_H

#include "worker/executive/inquiry.h"

struct executive {
    struct lm *executive, *memory; // may be the same one
    struct inquiry_limits limits;
    uint64_t seed;
    // Called when inquiry `at` has ended, in any order; it is destroyed afterwards.
    void (*ended)(void *context, size_t at, const struct inquiry *inquiry);
    void *context;
    bool (*stop)(void); // ends all that run; NULL: never
};

// -1: a model cannot be used any more. Questions end in NUL.
int executive_run(const struct executive *executive, const char *const *questions, size_t count,
                  struct error *err);

#endif
