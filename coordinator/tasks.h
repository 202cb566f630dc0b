// SPDX-License-Identifier: Apache-2.0
// What the coordinator knows, and how tasks and leases change their state; private to the
// coordinator. Every call is O(log n), but for the dependents that a task releases.
#ifndef MEMO_COORDINATOR_TASKS_H
#define MEMO_COORDINATOR_TASKS_H

#include "coordinator/blocks.h"
#include "coordinator/coordinator.h"
#include "coordinator/durations.h"
#include "coordinator/leases.h"
#include "coordinator/room_queue.h"

#define NO_TASK UINT32_MAX
#define NO_WORKER (-1)
#define NO_EDGE UINT32_MAX
#define MAX_LEASES 2 // of one task

enum task_state {
    TASK_WAITING,
    TASK_CLOSED,
    TASK_PENDING,
    TASK_LEASED,
    TASK_SETTING_ASIDE,
    TASK_DONE_STATE,
    TASK_ASIDE,
};

// Of a task in another job's block. It ends when the block becomes this job's.
enum task_backup {
    BACKUP_NONE,
    BACKUP_OURS,   // PENDING or LEASED, or CLOSED again when a worker left
    BACKUP_FAILED, // not tried again
};

// A doubly linked list of task numbers; every task is in at most one.
struct task_list {
    uint32_t first;
    uint32_t last;
};

struct task {
    enum task_state state;
    bool announced; // the set-aside action was handed out
    bool late;      // in the list of late tasks
    enum task_backup backup;
    int attempts;
    uint32_t priority;
    uint32_t prerequisites;   // that are not final
    uint32_t first_dependent; // edge
    uint32_t block;
    uint32_t leases[MAX_LEASES]; // NO_LEASE behind the last one
    uint32_t next;               // in its list
    uint32_t previous;
    uint64_t queued; // when it became pending, in a count of such events
    char *reason;    // of the last failure
};

// A task that waits for another.
struct edge {
    uint32_t dependent;
    uint32_t next; // edge of the same prerequisite
};

struct worker {
    bool present;
    bool stop_sent;
    bool known;  // has joined at some time
    bool silent; // let a lease expire and has reported nothing since
    uint32_t window;
    uint32_t limit; // 1 to window
    uint32_t held;  // leases
    uint64_t turn;  // of its last lease
};

struct drop {
    uint32_t task;
    int worker;
};

struct coordinator {
    struct coordinator_options options;
    struct task *tasks;
    struct worker *workers;
    struct edge *edges;
    size_t edge_count;
    size_t edge_capacity;
    struct index_heap pending;
    uint64_t queued;
    struct leases leases;
    struct durations *durations;
    struct task_list late;  // with one lease, which is late
    struct task_list aside; // to be set aside
    struct drop *drops;     // to be told, a stack
    size_t drop_count;
    size_t drop_capacity;
    struct blocks blocks;
    double next_claim_seconds; // refused blocks are asked for again
    uint32_t next_backup;      // tasks below this one are still to be asked for
    double own_work_seconds;   // when a task of this job's blocks was last leased, or committed
    struct room_queue *room;
    uint64_t turn;         // leases given
    size_t silent_workers; // present ones
    size_t known_workers;
    size_t told_to_stop; // present ones
    size_t next_stop;    // where the search for a worker to stop begins
    bool stopping;
    double now_seconds;
    struct coordinator_counts counts;
};

void task_list_init(struct task_list *list);
void task_list_append(struct coordinator *c, struct task_list *list, uint32_t number);
void task_list_remove(struct coordinator *c, struct task_list *list, uint32_t number);
bool task_goes_first(const void *tasks, uint32_t a, uint32_t b); // of the pending ones

// Nothing but its block keeps the task from being leased: it is PENDING, or CLOSED.
void task_make_ready(struct coordinator *c, uint32_t number);
// Takes the task out of the lists of its state; the caller gives it a new state.
void task_detach(struct coordinator *c, uint32_t number);
bool task_is_final(const struct task *task);
// worker: whose result it is, or NO_WORKER; whoever else holds the task is told to drop it. False:
// it was final already.
bool task_finish(struct coordinator *c, uint32_t number, enum task_state state, int worker);
// A task with one lease that is late can be leased once more: keeps the list of these.
void task_update_late(struct coordinator *c, uint32_t number);
uint32_t task_find_lease(const struct coordinator *c, uint32_t number, int worker);

// The lease ends without a result. When it was the task's last one the task is pending again or,
// when its attempts are spent, to be set aside.
void lease_give_back(struct coordinator *c, uint32_t number);
void lease_fail(struct coordinator *c, uint32_t number, const char *reason); // an attempt is spent

void worker_update_room(struct coordinator *c, int number); // after a change of what it may hold
void worker_set_limit(struct coordinator *c, int number, uint32_t limit); // cut to 1 to the window
void worker_set_silent(struct coordinator *c, int number, bool silent);
void worker_reported(struct coordinator *c, int number);

#endif
