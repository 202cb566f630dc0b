// SPDX-License-Identifier: Apache-2.0
#include "coordinator/status/forecast.h"

#include <math.h>

void forecast_observe(struct forecast *forecast, double seconds, size_t workers)
{
    if (seconds > forecast->seconds) {
        forecast->worker_seconds += (double)workers * (seconds - forecast->seconds);
        forecast->seconds = seconds;
    }
}

double forecast_remaining_seconds(const struct forecast *forecast, const struct forecast_work *work)
{
    if (work->left_tasks == 0)
        return 0;
    if (work->workers == 0 || work->done_weight <= 0 || forecast->worker_seconds <= 0)
        return -1;
    const double workers = (double)work->workers;
    const double by_weight = work->left_weight * forecast->worker_seconds / work->done_weight;
    const double limit = work->tasks_per_second_per_worker;
    const double by_limit = limit > 0 ? (double)work->left_tasks / limit : 0;
    return fmax(by_weight, by_limit) / workers;
}
