// SPDX-License-Identifier: Apache-2.0
// When a job must begin to stop, so that it has ended when its time is up.
//
// What comes between a stop request and the end (a commit, a checkpoint) is observed while the job
// runs: the margin is TIME_LIMIT_FACTOR times the longest so far, and TIME_LIMIT_END_SECONDS for
// what is seen only once, at the end. A job that has not observed anything yet has that constant
// alone, so it should begin by what lets it observe.
#ifndef MEMO_BASE_TIME_LIMIT_H
#define MEMO_BASE_TIME_LIMIT_H

#include <stdbool.h>

#define TIME_LIMIT_FACTOR 2.0       // file servers have slow minutes
#define TIME_LIMIT_END_SECONDS 10.0 // last messages, MPI_Finalize, the launcher, a requeue

struct time_limit {
    double end_seconds;     // by the caller's clock; 0: no limit
    double longest_seconds; // that stopping was seen to need
};

// left_seconds: from now on; 0: no limit.
struct time_limit time_limit_after(double now_seconds, double left_seconds);

void time_limit_observe(struct time_limit *limit, double seconds);

double time_limit_margin(const struct time_limit *limit); // seconds
bool time_limit_is_near(const struct time_limit *limit, double now_seconds);

#endif
