// SPDX-License-Identifier: Apache-2.0
// Every job that writes something keeps its records beside it: in OUT/run when the output is a
// directory, in OUT.run when it is a file:
//
//     options.json   the resolved options; `memo VERB --options FILE` takes it
//     log.txt        what was said, all attempts appended
//     metrics.jsonl  one object per step or second, all attempts appended
//     summary.json   how the last attempt ended: verb, state (running, done, stopped, failed),
//     times,
//                    and the job's own figures; `memo status` reads it
#ifndef MEMO_JOBS_RUN_DIRECTORY_H
#define MEMO_JOBS_RUN_DIRECTORY_H

#include "base/error.h"
#include "base/fs.h"
#include "base/json.h"
#include "base/options.h"

#include <stdbool.h>

struct run_directory {
    struct fs *fs;
    char *path;
    const char *verb;
    int log_fd;
    int metrics_fd;
    double started_seconds;
    char started[24];
    struct strbuf figures; // members of the summary that the job adds
};

// Creates what is missing, writes the options and marks the run as running. Only rank 0 of a job
// does.
int run_directory_open(struct run_directory *run, const char *output, bool output_is_directory,
                       const struct verb *verb, const void *options, struct error *err);

// Whether the run beside a directory ended as done with this figure `identity`, and its
// model.safetensors is still there. A model of a done run of another identity, or of no run at all,
// is an error: it would be overwritten.
int run_directory_was_done(const char *output, const char *identity, bool *out, struct error *err);

// Appends one line to metrics.jsonl; `object` is a JSON object without line breaks.
int run_directory_metric(struct run_directory *run, const struct strbuf *object, struct error *err);

// Figures for the summary; a repeated key is the caller's mistake.
void run_directory_int(struct run_directory *run, const char *key, int64_t value);
void run_directory_number(struct run_directory *run, const char *key, double value);
void run_directory_text(struct run_directory *run, const char *key, const char *value);

double run_directory_seconds(const struct run_directory *run);

// Writes the summary; code is the verb's exit code, reason its error text (may be NULL). Releases
// everything. Returns the code, or EXIT_FAILED with err set when a job that had gone well could not
// record it. A run that was not opened is left alone.
int run_directory_close(struct run_directory *run, int code, struct error *err);

#endif
