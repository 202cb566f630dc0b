// SPDX-License-Identifier: Apache-2.0
// What became of each `memo update`: STATE/runs.jsonl, one object for each command that had the
// lock, in order, so that one look in the morning tells what happened at night:
//
//     started, ended    UTC
//     seconds
//     result            done, nothing new, stopped, failed, rolled back
//     round             the newest finished one afterwards, 0: none
//     reason            of a failure
//
// A command that was killed leaves no line; the round that it worked on is open then.
#ifndef MEMO_JOBS_UPDATE_NIGHTS_H
#define MEMO_JOBS_UPDATE_NIGHTS_H

#include "jobs/update_state.h"

struct update_night {
    const char *started;
    double seconds;
    const char *result;
    size_t round;
    const char *reason; // NULL: none
};
int update_night_add(const struct update_state *state, const struct update_night *night,
                     struct error *err);

// Whether the directory is a state of memo update.
bool update_nights_are_in(const char *directory);

// The last nights, the finished rounds, where the memory points to, and whether an update runs now;
// of an open round *open becomes its number, 0: none. Waits for nobody and changes nothing.
int update_nights_print(const char *directory, bool json, size_t *open, struct error *err);

#endif
