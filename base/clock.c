// SPDX-License-Identifier: Apache-2.0
#include "base/clock.h"

#include <math.h>
#include <stdio.h>
#include <time.h>

int64_t clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

double clock_seconds(void)
{
    return (double)clock_ns() * 1e-9;
}

struct timespec clock_deadline(int wait_ms)
{
    const int64_t ns = clock_ns() + (int64_t)wait_ms * 1000000;
    return (struct timespec){ns / 1000000000, ns % 1000000000};
}

void clock_format_utc(char out[24])
{
    time_t now = time(NULL);
    struct tm utc;
    gmtime_r(&now, &utc);
    strftime(out, 24, "%Y-%m-%dT%H:%M:%SZ", &utc);
}

void clock_format_duration(double seconds, char *out, size_t out_bytes)
{
    if (!isfinite(seconds)) {
        snprintf(out, out_bytes, "unknown");
        return;
    }
    if (seconds < 0)
        seconds = 0;
    if (seconds < 59.95) { // what would print as "60.0 s" is a minute
        snprintf(out, out_bytes, "%.1f s", seconds);
        return;
    }
    if (seconds < 3599.5) {
        int whole = (int)(seconds + 0.5);
        snprintf(out, out_bytes, "%dm%02ds", whole / 60, whole % 60);
        return;
    }
    double minutes = floor(seconds / 60 + 0.5);
    double hours = floor(minutes / 60);
    snprintf(out, out_bytes, "%.0fh%02.0fm", hours, minutes - hours * 60);
}
