// SPDX-License-Identifier: Apache-2.0
// What the files of `memo merge` share.
#ifndef MEMO_JOBS_MERGE_JOB_H
#define MEMO_JOBS_MERGE_JOB_H

#include "base/options.h"
#include "jobs/run_directory.h"
#include "jobs/sweep.h"
#include "worker/merge/config.h"
#include "worker/merge/merge.h"

struct merge_job_options {
    const char *base;
    struct option_list vectors;
    struct option_list models;
    const char *config;
    const char *method;
    struct option_list weights;
    struct option_list density;
    double lambda;
    const char *semantics;
    const char *trim;
    const char *rescale;
    int64_t seed;
    const char *dtype;
    struct option_list sweep;
    struct option_list data;
    int64_t sample;
    double memory;
    int64_t threads;
    const char *out;
};

extern const struct option merge_option_table[]; // ends with an option without a name

struct merge_state {
    const struct merge_job_options *options;
    struct group *group;
    struct merge_config config; // base, models and recipe, from a file or from the options
    struct sweep sweep;
    char *partial;
    char *identity;           // as it is recorded
    char **outs;              // [sweep.count]
    struct run_directory run; // rank 0
    struct merge_report report;
};

// The options, or the mergekit configuration that they name, as a recipe and the settings of a
// sweep.
int merge_read_request(struct merge_state *state, struct error *err);

// Prints how well each model of the sweep answers the data, the best first.
int merge_score_sweep(const struct merge_state *state, struct error *err);

#endif
