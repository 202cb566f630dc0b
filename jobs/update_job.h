// SPDX-License-Identifier: Apache-2.0
// What the files of `memo update` share.
#ifndef MEMO_JOBS_UPDATE_JOB_H
#define MEMO_JOBS_UPDATE_JOB_H

#include "base/options.h"
#include "base/time_limit.h"
#include "jobs/stage.h"
#include "jobs/update_state.h"

#include <stdint.h>

enum {
    UPDATE_GENERATE,
    UPDATE_TRAIN,
    UPDATE_VECTOR,
    UPDATE_MERGE,
    UPDATE_STAGES
}; // those behind ingest

struct update_stage {
    const char *verb;
    const char *output; // in the round's directory
    bool all_ranks;     // behind --launch
};
extern const struct update_stage update_stages[UPDATE_STAGES];

struct update_options {
    const char *state;
    const char *base;
    const char *launch;
    const char *ingest;
    const char *words[UPDATE_STAGES];
    struct option_list known;
    struct option_list vectors;
    bool rollback;
    double time_left;
};

struct update {
    const struct update_options *options;
    const struct option_list *paths;
    struct update_state state;
    size_t round;               // under work
    char *words[UPDATE_STAGES]; // of this round
    double began_seconds;       // this command's work on the round
    bool nothing_new;
    struct time_limit limit;
};

// --- update_round.c: the stages of a round ---

// Begins the round: keeps what its stages are called with.
int update_round_write(const struct update *update, struct error *err);
// A JSON file of the round's directory.
int update_round_json(const struct update *update, const char *name, struct arena *arena,
                      const struct json **out, struct error *err);
// Runs what is not done of the stages behind ingest, as the round began. *code is EXIT_DONE or
// EXIT_STOPPED; *pairs is what generate made: without a pair the other stages have nothing to do.
int update_round_run(struct update *update, int64_t *pairs, int *code, struct error *err);

void update_add_path(const struct update *update, struct words *words, const char *option,
                     const char *name);
void update_add_list(struct words *words, const struct option_list *list);
// The files of this name of the first so many rounds; those without a pair have no vector.
void update_add_files(const struct update *update, struct words *words, size_t rounds,
                      const char *name);

// --- update_history.c: finished rounds ---

int update_round_finish(struct update *update, int64_t pairs, struct error *err);
void update_print_stages(const struct update *update); // of the round that ended last
void update_print_history(const struct update_state *state);

#endif
