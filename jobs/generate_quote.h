// SPDX-License-Identifier: Apache-2.0
// What `memo generate` says before it spends anything: what is left to do, and about what that
// costs by the arithmetic and the assumptions of memo plan (cost_model.h).
#ifndef MEMO_JOBS_GENERATE_QUOTE_H
#define MEMO_JOBS_GENERATE_QUOTE_H

#include "jobs/generation.h"

// restored: [tasks of the plan] already done. gpus: that work at once.
void generate_quote_say(const struct generation *generation, const bool *restored, double gpus);

#endif
