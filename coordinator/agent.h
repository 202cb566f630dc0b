// SPDX-License-Identifier: Apache-2.0
// The worker's end of the protocol: asks for tasks, has them run, commits results and reports them
// after the commit. What a task is, only the runner knows.
//
// New leases come only when earlier tasks were reported, so the agent asks for twice what the
// runner can use: while one half runs, the other waits its turn, and the runner is never left
// without work by a commit. A lease of a task that the agent still holds (it was given up as
// expired, and came back) changes nothing: no task runs twice at once.
#ifndef MEMO_COORDINATOR_AGENT_H
#define MEMO_COORDINATOR_AGENT_H

#include "base/error.h"
#include "base/hash.h"
#include "collectives/transport.h"
#include "coordinator/protocol.h"

#define TASK_RUNNER_FENCED 1

struct task_result {
    uint32_t task;
    bool failed;  // reason says why; nothing of the task is stored
    bool dropped; // as drop asked; nothing of the task is stored
    char reason[1024];
    uint64_t pairs;
    uint64_t tokens;
};

// Computes tasks. Supplied by the job, which binds a generator and a segment writer.
struct task_runner {
    void *state;
    uint32_t window; // most tasks it can use at once, at least 1
    int (*submit)(void *state, uint32_t task, struct error *err);
    // Works for a few milliseconds at most. 1: a task ended, *out says how; 0: none did; -1: the
    // worker cannot go on.
    int (*poll)(void *state, struct task_result *out, struct error *err);
    // Makes all results since the last commit durable: 0. TASK_RUNNER_FENCED: this job was taken
    // for dead and nothing was stored; the results are forgotten. -1: failed.
    int (*commit)(void *state, struct error *err);
    // The result of a submitted task is not needed any more: poll may end it as dropped. NULL:
    // it is stored all the same.
    void (*drop)(void *state, uint32_t task);
    size_t (*uncommitted_bytes)(void *state);
    // What the last commit made durable, in the job's own words for the job's eyes on rank 0
    // (cluster_job.figures): adds at most PROTOCOL_MAX_TEXT - 1 bytes of text. NULL: nothing.
    void (*figures)(void *state, struct strbuf *out);
};

struct agent_options {
    struct digest plan;          // of the task list; the coordinator's must be equal
    double commit_seconds;       // finished work waits at most so long for its commit
    size_t commit_bytes;         // and never grows beyond this
    double max_tasks_per_second; // 0: no limit
    double lease_seconds;        // of the coordinator, 0 when unknown; cluster_run fills it in
};

struct agent;

// Joins the coordinator at peer 0. transport and runner stay the caller's.
int agent_create(struct transport *transport, const struct task_runner *runner,
                 const struct agent_options *options, struct agent **out, struct error *err);
void agent_destroy(struct agent *agent);

int agent_receive(struct agent *agent, const struct message *message, struct error *err);

// One round of work. *busy is set when something happened, left alone otherwise. On failure the
// agent has told the coordinator why and is over.
int agent_step(struct agent *agent, double now_seconds, bool *busy, struct error *err);

// The agent has said goodbye; nothing more will come from it.
bool agent_ended(const struct agent *agent);

#endif
