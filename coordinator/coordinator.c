// SPDX-License-Identifier: Apache-2.0
#include "coordinator/coordinator.h"

#include "base/mem.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define NO_TASK UINT32_MAX
#define NO_WORKER (-1)
#define MAX_REASON_BYTES 1024 // longer ones are cut; the worker's log has the rest

enum task_state { TASK_PENDING, TASK_LEASED, TASK_SETTING_ASIDE, TASK_DONE_STATE, TASK_ASIDE };

// A doubly linked list of task numbers; every task is in at most one list per link.
struct task_list {
    uint32_t first;
    uint32_t last;
};

struct task_link {
    uint32_t next;
    uint32_t previous;
};

enum link_kind {
    LINK_QUEUE, // pending tasks; leased tasks by deadline; tasks waiting to be set aside
    LINK_OWNER, // tasks held by one worker
    LINK_KINDS,
};

struct task {
    enum task_state state;
    bool announced; // the set-aside action was handed out
    int attempts;
    int worker;
    double deadline_seconds;
    struct task_link links[LINK_KINDS];
    char *reason; // of the last failure
};

struct worker {
    bool present;
    bool stop_sent;
    uint32_t window;
    uint32_t held;
    struct task_list tasks;
};

struct coordinator {
    struct coordinator_options options;
    struct task *tasks;
    struct worker *workers;
    struct task_list pending;
    struct task_list leased; // ascending deadline: every lease lasts equally long
    struct task_list aside;  // to be set aside
    size_t pending_count;
    int next_worker; // where the search for a worker with room begins
    bool stopping;
    double now_seconds;
    struct coordinator_counts counts;
};

static void list_init(struct task_list *list)
{
    list->first = NO_TASK;
    list->last = NO_TASK;
}

static void list_append(struct coordinator *c, struct task_list *list, enum link_kind kind,
                        uint32_t number)
{
    struct task_link *link = &c->tasks[number].links[kind];
    link->next = NO_TASK;
    link->previous = list->last;
    if (list->last == NO_TASK)
        list->first = number;
    else
        c->tasks[list->last].links[kind].next = number;
    list->last = number;
}

static void list_remove(struct coordinator *c, struct task_list *list, enum link_kind kind,
                        uint32_t number)
{
    const struct task_link link = c->tasks[number].links[kind];
    if (link.previous == NO_TASK)
        list->first = link.next;
    else
        c->tasks[link.previous].links[kind].next = link.next;
    if (link.next == NO_TASK)
        list->last = link.previous;
    else
        c->tasks[link.next].links[kind].previous = link.previous;
}

struct coordinator *coordinator_create(const struct coordinator_options *options)
{
    assert(options->tasks < NO_TASK && options->max_attempts > 0 && options->lease_seconds > 0);
    struct coordinator *c = mem_calloc(1, sizeof(*c));
    c->options = *options;
    c->counts.tasks = options->tasks;
    c->tasks = mem_calloc(options->tasks, sizeof(*c->tasks));
    c->workers = mem_calloc(options->max_workers, sizeof(*c->workers));
    list_init(&c->pending);
    list_init(&c->leased);
    list_init(&c->aside);
    for (size_t w = 0; w < options->max_workers; w++)
        list_init(&c->workers[w].tasks);
    for (uint32_t t = 0; t < options->tasks; t++) {
        c->tasks[t].worker = NO_WORKER;
        list_append(c, &c->pending, LINK_QUEUE, t);
    }
    c->pending_count = options->tasks;
    return c;
}

void coordinator_destroy(struct coordinator *c)
{
    if (!c)
        return;
    for (size_t t = 0; t < c->options.tasks; t++)
        free(c->tasks[t].reason);
    free(c->tasks);
    free(c->workers);
    free(c);
}

// Takes the task out of the lists of its state; the caller gives it a new state.
static void task_detach(struct coordinator *c, uint32_t number)
{
    struct task *task = &c->tasks[number];
    if (task->state == TASK_PENDING) {
        list_remove(c, &c->pending, LINK_QUEUE, number);
        c->pending_count--;
    } else if (task->state == TASK_LEASED) {
        struct worker *worker = &c->workers[task->worker];
        list_remove(c, &c->leased, LINK_QUEUE, number);
        list_remove(c, &worker->tasks, LINK_OWNER, number);
        worker->held--;
        task->worker = NO_WORKER;
        c->counts.leased--;
    } else if (task->state == TASK_SETTING_ASIDE && !task->announced) {
        list_remove(c, &c->aside, LINK_QUEUE, number);
    }
}

static bool task_is_final(const struct task *task)
{
    return task->state == TASK_DONE_STATE || task->state == TASK_ASIDE;
}

static void task_finish(struct coordinator *c, uint32_t number, enum task_state state)
{
    if (task_is_final(&c->tasks[number])) {
        c->counts.late_results++;
        return;
    }
    task_detach(c, number);
    c->tasks[number].state = state;
    if (state == TASK_DONE_STATE)
        c->counts.done++;
    else
        c->counts.aside++;
}

static void task_requeue(struct coordinator *c, uint32_t number)
{
    task_detach(c, number);
    c->tasks[number].state = TASK_PENDING;
    list_append(c, &c->pending, LINK_QUEUE, number);
    c->pending_count++;
}

// An attempt is spent: try again later, or set the task aside.
static void task_retry(struct coordinator *c, uint32_t number, const char *reason)
{
    struct task *task = &c->tasks[number];
    task->attempts++;
    c->counts.retries++;
    free(task->reason);
    task->reason = mem_printf("%.*s", MAX_REASON_BYTES, reason);
    if (task->attempts < c->options.max_attempts) {
        task_requeue(c, number);
        return;
    }
    task_detach(c, number);
    task->state = TASK_SETTING_ASIDE;
    task->announced = false;
    list_append(c, &c->aside, LINK_QUEUE, number);
}

void coordinator_restore(struct coordinator *c, uint32_t task, bool set_aside)
{
    assert(task < c->options.tasks && c->tasks[task].state == TASK_PENDING);
    task_finish(c, task, set_aside ? TASK_ASIDE : TASK_DONE_STATE);
}

static void worker_remove(struct coordinator *c, int number, bool lost)
{
    struct worker *worker = &c->workers[number];
    if (!worker->present)
        return;
    while (worker->tasks.first != NO_TASK) {
        if (lost)
            task_retry(c, worker->tasks.first, "the worker that held it was lost");
        else
            task_requeue(c, worker->tasks.first);
    }
    worker->present = false;
    c->counts.workers--;
}

static void worker_join(struct coordinator *c, int number, uint32_t window)
{
    worker_remove(c, number, true); // a worker that joins twice has lost what it held
    c->workers[number].present = true;
    c->workers[number].stop_sent = false;
    c->workers[number].window = window;
    c->counts.workers++;
}

static void expire_leases(struct coordinator *c)
{
    while (c->leased.first != NO_TASK &&
           c->tasks[c->leased.first].deadline_seconds <= c->now_seconds)
        task_retry(c, c->leased.first, "no result within the lease");
}

static void task_failed(struct coordinator *c, int worker, uint32_t number, const char *reason)
{
    struct task *task = &c->tasks[number];
    if (task->state == TASK_LEASED && task->worker == worker)
        task_retry(c, number, reason);
    // otherwise the lease had expired: that attempt is counted already
}

void coordinator_handle(struct coordinator *c, const struct coordinator_event *event)
{
    assert(event->now_seconds >= c->now_seconds);
    assert(event->worker >= 0 && (size_t)event->worker < c->options.max_workers);
    assert(event->task < c->options.tasks || event->task == 0);
    c->now_seconds = event->now_seconds;
    switch (event->kind) {
    case EVENT_WORKER_JOINED:
        worker_join(c, event->worker, event->window);
        break;
    case EVENT_WORKER_LEFT:
        worker_remove(c, event->worker, false);
        break;
    case EVENT_WORKER_LOST:
        worker_remove(c, event->worker, true);
        break;
    case EVENT_COMMITTED:
        task_finish(c, event->task, TASK_DONE_STATE);
        break;
    case EVENT_FAILED:
        task_failed(c, event->worker, event->task, event->reason);
        break;
    case EVENT_SET_ASIDE_COMMITTED:
        task_finish(c, event->task, TASK_ASIDE);
        break;
    case EVENT_STOP_REQUESTED:
        c->stopping = true;
        break;
    case EVENT_TICK:
        break;
    }
    expire_leases(c);
}

bool coordinator_complete(const struct coordinator *c)
{
    return c->counts.done + c->counts.aside == c->counts.tasks;
}

bool coordinator_ended(const struct coordinator *c)
{
    return (coordinator_complete(c) || c->stopping) && c->counts.workers == 0;
}

// A worker may hold its window, but never more than a fair share of what is left, so that nobody
// hoards the last tasks while others are idle.
static bool worker_has_room(const struct coordinator *c, const struct worker *worker)
{
    const size_t open = c->pending_count + c->counts.leased;
    const size_t share = (open + c->counts.workers - 1) / c->counts.workers;
    const size_t limit = worker->window < share ? worker->window : share;
    return worker->present && worker->held < limit;
}

static bool next_stop(struct coordinator *c, struct coordinator_action *out)
{
    for (size_t w = 0; w < c->options.max_workers; w++) {
        struct worker *worker = &c->workers[w];
        if (!worker->present || worker->stop_sent)
            continue;
        worker->stop_sent = true;
        *out = (struct coordinator_action){.kind = ACTION_STOP_WORKER, .worker = (int)w};
        return true;
    }
    return false;
}

static bool next_lease(struct coordinator *c, struct coordinator_action *out)
{
    if (c->pending_count == 0 || c->counts.workers == 0)
        return false;
    const int workers = (int)c->options.max_workers;
    for (int i = 0; i < workers; i++) {
        const int number = (c->next_worker + i) % workers;
        struct worker *worker = &c->workers[number];
        if (!worker_has_room(c, worker))
            continue;
        const uint32_t t = c->pending.first;
        struct task *task = &c->tasks[t];
        task_detach(c, t);
        task->state = TASK_LEASED;
        task->worker = number;
        task->deadline_seconds = c->now_seconds + c->options.lease_seconds;
        list_append(c, &c->leased, LINK_QUEUE, t);
        list_append(c, &worker->tasks, LINK_OWNER, t);
        worker->held++;
        c->counts.leased++;
        c->next_worker = (number + 1) % workers;
        *out = (struct coordinator_action){.kind = ACTION_LEASE, .worker = number, .task = t};
        return true;
    }
    return false;
}

bool coordinator_next_action(struct coordinator *c, struct coordinator_action *out)
{
    if (c->aside.first != NO_TASK) {
        const uint32_t t = c->aside.first;
        list_remove(c, &c->aside, LINK_QUEUE, t);
        c->tasks[t].announced = true;
        *out = (struct coordinator_action){
            .kind = ACTION_SET_ASIDE, .task = t, .reason = c->tasks[t].reason};
        return true;
    }
    if (c->stopping || coordinator_complete(c))
        return next_stop(c, out);
    return next_lease(c, out);
}

struct coordinator_counts coordinator_counts(const struct coordinator *c)
{
    return c->counts;
}
