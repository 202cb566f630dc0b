// SPDX-License-Identifier: Apache-2.0
// A simulated cluster in one thread, driven by a seed: the real coordinator, agents and claims of
// up to four jobs on one run directory, over a network, processes and a file server that misbehave.
// One seed is one story, and it repeats exactly.
//
// What is real       coordinator.c, agent.c, protocol.c (messages are encoded and decoded),
//                    sharing.c, claims.c, fs_write_atomic, reflections_begin_attempt,
//                    segment_names_list.
// Clock              a queue of events ordered by time. Every job has a clock of its own, and so
// has
//                    the file server, whose clock jumps.
// Network            every message is delayed on its own, so that messages overtake each other; it
//                    may be lost or come twice. A new process of a worker is a new connection:
//                    HELLO and BYE of the old one are dropped, its other messages may still arrive.
// Tasks              take a random time. Poisoned ones always fail or, a few, never end.
// Dependencies       in half of the stories the last tasks wait for a few earlier ones, in layers
//                    too, and have priorities.
// Workers            run real agents; some are thirty times slower. A process may die between any
//                    two actions: before and after a message, a task, a commit, and between any two
//                    operations on files. It comes back, or is declared lost.
// Files              disk.h: what was not synced may be lost, torn or reordered when a machine or
//                    everything crashes; writes fail as the disk is full. Rows are opaque.
// Jobs               begin at any time, are asked to stop, killed, lose power together, and are
//                    paused between any two operations on files while the others go on: a job that
//                    wakes up goes on in the middle of what it did. Each is started again until it
//                    has seen everything done.
// Supervisor         kills a worker that never got its HELLO through, and one that does not leave
//                    within a minute after STOP was sent, and tells the coordinator of lost
//                    workers.
//
// Faults end after a while, so that every story must come to its end. Promises checked: after
// every event the coordinator's counts equal those of a plain model kept beside it (model.h), which
// includes that every lease is held by a present worker; no lease of a final task, of a block that
// is not the job's and of which it has not won the backup, before every prerequisite has a row on
// disk, while a task of higher priority is free, above the worker's limit, to somebody absent; no
// second lease of a task that is not late or while others are pending; a result is reported only
// after its commit succeeded; set aside only after all attempts; a new life of any job finds every
// task whose commit had succeeded; nobody idles while tasks wait; no block and no backup has two
// owners that count, a backup is asked for by a job that has nothing else to do and of nothing that
// is its own, and never set aside; no job that beats on time is taken for dead. At the end: every
// task has a row, every row comes whole from one execution of a task that was leased, and by the
// reader's rule every task counts once; a poisoned one never as done; in a story without faults
// nothing is stored twice.
#ifndef MEMO_TESTS_SIM_SIM_H
#define MEMO_TESTS_SIM_SIM_H

#include "base/error.h"
#include "coordinator/coordinator.h"

#include <stdio.h>

// The state machine under test: the real functions, or a wrapper with a planted bug.
struct sim_machine {
    const char *name;
    void *(*create)(const struct coordinator_options *options);
    struct coordinator *(*inner)(void *machine); // for sharing.c
    void (*destroy)(void *machine);
    void (*depend)(void *machine, uint32_t task, uint32_t prerequisite);
    void (*set_priority)(void *machine, uint32_t task, uint32_t priority);
    void (*restore)(void *machine, uint32_t task, bool set_aside);
    void (*handle)(void *machine, const struct coordinator_event *event);
    bool (*next_action)(void *machine, struct coordinator_action *out);
    bool (*ended)(const void *machine);
    bool (*complete)(const void *machine);
    struct coordinator_counts (*counts)(const void *machine);
    // Bugs of others than the machine.
    bool skips_directory_sync; // of the file operations
    bool takes_live_claims;    // of the claims: whose they are is never known
    bool mixes_executions;     // of the workers
    bool cleans_up_early;      // of the jobs: others' claims as well
};

extern const struct sim_machine sim_real_machine;
extern const struct sim_machine sim_planted_bugs[];
extern const size_t sim_planted_bug_count;

struct sim_stats {
    size_t tasks;
    size_t workers;
    size_t jobs;
    size_t runs; // starts of jobs
    size_t events;
    size_t executions;
    size_t duplicate_rows; // rows that do not count
    size_t crashes;
    size_t aside;
    size_t backups; // won
};

// Plays one seed. -1 when a promise was broken or the job does not end; err says which and when.
// story may be NULL.
int sim_run(uint64_t seed, const struct sim_machine *machine, FILE *story, struct sim_stats *stats,
            struct error *err);

#endif
