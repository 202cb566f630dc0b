// SPDX-License-Identifier: Apache-2.0
// The five steps of MeMo (arXiv 2605.15156) as a generator over any language model:
//
//   1a  direct facts, 1b indirect facts: two independent passes over a chunk
//   2   consolidation: pairs that belong together joined into further ones
//   3   verification: each pair judged by itself; rewritten and judged again, or dropped
//   4   entity surfacing: for every name in the pairs, questions that it answers
//   5   cross-document synthesis: pairs that join facts of a group's documents
//
// A chunk's task runs steps 1 to 4 (chunk_task.c), a group's task step 5 (group_task.c) on the
// pairs of its chunks' tasks. Every task is a state machine of its own: many are under way at once
// and wait for nothing but their own requests. Requests of tasks that began earlier go first, so
// that tasks end soon and what the model has cached of their documents is used while it is there.
//
// What a task makes depends on its input, the options, the seed and the model's answers, never on
// the order in which those come.
#ifndef MEMO_WORKER_REFLECT_H
#define MEMO_WORKER_REFLECT_H

#include "base/error.h"
#include "base/fs.h"
#include "worker/lm/lm.h"
#include "worker/reflect/generator.h"

struct reflect_options {
    struct fs *fs;       // where the two paths are read
    const char *prompts; // directory of prompts that replace built-in ones; NULL: none
    const char
        *config;       // file of sampling and limits that differ from the built-in ones; NULL: none
    const char *steps; // "1a,1b,2,3,4,5" or some of them; NULL: all
};

// lm is taken over, also on failure. Nothing of the options is needed afterwards.
int reflect_create(struct lm *lm, const struct reflect_options *options, struct generator **out,
                   struct error *err);

// Steps as a set of bits 1u << enum reflection_step. Unknown and repeated ones are errors, and so
// are steps of which none makes pairs from text.
int reflect_steps_parse(const char *text, unsigned *out, struct error *err);

// Parts of a task's identity: of the prompts, and of sampling and limits. generator must be one
// that reflect_create made. Both are part of generator->digest too.
struct digest reflect_prompts_digest(const struct generator *generator);
struct digest reflect_config_digest_of(const struct generator *generator);

#endif
