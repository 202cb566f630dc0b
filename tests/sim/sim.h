// SPDX-License-Identifier: Apache-2.0
// A simulated cluster in one thread, driven by a seed: the real coordinator and the real agents
// over a network, processes and a disk that misbehave. One seed is one story, and it repeats
// exactly.
//
// What is real       coordinator.c, agent.c, protocol.c: the messages are encoded and decoded.
// Clock              a queue of events ordered by time; nothing else moves it.
// Network            every message is delayed on its own, so that messages overtake each other; it
//                    may be lost or come twice. A new process of a worker is a new connection:
//                    HELLO and BYE of the old one are dropped, its other messages may still arrive.
// Tasks              take a random time. Poisoned ones always fail or, a few, never end.
// Dependencies       in half of the stories the last tasks wait for a few earlier ones, in layers
//                    too, and have priorities.
// Workers            run real agents; some are thirty times slower. A process may die between any
//                    two actions: before and after a message, a task, a commit; in particular after
//                    the commit and before the report. It comes back, or is declared lost.
// Disk               rows (task, execution, done or set aside) in the order of their commits; a
//                    commit is atomic and survives everything. It may fail as full.
// The job            is killed as a whole, or asked to stop, and started again: the coordinator
// then
//                    knows what the disk holds and nothing else.
// Supervisor         kills a worker that never got its HELLO through, and one that does not leave
//                    within a minute after STOP was sent, and tells the coordinator of lost
//                    workers.
//
// Faults end after a while, so that every story must come to its end. Promises checked: after
// every event the coordinator's counts equal those of a plain model kept
// beside it, which includes that every lease is held by a present worker; no lease of a final task,
// none before every prerequisite has a row on disk, none while a task of higher priority is free,
// none above the window, none to somebody absent; a result is reported only after its row is
// durable; set aside only after all attempts; a restart knows every task that was final before;
// nobody idles while tasks wait. At the end: every task has a row, every row comes from a lease,
// and by the reader's rule (the earliest row counts) every task counts once; a poisoned one never
// as done.
#ifndef MEMO_TESTS_SIM_SIM_H
#define MEMO_TESTS_SIM_SIM_H

#include "base/error.h"
#include "coordinator/coordinator.h"

#include <stdio.h>

// The state machine under test: the real functions, or a wrapper with a planted bug.
struct sim_machine {
    const char *name;
    void *(*create)(const struct coordinator_options *options);
    void (*destroy)(void *machine);
    void (*depend)(void *machine, uint32_t task, uint32_t prerequisite);
    void (*set_priority)(void *machine, uint32_t task, uint32_t priority);
    void (*restore)(void *machine, uint32_t task, bool set_aside);
    void (*handle)(void *machine, const struct coordinator_event *event);
    bool (*next_action)(void *machine, struct coordinator_action *out);
    bool (*ended)(const void *machine);
    bool (*complete)(const void *machine);
    struct coordinator_counts (*counts)(const void *machine);
};

extern const struct sim_machine sim_real_machine;
extern const struct sim_machine sim_planted_bugs[];
extern const size_t sim_planted_bug_count;

struct sim_stats {
    size_t tasks;
    size_t workers;
    size_t runs; // starts of the job
    size_t events;
    size_t executions;
    size_t duplicate_rows; // rows that do not count
    size_t crashes;
    size_t aside;
};

// Plays one seed. -1 when a promise was broken or the job does not end; err says which and when.
// story may be NULL.
int sim_run(uint64_t seed, const struct sim_machine *machine, FILE *story, struct sim_stats *stats,
            struct error *err);

#endif
