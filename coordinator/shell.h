// SPDX-License-Identifier: Apache-2.0
// The thin shell around the state machine: a libuv loop that turns messages, signals and time into
// events, and actions into messages. Rank 0 coordinates; every other rank runs an agent; a group of
// one does both.
#ifndef MEMO_COORDINATOR_SHELL_H
#define MEMO_COORDINATOR_SHELL_H

#include "base/error.h"
#include "collectives/group.h"
#include "coordinator/agent.h"
#include "coordinator/coordinator.h"
#include "coordinator/sharing.h"
#include "coordinator/worker_table.h"

#include <uv.h>

struct cluster_progress {
    struct coordinator_counts counts;
    uint64_t pairs; // committed in this run
    uint64_t tokens;
    double seconds; // since the start of this run
    size_t done_at_start;
    size_t agents;      // ranks that work, whether they have joined or not
    double weight_done; // of the tasks that became final in this run (cluster_job.weights)
};

// A task that waits until another is final (coordinator_depend).
struct cluster_dependency {
    uint32_t task;
    uint32_t prerequisite;
};

struct cluster_job {
    struct digest plan;
    size_t tasks;
    const struct cluster_dependency *dependencies; // rank 0 only
    size_t dependency_count;
    const uint32_t *priorities; // [tasks], NULL: all equal; rank 0 only
    const double *weights;      // [tasks] expected cost, any unit, NULL: 1 each; rank 0 only
    const bool *restored;       // [tasks] rows found on disk; rank 0 only
    const bool *restored_aside; // [tasks] those among them that were set aside
    const struct sharing_options *sharing; // with other jobs, NULL: no others; rank 0 only
    double lease_seconds;
    double late_seconds; // coordinator_options
    int max_attempts;
    const struct task_runner *runner; // ranks that run an agent
    struct agent_options agent;

    void *state; // for the callbacks below, called on rank 0
    // Commits a row that says the task was set aside: as task_runner's commit.
    int (*set_aside)(void *state, uint32_t task, const char *reason, struct error *err);
    // About once a second; true asks to stop. workers is valid during the call.
    bool (*progress)(void *state, const struct cluster_progress *progress,
                     const struct worker_table *workers);
    // What a worker's task_runner.figures said of its commit. NULL: not wanted.
    void (*figures)(void *state, const char *text);
    // Once, before the first round: the loop to add handles to. They are closed with the loop, so
    // their memory outlives cluster_run, and no close callback comes. NULL: not wanted.
    void (*attach)(void *state, uv_loop_t *loop);
};

enum cluster_end { CLUSTER_COMPLETE, CLUSTER_STOPPED };

// Collective. Runs until every task is final, or SIGTERM, SIGINT or SIGUSR2 asked to stop and the
// workers have committed what they had. *end and *progress are valid on every rank.
int cluster_run(struct group *group, const struct cluster_job *job, enum cluster_end *end,
                struct cluster_progress *progress, struct error *err);

#endif
