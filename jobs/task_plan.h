// SPDX-License-Identifier: Apache-2.0
// What a generation run has to do: one task per chunk of the chosen documents, in corpus order.
// Every rank, and the audit, builds the same plan from the same corpus and options.
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

struct task_plan {
    struct digest *ids; // [count]
    uint32_t *chunks;   // [count] index into corpus->chunks
    size_t count;
    size_t repeated;      // chunks left out because an earlier one has the same task
    struct digest digest; // of the ids: ranks compare it
};

// A part of the corpus as "K/N" (corpus_select_part). NULL or "1/1" is all of it.
struct corpus_part {
    int part;
    int parts;
};
int corpus_part_parse(const char *text, struct corpus_part *out, struct error *err);

void task_plan_create(const struct corpus *corpus, struct corpus_part part,
                      enum reflection_step step, struct generator *generator, uint64_t seed,
                      struct task_plan *out);
void task_plan_release(struct task_plan *plan);

#endif
