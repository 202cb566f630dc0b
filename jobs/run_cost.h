// SPDX-License-Identifier: Apache-2.0
// What a run directory has cost, over all attempts and all jobs that share it. Each attempt keeps
// OUT/run/attempts/NAME.json (coordinator/status/view.h), rewritten every few seconds, so that even
// one that is killed is counted up to then; nobody writes another's file.
#ifndef MEMO_JOBS_RUN_COST_H
#define MEMO_JOBS_RUN_COST_H

#include "base/error.h"
#include "base/fs.h"

// GPU-hours that all attempts but `except` have spent; NULL: all. No directory: 0.
int run_cost_spent(struct fs *fs, const char *run, const char *except, double *gpu_hours,
                   struct error *err);

// Replaces RUN/attempts/NAME.json without waiting for the disk: after a crash of the machine it may
// be the one before. The directory is made when it is missing.
int run_cost_write(struct fs *fs, const char *run, const char *name, const struct strbuf *json,
                   struct error *err);

#endif
