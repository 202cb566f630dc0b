// SPDX-License-Identifier: Apache-2.0
// The options of `memo generate`, which `memo audit` reads back from the run directory.
#ifndef MEMO_JOBS_GENERATE_H
#define MEMO_JOBS_GENERATE_H

#include "base/error.h"
#include "datasets/corpus.h"
#include "jobs/task_plan.h"
#include "worker/reflect/generator.h"

#include <stdint.h>

struct generate_options {
    const char *corpus;
    const char *generator;
    const char *out;
    const char *part;
    int64_t seed;
    double lease_seconds;
    int64_t max_attempts;
    double max_set_aside;
    double commit_seconds;
    double max_tasks_per_second;
    int64_t max_gaps;
};

// What the options name: the corpus, the generator and the plan that follows from them.
struct generation {
    struct corpus *corpus;
    struct generator *generator;
    struct task_plan plan;
};

int generation_open(const struct generate_options *options, struct generation *out,
                    struct error *err);
void generation_close(struct generation *generation);

#endif
