// SPDX-License-Identifier: Apache-2.0
#include "coordinator/coordinator.h"

#include "base/mem.h"
#include "coordinator/index_heap.h"
#include "coordinator/room_queue.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define NO_TASK UINT32_MAX
#define NO_WORKER (-1)
#define MAX_REASON_BYTES 1024 // longer ones are cut; the worker's log has the rest

#define NO_EDGE UINT32_MAX

enum task_state {
    TASK_WAITING,
    TASK_PENDING,
    TASK_LEASED,
    TASK_SETTING_ASIDE,
    TASK_DONE_STATE,
    TASK_ASIDE,
};

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
    LINK_QUEUE, // leased tasks by deadline; tasks waiting to be set aside
    LINK_OWNER, // tasks held by one worker
    LINK_KINDS,
};

struct task {
    enum task_state state;
    bool announced; // the set-aside action was handed out
    int attempts;
    int worker;
    uint32_t priority;
    uint32_t prerequisites;   // that are not final
    uint32_t first_dependent; // edge
    uint64_t queued;          // when it became pending, in a count of such events
    double deadline_seconds;
    struct task_link links[LINK_KINDS];
    char *reason; // of the last failure
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
    uint32_t held;
    uint64_t turn; // of its last lease
    struct task_list tasks;
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
    struct task_list leased; // ascending deadline: every lease lasts equally long
    struct task_list aside;  // to be set aside
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

static bool goes_first(const void *state, uint32_t a, uint32_t b)
{
    const struct task *tasks = state, *x = &tasks[a], *y = &tasks[b];
    return x->priority != y->priority ? x->priority > y->priority : x->queued < y->queued;
}

static void pending_add(struct coordinator *c, uint32_t number)
{
    c->tasks[number].state = TASK_PENDING;
    c->tasks[number].queued = c->queued++;
    index_heap_set(&c->pending, number);
}

struct coordinator *coordinator_create(const struct coordinator_options *options)
{
    assert(options->tasks < NO_TASK && options->max_attempts > 0 && options->lease_seconds > 0);
    struct coordinator *c = mem_calloc(1, sizeof(*c));
    c->options = *options;
    c->counts.tasks = options->tasks;
    c->tasks = mem_calloc(options->tasks, sizeof(*c->tasks));
    c->workers = mem_calloc(options->max_workers, sizeof(*c->workers));
    c->room = room_queue_create(options->max_workers);
    index_heap_init(&c->pending, options->tasks, goes_first, c->tasks);
    list_init(&c->leased);
    list_init(&c->aside);
    for (size_t w = 0; w < options->max_workers; w++)
        list_init(&c->workers[w].tasks);
    for (uint32_t t = 0; t < options->tasks; t++) {
        c->tasks[t].worker = NO_WORKER;
        c->tasks[t].first_dependent = NO_EDGE;
        pending_add(c, t);
    }
    return c;
}

void coordinator_destroy(struct coordinator *c)
{
    if (!c)
        return;
    for (size_t t = 0; t < c->options.tasks; t++)
        free(c->tasks[t].reason);
    index_heap_release(&c->pending);
    free(c->edges);
    free(c->tasks);
    free(c->workers);
    room_queue_destroy(c->room);
    free(c);
}

// A silent worker is given one task at a time: should it hang, it spends few attempts of others.
static void worker_update_room(struct coordinator *c, int number)
{
    const struct worker *worker = &c->workers[number];
    const uint32_t limit = worker->silent && worker->window > 1 ? 1 : worker->window;
    const struct room_key key = {worker->silent, worker->held, worker->turn};
    if (worker->present && worker->held < limit)
        room_queue_set(c->room, number, key);
    else
        room_queue_remove(c->room, number);
}

static void worker_set_silent(struct coordinator *c, int number, bool silent)
{
    struct worker *worker = &c->workers[number];
    if (!worker->present || worker->silent == silent)
        return;
    worker->silent = silent;
    c->silent_workers = silent ? c->silent_workers + 1 : c->silent_workers - 1;
    worker_update_room(c, number);
}

// Takes the task out of the lists of its state; the caller gives it a new state.
static void task_detach(struct coordinator *c, uint32_t number)
{
    struct task *task = &c->tasks[number];
    if (task->state == TASK_PENDING) {
        index_heap_remove(&c->pending, number);
    } else if (task->state == TASK_WAITING) {
        c->counts.waiting--;
    } else if (task->state == TASK_LEASED) {
        struct worker *worker = &c->workers[task->worker];
        list_remove(c, &c->leased, LINK_QUEUE, number);
        list_remove(c, &worker->tasks, LINK_OWNER, number);
        worker->held--;
        worker_update_room(c, task->worker);
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

// What waited for this task alone can be leased now.
static void release_dependents(struct coordinator *c, uint32_t number)
{
    for (uint32_t e = c->tasks[number].first_dependent; e != NO_EDGE; e = c->edges[e].next) {
        const uint32_t dependent = c->edges[e].dependent;
        struct task *task = &c->tasks[dependent];
        if (--task->prerequisites > 0 || task->state != TASK_WAITING)
            continue;
        task_detach(c, dependent);
        pending_add(c, dependent);
    }
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
    release_dependents(c, number);
}

static void task_requeue(struct coordinator *c, uint32_t number)
{
    task_detach(c, number);
    pending_add(c, number);
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

void coordinator_depend(struct coordinator *c, uint32_t number, uint32_t prerequisite)
{
    assert(prerequisite < number && number < c->options.tasks);
    struct task *task = &c->tasks[number], *before = &c->tasks[prerequisite];
    if (task_is_final(task) || task_is_final(before))
        return;
    assert(c->edge_count < NO_EDGE);
    c->edges = mem_grow(c->edges, &c->edge_capacity, c->edge_count + 1, sizeof(*c->edges));
    c->edges[c->edge_count] = (struct edge){.dependent = number, .next = before->first_dependent};
    before->first_dependent = (uint32_t)c->edge_count++;
    task->prerequisites++;
    if (task->state == TASK_PENDING) {
        task_detach(c, number);
        task->state = TASK_WAITING;
        c->counts.waiting++;
    }
}

void coordinator_set_priority(struct coordinator *c, uint32_t number, uint32_t priority)
{
    assert(number < c->options.tasks);
    c->tasks[number].priority = priority;
    if (c->tasks[number].state == TASK_PENDING)
        index_heap_set(&c->pending, number);
}

void coordinator_restore(struct coordinator *c, uint32_t task, bool set_aside)
{
    assert(task < c->options.tasks && !task_is_final(&c->tasks[task]));
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
    worker_set_silent(c, number, false);
    c->told_to_stop -= worker->stop_sent;
    worker->stop_sent = false;
    worker->present = false;
    worker_update_room(c, number);
    c->counts.workers--;
}

static void worker_join(struct coordinator *c, int number, uint32_t window)
{
    worker_remove(c, number, true); // a worker that joins twice has lost what it held
    c->workers[number].present = true;
    c->workers[number].window = window;
    c->known_workers += !c->workers[number].known;
    c->workers[number].known = true;
    c->counts.workers++;
    worker_update_room(c, number);
}

static void expire_leases(struct coordinator *c)
{
    while (c->leased.first != NO_TASK &&
           c->tasks[c->leased.first].deadline_seconds <= c->now_seconds) {
        worker_set_silent(c, c->tasks[c->leased.first].worker, true);
        task_retry(c, c->leased.first, "no result within the lease");
    }
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
        worker_set_silent(c, event->worker, false);
        task_finish(c, event->task, TASK_DONE_STATE);
        break;
    case EVENT_FAILED:
        worker_set_silent(c, event->worker, false);
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

static bool next_stop(struct coordinator *c, struct coordinator_action *out)
{
    if (c->counts.workers == c->told_to_stop)
        return false;
    while (!c->workers[c->next_stop].present || c->workers[c->next_stop].stop_sent)
        c->next_stop = (c->next_stop + 1) % c->options.max_workers;
    c->workers[c->next_stop].stop_sent = true;
    c->told_to_stop++;
    *out = (struct coordinator_action){.kind = ACTION_STOP_WORKER, .worker = (int)c->next_stop};
    return true;
}

// The worker that gets the next task, or NO_WORKER. It may hold its window, but never more than a
// fair share of what is left, so that nobody hoards the last tasks while others are idle, or takes
// all tasks of a small job because it was there first.
static int choose_worker(const struct coordinator *c)
{
    const int number = room_queue_first(c->room);
    if (number == NO_WORKER || c->workers[number].silent)
        return number;
    const size_t open = c->pending.count + c->counts.leased;
    const size_t expected = c->options.expected_workers > c->known_workers
                                ? c->options.expected_workers - c->known_workers
                                : 0;
    const size_t sharers = c->counts.workers - c->silent_workers + expected;
    const size_t share = (open + sharers - 1) / sharers;
    return c->workers[number].held < share ? number : NO_WORKER;
}

static bool next_lease(struct coordinator *c, struct coordinator_action *out)
{
    const int number = c->pending.count > 0 ? choose_worker(c) : NO_WORKER;
    if (number == NO_WORKER)
        return false;
    struct worker *worker = &c->workers[number];
    const uint32_t t = index_heap_first(&c->pending);
    struct task *task = &c->tasks[t];
    task_detach(c, t);
    task->state = TASK_LEASED;
    task->worker = number;
    task->deadline_seconds = c->now_seconds + c->options.lease_seconds;
    list_append(c, &c->leased, LINK_QUEUE, t);
    list_append(c, &worker->tasks, LINK_OWNER, t);
    c->counts.leased++;
    worker->held++;
    worker->turn = ++c->turn;
    worker_update_room(c, number);
    *out = (struct coordinator_action){.kind = ACTION_LEASE, .worker = number, .task = t};
    return true;
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

struct coordinator_worker coordinator_worker(const struct coordinator *coordinator, int number)
{
    const struct worker *worker = &coordinator->workers[number];
    return (struct coordinator_worker){
        .present = worker->present, .silent = worker->silent, .held = worker->held};
}
