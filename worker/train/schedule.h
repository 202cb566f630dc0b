// SPDX-License-Identifier: Apache-2.0
// Learning rate by step: linear warm-up over warmup_steps, then constant, cosine or linear to zero.
#ifndef MEMO_WORKER_TRAIN_SCHEDULE_H
#define MEMO_WORKER_TRAIN_SCHEDULE_H

#include "base/error.h"

#include <stddef.h>

enum schedule_kind { SCHEDULE_CONSTANT, SCHEDULE_COSINE, SCHEDULE_LINEAR };

#define SCHEDULE_CHOICES "constant|cosine|linear"

struct schedule {
    enum schedule_kind kind;
    double peak;
    size_t warmup_steps;
    size_t total_steps;
};

int schedule_parse_kind(const char *text, enum schedule_kind *out, struct error *err);

// step counts from 0; step 0 of a warm-up over n steps has peak / n.
double schedule_rate(const struct schedule *schedule, size_t step);

#endif
