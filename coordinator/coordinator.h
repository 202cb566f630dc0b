// SPDX-License-Identifier: Apache-2.0
// The coordinator's decisions as a pure state machine: events in, actions out. It has no clock, no
// files and no network, so that a simulator can drive it through any order of crashes and delays.
// Every event and every action costs O(log n), exceptions are named.
//
// Life of a task:
//
//     WAITING for prerequisites: all DONE or ASIDE
//        |
//     CLOSED: its block is not this job's (only with blocks)
//        |
//     PENDING --lease--> LEASED --committed--> DONE
//        ^                 |
//        |                 +-- lease expired, worker lost, or failed: attempts + 1; a fatal failure
//        |                 |   spends them all
//        +-- attempts < max_attempts
//        |
//        +-- otherwise SETTING_ASIDE --set_aside_committed--> ASIDE
//
// The truth is on disk: DONE and ASIDE mean that the task's row is in a committed segment. A result
// counts whenever it comes, also after its lease expired; the second one of a task changes nothing.
// A graceful leave gives tasks back without counting an attempt.
//
// A task may depend on others. It is leased only when each of them is final, so that what they gave
// is on disk; one that was set aside releases it as well. Of the tasks that can be leased those of
// the highest priority go first, and among equals those that have waited longest.
//
// Tasks are leased to the worker that holds fewest, up to its limit and a fair share of what is
// left. Limits are back-pressure: a worker's begins as its window, is halved when a task of it is
// late, and grows by one with each result. A worker that let a lease expire may be stuck: until it
// reports again it comes last and gets one task at a time, so that a dead node does not use up the
// attempts of good tasks.
//
// A lease is late after three times what 95 % of the tasks of its priority took (of this job, from
// lease to report), and expires after lease_seconds. When nothing is pending, a late task is leased
// to a second worker as well: the end of a job does not wait for its slowest node. The first result
// counts, and the other worker is told to drop the task. A task whose attempts are spent, or that
// one of its two workers gave up, is the other one's until that lease ends too.
//
// With blocks, several jobs work on the same tasks. A job leases tasks of its own blocks only. It
// asks for the next block when it has run out of pending tasks; while others hold what is left it
// asks again every claim_retry_seconds, and is told of what they have done. So that the first of
// several jobs does not take everything, none holds more than its share of the open tasks.
//
// The end of a run does not wait for its slowest job either. One that has neither leased nor
// committed anything of its own for as long as a task usually takes (and at least late_seconds)
// computes tasks of other jobs' blocks a second time, the last ones first, for owners begin with
// the first ones: a backup.
// It asks for each, so that no third job does the same one, and never has more than its share of
// what is open. The owner learns of the result as of any other, and its worker drops the task. A
// backup that fails costs no attempt and is not tried again: the owner judges its tasks.
#ifndef MEMO_COORDINATOR_COORDINATOR_H
#define MEMO_COORDINATOR_COORDINATOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct coordinator_options {
    size_t tasks;
    size_t max_workers;      // worker numbers are below this
    size_t expected_workers; // that will join; those who have not yet keep their share of the tasks
    double lease_seconds;    // a task unreported for so long is given to somebody else
    int max_attempts;        // then it is set aside
    double late_seconds;     // no lease is late before; 0: none ever is
    double claim_retry_seconds;
};

enum coordinator_event_kind {
    EVENT_WORKER_JOINED,       // worker, window
    EVENT_WORKER_LEFT,         // worker: it said goodbye; nothing is held against its tasks
    EVENT_WORKER_LOST,         // worker: it vanished
    EVENT_COMMITTED,           // worker, task: its row is durable
    EVENT_FAILED,              // worker, task, reason
    EVENT_SET_ASIDE_COMMITTED, // task
    EVENT_FOUND,               // task, set_aside: another job has committed its row
    EVENT_CLAIM_WON,           // block: it is this job's
    EVENT_CLAIM_REFUSED,       // block: it is another job's
    EVENT_BACKUP_WON,          // task: this job may compute it beside its block's owner
    EVENT_BACKUP_REFUSED,      // task: another job does
    EVENT_JOBS,                // jobs: so many share the tasks, this one among them
    EVENT_STOP_REQUESTED,
    EVENT_TICK, // nothing but the time
};

struct coordinator_event {
    enum coordinator_event_kind kind;
    double now_seconds; // never decreasing
    int worker;
    uint32_t window; // most tasks the worker wants to hold, at least 1
    uint32_t task;
    const char *reason; // FAILED: never NULL
    bool fatal;         // FAILED: all attempts are spent by this one
    bool set_aside;
    uint32_t block;
    size_t jobs; // at least 1
};

enum coordinator_action_kind {
    ACTION_LEASE,       // give task to worker
    ACTION_SET_ASIDE,   // commit a row that says so, then report EVENT_SET_ASIDE_COMMITTED
    ACTION_DROP,        // tell worker that task needs no result any more
    ACTION_CLAIM,       // try to claim block, then report EVENT_CLAIM_WON or EVENT_CLAIM_REFUSED
    ACTION_BACKUP,      // try to claim the task's backup, then report EVENT_BACKUP_WON or _REFUSED
    ACTION_STOP_WORKER, // tell worker to commit what it has and leave
};

struct coordinator_action {
    enum coordinator_action_kind kind;
    int worker;
    uint32_t task;
    const char *reason; // valid until the next event
    uint32_t block;
    double late_seconds; // LEASE: when it is late and when it expires
    double deadline_seconds;
    bool second; // LEASE: another worker holds the task as well
};

struct coordinator_counts {
    size_t tasks;
    size_t done;
    size_t aside;
    size_t waiting; // for prerequisites
    size_t leased;
    size_t workers;
    size_t retries;      // leases that expired, were lost or failed
    size_t late_results; // results for tasks that were already final
    size_t second_leases;
    size_t computed;  // results of this job's workers
    size_t elsewhere; // tasks that another job finished
    size_t jobs;      // that share the tasks
    size_t backups;   // leases of other jobs' tasks
};

struct coordinator;

struct coordinator *coordinator_create(const struct coordinator_options *options);
void coordinator_destroy(struct coordinator *coordinator);

// Before the first event, in any order with the others: task waits for the prerequisite, which has
// a lower number, so that no circle can close. Naming one twice is no error.
void coordinator_depend(struct coordinator *coordinator, uint32_t task, uint32_t prerequisite);

// Before the first event: tasks of a higher priority are leased before others. All begin with 0.
void coordinator_set_priority(struct coordinator *coordinator, uint32_t task, uint32_t priority);

// Before the first event, after priorities and dependencies: tasks first to first + count - 1 are
// leased only when their block, whose number is returned, is won. Blocks are numbered from 0 on and
// do not overlap; tasks outside of them are this job's.
uint32_t coordinator_add_block(struct coordinator *coordinator, uint32_t first, uint32_t count);

// Before the first event: the task's row was found on disk.
void coordinator_restore(struct coordinator *coordinator, uint32_t task, bool set_aside);

void coordinator_handle(struct coordinator *coordinator, const struct coordinator_event *event);

// Takes the next decision that follows from the events so far; false when there is none.
bool coordinator_next_action(struct coordinator *coordinator, struct coordinator_action *out);

// True when nothing is left to do or a stop was requested, and every worker has left.
bool coordinator_ended(const struct coordinator *coordinator);
bool coordinator_complete(const struct coordinator *coordinator); // every task is final

// Whether other jobs may have done what this one waits for: time to look at the disk.
bool coordinator_needs_news(const struct coordinator *coordinator);
bool coordinator_is_final(const struct coordinator *coordinator, uint32_t task);

struct coordinator_counts coordinator_counts(const struct coordinator *coordinator);

// How a worker stands, for people.
struct coordinator_worker {
    bool present;
    bool silent; // let a lease expire and has reported nothing since
    uint32_t held;
};
struct coordinator_worker coordinator_worker(const struct coordinator *coordinator, int worker);

#endif
