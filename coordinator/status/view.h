// SPDX-License-Identifier: Apache-2.0
// How a run stands, as plain data, and the two forms in which it is told. The JSON is answered at
// /status, and the same text stands in OUT/run/attempts/NAME.json, where `memo status` finds it:
//
//     format            "memo status 1"
//     verb, output, attempt, host, started, updated (UTC), updated_unix
//     state             starting, running, stopping, done, stopped, failed
//     elapsed_seconds   of this attempt
//     tasks             {total, done, set_aside, waiting, leased, pending, done_at_start,
//                       retries, late_results}
//     pairs, tokens     committed by this attempt
//     tokens_per_second over the last minutes; null before the first commit
//     workers           {expected, present, silent, failed, shown}
//     gpus, gpu_hours   {spent, earlier, limit, forecast, quote}: spent by this attempt and, as
//                       `earlier`, by all others on this directory; limit, forecast (of the whole
//                       run) and quote are null when unknown
//     remaining_seconds null when unknown
//     steps             [{step, requests, prompt_tokens, cached_tokens, output_tokens}]
//     drops             [{step, reason, pairs}], the most frequent first
//     aside             [{reason, tasks}], the most frequent first
//     curve             {seconds: [], tokens_per_second: [], finished: []}
//     worker            [{worker, state, held, tasks, failed, pairs, tokens, tokens_per_second,
//                       heard_seconds_ago}], those in trouble first, VIEW_WORKERS at most
#ifndef MEMO_COORDINATOR_STATUS_VIEW_H
#define MEMO_COORDINATOR_STATUS_VIEW_H

#include "base/strbuf.h"
#include "coordinator/coordinator.h"
#include "coordinator/status/curve.h"
#include "coordinator/worker_table.h"

#define VIEW_WORKERS 1000 // rows shown; the counts are of all
#define VIEW_UNKNOWN (-1.0)

struct view_step {
    const char *step;
    uint64_t requests, prompt_tokens, cached_tokens, output_tokens;
};

struct view_drop {
    const char *step;
    const char *reason; // UTF-8
    uint64_t pairs;
};

struct view_aside {
    const char *reason; // UTF-8
    uint64_t tasks;
};

struct view {
    const char *verb, *output, *attempt, *host, *state, *started; // UTF-8
    double elapsed_seconds;
    double table_seconds; // now, on the clock of the workers' table
    struct coordinator_counts counts;
    size_t done_at_start;
    size_t expected_workers;
    uint64_t pairs, tokens;
    double tokens_per_second; // this and what follows: VIEW_UNKNOWN
    double gpus;
    double gpu_hours, earlier_gpu_hours;
    double limit_gpu_hours, forecast_gpu_hours, quote_gpu_hours;
    double remaining_seconds;
    const struct view_step *steps;
    size_t step_count;
    const struct view_drop *drops;
    size_t drop_count;
    const struct view_aside *asides;
    size_t aside_count;
    const struct status_curve *curve;
    const struct worker_table *workers;
};

void view_json(const struct view *view, struct strbuf *out);    // one line
void view_metrics(const struct view *view, struct strbuf *out); // Prometheus text format

#endif
