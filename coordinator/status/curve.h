// SPDX-License-Identifier: Apache-2.0
// A value over the time of a run in bounded memory: samples at equal intervals; when there is no
// room every second one is dropped and the interval doubles.
#ifndef MEMO_COORDINATOR_STATUS_CURVE_H
#define MEMO_COORDINATOR_STATUS_CURVE_H

#include <stddef.h>

#define STATUS_CURVE_SAMPLES 240 // what a page a thousand points wide can show

struct status_sample {
    double seconds;
    double tokens_per_second;
    double finished; // tasks
};

struct status_curve {
    struct status_sample samples[STATUS_CURVE_SAMPLES];
    size_t count;
    double interval_seconds; // 0: one second
};

// Takes the sample when its time has come.
void status_curve_add(struct status_curve *curve, struct status_sample sample);

#endif
