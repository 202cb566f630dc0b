// SPDX-License-Identifier: Apache-2.0
// What tasks dropped and cost, by step, summed: a worker sums up to its next commit and tells rank
// 0 with it (task_runner.figures), which sums over all. As text, one line per entry, numbers
// decimal, steps as in enum reflection_step:
//
//     d STEP PAIRS REASON
//     u STEP REQUESTS PROMPT CACHED OUTPUT
#ifndef MEMO_JOBS_TASK_FIGURES_H
#define MEMO_JOBS_TASK_FIGURES_H

#include "base/strbuf.h"
#include "coordinator/status/view.h"
#include "datasets/reflections.h"

#define TASK_FIGURES_DROPS 256 // kinds kept apart; more are not counted

struct task_figures {
    struct view_drop *drops; // reasons are owned
    size_t drop_count, drop_capacity;
    struct view_step steps[REFLECTION_STEPS];
};

void task_figures_add(struct task_figures *figures, const struct reflection_task *task);
// Adds at most `limit` bytes; entries that do not fit are left out. Then begins anew.
void task_figures_take(struct task_figures *figures, size_t limit, struct strbuf *out);
// What take wrote. Lines that are no entry are passed over.
void task_figures_add_text(struct task_figures *figures, const char *text);
void task_figures_sort(struct task_figures *figures); // drops, the most frequent first
// The steps that cost something, in their order. [REFLECTION_STEPS]
size_t task_figures_steps(const struct task_figures *figures, struct view_step *out);
void task_figures_release(struct task_figures *figures); // to empty

#endif
