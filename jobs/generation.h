// SPDX-License-Identifier: Apache-2.0
// What the options of `memo generate` name: the corpus, the generator and the plan that follows
// from them. `memo audit` reads the options back from the run directory.
#ifndef MEMO_JOBS_GENERATION_H
#define MEMO_JOBS_GENERATION_H

#include "base/error.h"
#include "base/options.h"
#include "datasets/corpus.h"
#include "datasets/groups_join.h"
#include "datasets/reflections_index.h"
#include "jobs/task_plan.h"
#include "worker/reflect/generator.h"
#include "worker/supervisor/launcher.h"

#include <stdint.h>

struct generate_options {
    const char *corpus;
    const char *generator;
    const char *out;
    const char *model;
    const char *revision;
    const char *steps;
    const char *prompts;
    const char *config;
    const char *groups;
    const char *part;
    int64_t seed;
    const char *chat_template;
    const char *dtype;
    const char *backend;
    int64_t threads;
    bool batch_invariant;
    int64_t slots;
    int64_t context_tokens;
    int64_t cache_tokens;
    const char *supervise;
    double engine_seconds;
    double engine_memory;
    int64_t tries;
    double answer_seconds;
    double stall_seconds;
    double outage_seconds;
    double retry_seconds;
    double lease_seconds;
    int64_t max_attempts;
    double max_set_aside;
    double commit_seconds;
    double max_tasks_per_second;
    int64_t max_gaps;
    const char *claims;
    int64_t claim_tasks;
    double claim_seconds;
    int64_t status_port;
    const char *status_host;
    double gpus;
    double max_gpu_hours;
    const char *quote;
    double time_left;
};

extern const struct option generate_option_table[]; // ends with an option without a name

struct generation {
    const struct generate_options *options;
    struct corpus *corpus;
    struct generator *generator;
    struct task_plan_options how;
    struct task_plan plan;
    // --groups entities: the plan has the tasks of chunks alone, until they are done and
    // generation_add_groups adds those of groups.
    bool entities_follow;
};

// Whether generator, steps and part are written correctly; touches no file.
int generation_check(const struct generate_options *options, struct error *err);

double generation_lease_seconds(const struct generate_options *options); // after generation_check

// The options are the caller's and outlive the generation. threads, launcher: see
// language_model_open; with 0 threads the generator can only plan.
int generation_open(const struct generate_options *options, int threads, struct launcher *launcher,
                    struct generation *out, struct error *err);
void generation_close(struct generation *generation);

// Groups of the plan's chunks that share names which step 4 surfaced, as far as the index holds
// their pairs. Release *out.
void generation_find_entities(const struct generation *generation,
                              const struct reflections_index *index, struct chunk_groups *out);

// Plans anew, with these groups.
void generation_add_groups(struct generation *generation, const struct chunk_groups *groups);

#endif
