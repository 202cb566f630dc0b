// SPDX-License-Identifier: Apache-2.0
// How the attempts on a run directory stand, by what they themselves wrote there last
// (OUT/run/attempts/*.json, coordinator/status/view.h): read from any machine that sees the
// directory, without touching the job.
#ifndef MEMO_JOBS_ATTEMPTS_H
#define MEMO_JOBS_ATTEMPTS_H

#include "base/error.h"
#include "base/fs.h"
#include "base/strbuf.h"

#include <stdbool.h>

// A running attempt writes every few seconds; unheard of for so long it has been killed or is
// stuck.
#define ATTEMPT_SILENT_SECONDS 60.0

struct attempts {
    struct strbuf *texts; // [count] JSON objects, by name
    size_t count;
    bool running; // one of them says so, and was heard of lately
};

// None: count is 0. Release *out.
int attempts_read(struct fs *fs, const char *run, struct attempts *out, struct error *err);
void attempts_release(struct attempts *attempts);

// Lines for people: the last attempt and all that are running; now is time(2)'s clock.
int attempts_print(const struct attempts *attempts, double now_unix, struct strbuf *out,
                   struct error *err);
// The last attempt's tokens per second over its time.
int attempts_plot(const struct attempts *attempts, int columns, int rows, struct strbuf *out,
                  struct error *err);
// One more member of an open object, a comma before it: ,"attempts":[...]
void attempts_json(const struct attempts *attempts, struct strbuf *out);

#endif
