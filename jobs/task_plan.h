// SPDX-License-Identifier: Apache-2.0
// What a generation run has to do: one task per chunk of the chosen documents, in corpus order,
// then one per group of chunks, which waits for its chunks. Every rank, and the audit, builds the
// same plan from the same corpus and options.
#ifndef MEMO_JOBS_TASK_PLAN_H
#define MEMO_JOBS_TASK_PLAN_H

#include "base/error.h"
#include "base/hash.h"
#include "datasets/corpus.h"
#include "datasets/reflections.h"
#include "worker/reflect/generator.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// A part of the corpus as "K/N" (corpus_select_part). NULL or "1/1" is all of it.
struct corpus_part {
    int part;
    int parts;
};
int corpus_part_parse(const char *text, struct corpus_part *out, struct error *err);

struct planned_task {
    struct digest id;
    uint32_t chunk;          // index into corpus->chunks; of a group's task unused
    const uint32_t *members; // of a group's task: the tasks of its chunks, ascending
    size_t member_count;     // 0: a chunk's task
};

struct task_plan {
    struct planned_task *tasks; // those of chunks before those of groups
    size_t count;
    size_t chunk_tasks;
    size_t repeated;      // chunks left out because an earlier one has the same task
    struct digest digest; // of the ids: ranks compare it
    uint32_t *members;    // behind the tasks' members
};

// Groups of chunks that belong together. [count + 1] offsets into chunks.
struct plan_groups {
    const uint32_t *offsets;
    const uint32_t *chunks; // ascending inside a group
    size_t count;
};

struct task_plan_options {
    struct corpus_part part;
    struct plan_groups groups; // planned where they join two documents or more of the part
    uint64_t seed;
    enum reflection_step chunk_step; // of a chunk's task, in its identity; a group's is STEP_CROSS
    struct digest prompts;           // of the identities; zero when the generator has none
    struct digest sampling;
};

// No groups are planned when the generator makes nothing of them.
void task_plan_create(const struct corpus *corpus, struct generator *generator,
                      const struct task_plan_options *options, struct task_plan *out);
void task_plan_release(struct task_plan *plan);

// [plan->count], caller frees: groups before chunks, so that their chunks' pairs are fresh and no
// group is left to the end; long tasks before short ones, by powers of two of their tokens, so that
// tasks of one document stay together.
uint32_t *task_plan_priorities(const struct task_plan *plan, const struct corpus *corpus);

// [plan->count], caller frees: tokens of the text of each task, at least 1. What a task costs, up
// to a factor that all share.
double *task_plan_weights(const struct task_plan *plan, const struct corpus *corpus);

#endif
