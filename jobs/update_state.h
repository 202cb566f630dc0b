// SPDX-License-Identifier: Apache-2.0
// What `memo update` keeps from one night to the next:
//
//     STATE/state.json        the base model
//     STATE/rounds/0001/...   one directory for each time that there was something new
//     STATE/runs.jsonl        what became of each update (jobs/update_nights.h)
//     STATE/rounds/N/withdrawn  what round N has learned was rolled back: it is merged no more
//     STATE/history.jsonl     one object for each finished round, in order
//     STATE/memory            link to the newest merged model
//     STATE/lock              held while an update runs
//
// Round N is the first that history does not have. Everything changes by a rename, so that a state
// is never half-way between two rounds.
#ifndef MEMO_JOBS_UPDATE_STATE_H
#define MEMO_JOBS_UPDATE_STATE_H

#include "base/arena.h"
#include "base/error.h"
#include "base/json.h"

#include <stdbool.h>
#include <stddef.h>

struct update_state {
    char *directory;
    char *base;
    int lock_fd;
    struct arena memory;
    const struct json **history; // [finished]
    size_t finished;             // rounds
};

#define UPDATE_STATE_STOPPED 1

// Creates what is missing; base may be NULL when the state has one. Waits while another update
// holds the lock; UPDATE_STATE_STOPPED when a stop request came meanwhile. Processes started from
// now on hold the lock too, so that none outlives it unseen. Close also after a failure.
int update_state_open(const char *directory, const char *base, struct update_state *out,
                      struct error *err);
void update_state_close(struct update_state *state);

// For reading alone, without the lock. *runs: an update holds it. Close also after a failure.
int update_state_look(const char *directory, struct update_state *out, bool *runs,
                      struct error *err);

bool update_state_is_withdrawn(const struct update_state *state, size_t number);

// Takes back the newest round that is not withdrawn and that had something to learn: the memory
// points to the one before it, or to the base. *round becomes its number; 0: there is none.
int update_state_roll_back(const struct update_state *state, size_t *round, struct error *err);

// A path in round `number`, from 1. Caller frees.
char *update_state_path(const struct update_state *state, size_t number, const char *name);

// Appends to the history: the round is finished. `object` is one JSON object on one line.
int update_state_finish_round(struct update_state *state, const struct strbuf *object,
                              struct error *err);

// Lets STATE/memory point to a directory of the round; with number 0 to the path `name`.
int update_state_point(const struct update_state *state, size_t number, const char *name,
                       struct error *err);

#endif
