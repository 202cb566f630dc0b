// SPDX-License-Identifier: Apache-2.0
// One process that runs an engine (engine_child.h), seen from the rank: its start by the launcher,
// its socket, its log, and when it is to be killed.
//
//     ABSENT --start--> STARTING --> LOADING --READY--> SERVING
//        ^                  |           |                  |
//        +----- over -------+-----------+----- ENDING <----+
//
// It is killed when it takes more memory than it may, or says nothing: while it loads, when it
// neither computes nor faults pages in for silence_seconds, and while it has requests, when no
// message comes for so long.
#ifndef MEMO_WORKER_ENGINE_PROCESS_H
#define MEMO_WORKER_ENGINE_PROCESS_H

#include "worker/supervisor/frame_stream.h"
#include "worker/supervisor/launcher.h"
#include "worker/supervisor/log_lines.h"

#include <stdbool.h>
#include <stdint.h>

enum engine_state { ENGINE_ABSENT, ENGINE_STARTING, ENGINE_LOADING, ENGINE_SERVING, ENGINE_ENDING };

struct engine_process {
    // Set by the owner.
    struct launcher *launcher;
    const char *program;
    const char *model; // its name, for messages
    double silence_seconds;
    double memory_gb;

    enum engine_state state;
    struct frame_stream stream; // from STARTING until it is over; may be closed before
    char how[1536];             // when it is over: "was killed by signal 9 (Killed)"
    pid_t pid;                  // -1: none yet
    double started_seconds;

    struct log_lines log;
    bool has_exited;
    double since_seconds;  // in this state
    double sign_seconds;   // last sign of life
    double watch_seconds;  // next look at the process
    double report_seconds; // next line about loading
    uint64_t activity;
};

void engine_process_init(struct engine_process *process); // keeps what the owner has set

// Asks the launcher for a process and sends it the frame that opens the model.
int engine_process_start(struct engine_process *process, const struct strbuf *open,
                         struct error *err);

// READY came.
void engine_process_ready(struct engine_process *process);

// A message came, or the first request was sent.
void engine_process_sign(struct engine_process *process);

// Has it killed; why becomes how it ended, unless that is known already.
int engine_process_end(struct engine_process *process, const char *why, struct error *err);

// After the stream was read: takes note of what happened to the process and looks after it. 1: it
// is over, ABSENT, and `how` says in what way; 0: it is not; -1: neither this process nor another
// one can be started or ended any more.
int engine_process_watch(struct engine_process *process, bool has_requests, struct error *err);

// Waits until it has something to say, at most timeout_ms.
void engine_process_wait(const struct engine_process *process, int timeout_ms);

// Lets it end, kills it when it does not within seconds, and waits for that.
void engine_process_stop(struct engine_process *process);

#endif
