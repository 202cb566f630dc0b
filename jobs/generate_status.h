// SPDX-License-Identifier: Apache-2.0
// What rank 0 of `memo generate` lets people see while it runs: the progress line, metrics.jsonl,
// the status server, and the attempt's file in the run directory; and what the run has cost, by
// which
// --max-gpu-hours stops it.
//
// GPU-hours are the GPUs that the run occupies (one per worker unless --gpus says otherwise) times
// the wall time since this process began, whether they compute or wait.
#ifndef MEMO_JOBS_GENERATE_STATUS_H
#define MEMO_JOBS_GENERATE_STATUS_H

#include "coordinator/shell.h"
#include "coordinator/status/forecast.h"
#include "coordinator/status/server.h"
#include "coordinator/status/view.h"
#include "jobs/generation.h"
#include "jobs/run_directory.h"
#include "jobs/task_figures.h"

struct generate_status {
    const struct generate_options *options;
    struct fs *fs;
    struct run_directory *run;
    struct status_server *server; // NULL: not wanted, or it could not listen
    const char *attempt;          // name of the attempt's directory
    char host[256];
    double began_seconds; // clock_seconds() of the process
    size_t workers;       // of the job
    double *weights;      // [tasks] of the present plan
    double total_weight, restored_weight;
    size_t tasks;
    struct cluster_progress earlier; // what an earlier plan of this run brought
    struct forecast forecast;
    double forecast_from_seconds; // of this plan
    struct status_curve curve;
    struct fading_rate rate;
    uint64_t rated_tokens;
    struct task_figures figures;
    struct view_aside *asides; // reasons are owned
    size_t aside_count, aside_capacity;
    double earlier_gpu_hours;
    double quote_gpu_hours;
    double next_read_seconds, next_file_seconds, next_metric_seconds;
    bool warned;      // that the attempt's file cannot be written
    bool over_budget; // --max-gpu-hours stopped the run
    struct cluster_progress last;
};

// Opens the server when one is asked for: that it cannot listen is a warning, for a long run is
// worth more than its page. An error: --max-gpu-hours is spent already, or the records of earlier
// attempts cannot be read. attempt: path of the attempt's directory, outlives the status.
int generate_status_open(struct generate_status *status, const struct generate_options *options,
                         struct run_directory *run, const char *attempt, size_t workers,
                         double began_seconds, struct error *err);
void generate_status_close(struct generate_status *status); // also one that was never opened

// Before each plan: the weights of its tasks, valid until the next call. [plan->count]
const double *generate_status_plan(struct generate_status *status, const struct task_plan *plan,
                                   const struct corpus *corpus, const bool *restored,
                                   const struct cluster_progress *earlier);

// About once a second; true: the budget is spent.
bool generate_status_progress(struct generate_status *status,
                              const struct cluster_progress *progress,
                              const struct worker_table *workers);
void generate_status_aside(struct generate_status *status, const char *reason);
// The last word: "done", "stopped" or "failed".
void generate_status_end(struct generate_status *status, const char *state);

double generate_status_gpu_hours(const struct generate_status *status); // of this attempt

#endif
