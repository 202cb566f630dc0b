// SPDX-License-Identifier: Apache-2.0
// A worker's hands: takes tasks of a plan to a generator, and what it made into segments.
//
// The input of a group's task are the pairs of its chunks' tasks, which other workers may have
// committed: they are read from the segments on disk. A file server may show these late, hence a
// group's task waits here, and is given up only after GENERATE_MEMBER_SECONDS.
#ifndef MEMO_JOBS_GENERATE_RUNNER_H
#define MEMO_JOBS_GENERATE_RUNNER_H

#include "base/fs.h"
#include "coordinator/agent.h"
#include "datasets/reflections_index.h"
#include "jobs/task_figures.h"
#include "jobs/task_plan.h"

#define GENERATE_MEMBER_SECONDS 120.0
#define GENERATE_REFRESH_SECONDS 0.5 // between two looks into the directory

struct generate_runner {
    // The caller's.
    const struct corpus *corpus;
    struct generator *generator;
    const struct task_plan *plan;
    struct reflections_index *index; // of the output directory
    struct fs *fs;
    const char *attempt;    // directory of this attempt's segments
    const char *owner_path; // of the job's claims, NULL: it made none
    int rank;
    uint64_t seed;
    double (*clock)(void); // seconds

    struct segment_writer *segment;
    unsigned segments;           // committed by this rank
    struct task_figures figures; // of what goes into the segment
    struct flying_task *in_flight;
    size_t in_flight_count;
    struct waiting_task *waiting; // for the pairs of their chunks
    size_t waiting_count;
    double refreshed_seconds;
};

// The fields above the gap are set before; the rest is zero.
void generate_runner_open(struct generate_runner *runner);
void generate_runner_close(struct generate_runner *runner);

// For the coordinator's agent; the runner outlives it.
struct task_runner generate_runner_interface(struct generate_runner *runner);

// Commits a segment of its own that says the task was set aside; as task_runner's commit.
int generate_runner_set_aside(const struct generate_runner *runner, uint32_t task,
                              const char *reason, struct error *err);

#endif
