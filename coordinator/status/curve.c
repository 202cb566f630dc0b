// SPDX-License-Identifier: Apache-2.0
#include "coordinator/status/curve.h"

static void halve(struct status_curve *curve)
{
    size_t kept = 0;
    for (size_t i = 1; i < curve->count; i += 2) // the last one stays
        curve->samples[kept++] = curve->samples[i];
    curve->count = kept;
    curve->interval_seconds *= 2;
}

void status_curve_add(struct status_curve *curve, struct status_sample sample)
{
    if (curve->interval_seconds <= 0)
        curve->interval_seconds = 1;
    // callers come about once a second, not on the dot
    const double due =
        curve->count ? curve->samples[curve->count - 1].seconds + curve->interval_seconds - 0.5 : 0;
    if (sample.seconds < due)
        return;
    if (curve->count == STATUS_CURVE_SAMPLES)
        halve(curve);
    curve->samples[curve->count++] = sample;
}
