// SPDX-License-Identifier: Apache-2.0
// How much longer a run takes, from the weight (expected tokens) of what is done and of what is
// left:
//
//     remaining = left_weight / (done_weight / worker_seconds) / workers
//
// and never less than a limit of tasks per second allows. Weight, not the count of tasks, because
// long tasks go first: a tenth of the tasks may be a third of the work. (Fitting seconds per task
// and per token to the commits was tried on simulated runs and was worse wherever a worker has
// several tasks at once.) Work in flight counts as not done, so that a short run is overestimated
// by about the share of its tasks that are in flight.
#ifndef MEMO_COORDINATOR_STATUS_FORECAST_H
#define MEMO_COORDINATOR_STATUS_FORECAST_H

#include <stddef.h>

struct forecast {
    double worker_seconds; // workers times seconds, so far
    double seconds;        // of the last observation
};

// workers: present since the observation before. Call it about once a second.
void forecast_observe(struct forecast *forecast, double seconds, size_t workers);

struct forecast_work {
    double done_weight; // that this run has committed
    double left_weight;
    size_t left_tasks;
    size_t workers;                     // from now on
    double tasks_per_second_per_worker; // the limit, 0: none
};
// Negative while nothing is known: nothing done yet, or nobody there to do it.
double forecast_remaining_seconds(const struct forecast *forecast,
                                  const struct forecast_work *work);

#endif
