// SPDX-License-Identifier: Apache-2.0
#include "worker/train/schedule.h"

#include <math.h>
#include <string.h>

int schedule_parse_kind(const char *text, enum schedule_kind *out, struct error *err)
{
    static const char *const names[] = {"constant", "cosine", "linear"};
    for (int i = 0; i < 3; i++) {
        if (strcmp(text, names[i]) == 0) {
            *out = (enum schedule_kind)i;
            return 0;
        }
    }
    return error_set(err, "unknown schedule '%s': use one of %s", text, SCHEDULE_CHOICES);
}

double schedule_rate(const struct schedule *schedule, size_t step)
{
    if (step < schedule->warmup_steps)
        return schedule->peak * (double)(step + 1) / (double)schedule->warmup_steps;
    if (schedule->kind == SCHEDULE_CONSTANT || schedule->total_steps <= schedule->warmup_steps)
        return schedule->peak;
    const double progress = (double)(step - schedule->warmup_steps) /
                            (double)(schedule->total_steps - schedule->warmup_steps);
    const double left = progress < 1 ? 1 - progress : 0;
    if (schedule->kind == SCHEDULE_LINEAR)
        return schedule->peak * left;
    const double pi = 3.14159265358979323846;
    return schedule->peak * 0.5 * (1 + cos(pi * (1 - left)));
}
