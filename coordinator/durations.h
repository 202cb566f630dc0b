// SPDX-License-Identifier: Apache-2.0
// How long tasks took, by class (tasks of one class are of like size): histograms with four bins to
// the octave. Every call is O(1).
#ifndef MEMO_COORDINATOR_DURATIONS_H
#define MEMO_COORDINATOR_DURATIONS_H

#include <stdint.h>

#define DURATION_CLASSES 128
#define DURATION_MINIMUM_SAMPLES 20 // fewer say nothing

struct durations;

struct durations *durations_create(void);
void durations_destroy(struct durations *durations);

void durations_add(struct durations *durations, uint32_t class, double seconds);

// An upper bound of the 95th percentile, up to a ninth of the samples old; INFINITY when there are
// too few. Classes from DURATION_CLASSES on are one.
double durations_usual(const struct durations *durations, uint32_t class);

#endif
