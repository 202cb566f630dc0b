// SPDX-License-Identifier: Apache-2.0
// What the files of the shell share: its state, and the way from messages to events and from
// actions to messages.
#ifndef MEMO_COORDINATOR_SHELL_PRIVATE_H
#define MEMO_COORDINATOR_SHELL_PRIVATE_H

#include "coordinator/event_loop.h"
#include "coordinator/shell.h"

// Leases to one worker that follow one another travel in one message.
struct lease_batch {
    uint32_t tasks[256];
    size_t count;
};

struct shell {
    struct group *group;
    const struct cluster_job *job;
    struct transport *transport;
    struct coordinator *coordinator; // rank 0
    struct sharing sharing;          // rank 0, when the job shares its tasks
    struct lease_batch *batches;     // rank 0: [ranks]
    bool *left;                      // rank 0: [ranks] the agent there has said goodbye
    int agents_left;                 // the job ends when all have
    struct agent *agent;             // every other rank, or rank 0 alone
    struct event_loop loop;
    bool stop_told; // the coordinator knows
    double started_seconds;
    double next_progress_seconds;
    struct cluster_progress progress;
    struct worker_table workers;                 // rank 0
    char worker_failure[PROTOCOL_MAX_TEXT + 64]; // of the first worker that gave up
};

double shell_seconds(const struct shell *shell);                        // since the start
void shell_tell(struct shell *shell, enum coordinator_event_kind kind); // with nothing but the time
void shell_note_goodbye(struct shell *shell, int peer);

// Every message that has come, for both roles.
int shell_receive(struct shell *shell, bool *busy, struct error *err);

int shell_post(struct shell *shell, int peer, const struct message *message, struct error *err);
int shell_flush_leases(struct shell *shell, int worker, struct error *err);
int shell_act(struct shell *shell, const struct coordinator_action *action, struct error *err);

#endif
