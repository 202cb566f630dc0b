// SPDX-License-Identifier: Apache-2.0
// A small process that starts engines for its parent. A rank forks it before MPI is initialised and
// before there are threads, so that what it starts has nothing of MPI: no variables, no
// descriptors, no session in common.
//
//     rank ---fork---> launcher ---fork, exec /proc/self/exe engine---> engine
//
// The launcher has one thread, so PR_SET_PDEATHSIG, which follows the thread that forked, is safe
// on both: when the rank dies, in whatever way, the kernel kills the launcher, and with it the
// engine. Launcher and engine ignore the signals that ask a job to stop; they end when the rank
// ends them.
#ifndef MEMO_WORKER_LAUNCHER_H
#define MEMO_WORKER_LAUNCHER_H

#include "base/error.h"

#include <sys/types.h>

#define LAUNCHER_CHANNEL 3 // the started process's descriptor of its socket

struct launcher;

// Forks the process. Call it while there is one thread.
int launcher_open(struct launcher **out, struct error *err);

// Kills what it started and ends it. Accepts NULL.
void launcher_close(struct launcher *launcher);

// Asks for `program engine`, with the socket as descriptor LAUNCHER_CHANNEL and output and errors
// into log. The descriptors stay the caller's. At most one process at a time.
int launcher_start(struct launcher *launcher, const char *program, int socket, int log,
                   struct error *err);

// Asks for SIGKILL; nothing happens when the process has ended.
int launcher_kill(struct launcher *launcher, struct error *err);

enum launcher_event_kind {
    LAUNCHER_STARTED,     // pid
    LAUNCHER_NOT_STARTED, // value: errno
    LAUNCHER_EXITED,      // pid, value: as waitpid gives it
};

struct launcher_event {
    enum launcher_event_kind kind;
    pid_t pid;
    int value;
};

// 1: *out is what happened, 0: nothing did, -1: the launcher is gone. Never waits.
int launcher_poll(struct launcher *launcher, struct launcher_event *out, struct error *err);

int launcher_descriptor(const struct launcher *launcher); // readable: poll has something to say
pid_t launcher_process(const struct launcher *launcher);

#endif
