// SPDX-License-Identifier: Apache-2.0
// The flight record of a rank: its last collectives, kept while it runs and written to a file when
// something goes wrong, so that afterwards people see which rank was missing in which call. Format
// of DIRECTORY/rank-0002.json, one object:
//
//     format   1
//     rank, ranks, host, pid
//     reason   why it was written
//     written  seconds since 1970
//     step     of the job, or null before the first
//     calls    the last FLIGHT_CALLS ones, oldest first:
//              {transport, call, number, bytes, step, enter, leave}
//
// `number` counts the calls of one group, alike on all ranks; `enter` and `leave` are seconds since
// 1970 by the host's clock, `leave` is null while the rank is inside.
#ifndef MEMO_COLLECTIVES_FLIGHT_H
#define MEMO_COLLECTIVES_FLIGHT_H

#include "base/fs.h"
#include "base/strbuf.h"

#include <stdbool.h>
#include <stdint.h>

#define FLIGHT_CALLS 128 // some steps' worth; 10 KB of text

struct flight;

struct flight *flight_create(int rank, int ranks);
void flight_destroy(struct flight *flight); // accepts NULL

// The texts are constants of the program. Groups of several threads may share a record: each call
// takes a lock for a few stores.
uint64_t flight_enter(struct flight *flight, const char *transport, const char *call,
                      uint64_t number, size_t bytes);
void flight_leave(struct flight *flight, uint64_t entry); // what flight_enter returned

void flight_set_step(struct flight *flight, uint64_t step);
bool flight_step(struct flight *flight, uint64_t *step); // false before the first

// Replaces the rank's file.
int flight_write(struct flight *flight, struct fs *fs, const char *directory, const char *reason,
                 struct error *err);

// Whether the rank's file is there.
bool flight_exists(struct fs *fs, const char *directory, int rank);
// Removes the files of all ranks.
int flight_clear(struct fs *fs, const char *directory, struct error *err);

// What the files of a directory say together: a line for each rank that is missing in a call in
// which others wait, appended to `out` without a line break behind the last. Returns how many ranks
// are missing, or -1 on a file that cannot be read. A directory that is not there says nothing.
int flight_survey(struct fs *fs, const char *directory, struct strbuf *out, struct error *err);

#endif
