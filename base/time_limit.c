// SPDX-License-Identifier: Apache-2.0
#include "base/time_limit.h"

struct time_limit time_limit_after(double now_seconds, double left_seconds)
{
    return (struct time_limit){.end_seconds = left_seconds > 0 ? now_seconds + left_seconds : 0};
}

void time_limit_observe(struct time_limit *limit, double seconds)
{
    if (seconds > limit->longest_seconds)
        limit->longest_seconds = seconds;
}

double time_limit_margin(const struct time_limit *limit)
{
    return TIME_LIMIT_FACTOR * limit->longest_seconds + TIME_LIMIT_END_SECONDS;
}

bool time_limit_is_near(const struct time_limit *limit, double now_seconds)
{
    return limit->end_seconds > 0 && now_seconds + time_limit_margin(limit) >= limit->end_seconds;
}
