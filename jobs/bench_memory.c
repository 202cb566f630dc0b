// SPDX-License-Identifier: Apache-2.0
#include "jobs/bench.h"

double bench_memory_taken(struct device *device, struct device_memory before)
{
    const struct device_memory now = device_memory_usage(device);
    return before.free > now.least_free ? (double)(before.free - now.least_free) : 0;
}

void bench_report_memory(const struct bench *bench, double planned, double taken)
{
    if (taken > 0)
        bench_report(bench, "memory: taken", taken / 1e9, "GB", planned > 0 ? taken / planned : 0,
                     planned > 0 ? "the plan" : NULL);
}
