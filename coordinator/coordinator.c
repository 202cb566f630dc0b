// SPDX-License-Identifier: Apache-2.0
#include "coordinator/coordinator.h"

#include "base/mem.h"
#include "coordinator/blocks.h"
#include "coordinator/durations.h"
#include "coordinator/index_heap.h"
#include "coordinator/leases.h"
#include "coordinator/room_queue.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NO_TASK UINT32_MAX
#define NO_WORKER (-1)
#define NO_EDGE UINT32_MAX
#define MAX_REASON_BYTES 1024 // longer ones are cut; the worker's log has the rest
#define LATE_FACTOR 3.0       // times what is usual
#define MAX_LEASES 2          // of one task

enum task_state {
    TASK_WAITING,
    TASK_CLOSED,
    TASK_PENDING,
    TASK_LEASED,
    TASK_SETTING_ASIDE,
    TASK_DONE_STATE,
    TASK_ASIDE,
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

static void list_append(struct coordinator *c, struct task_list *list, uint32_t number)
{
    struct task *task = &c->tasks[number];
    task->next = NO_TASK;
    task->previous = list->last;
    if (list->last == NO_TASK)
        list->first = number;
    else
        c->tasks[list->last].next = number;
    list->last = number;
}

static void list_remove(struct coordinator *c, struct task_list *list, uint32_t number)
{
    const struct task *task = &c->tasks[number];
    if (task->previous == NO_TASK)
        list->first = task->next;
    else
        c->tasks[task->previous].next = task->next;
    if (task->next == NO_TASK)
        list->last = task->previous;
    else
        c->tasks[task->next].previous = task->previous;
}

static bool goes_first(const void *state, uint32_t a, uint32_t b)
{
    const struct task *tasks = state, *x = &tasks[a], *y = &tasks[b];
    return x->priority != y->priority ? x->priority > y->priority : x->queued < y->queued;
}

static bool is_ours(const struct coordinator *c, const struct task *task)
{
    return task->block == NO_BLOCK || c->blocks.items[task->block].state == BLOCK_OURS;
}

// Nothing but its block keeps the task from being leased.
static void task_make_ready(struct coordinator *c, uint32_t number)
{
    struct task *task = &c->tasks[number];
    if (is_ours(c, task)) {
        task->state = TASK_PENDING;
        task->queued = c->queued++;
        index_heap_set(&c->pending, number);
    } else {
        task->state = TASK_CLOSED;
        blocks_task_ready(&c->blocks, task->block, true);
    }
}

struct coordinator *coordinator_create(const struct coordinator_options *options)
{
    assert(options->tasks < NO_TASK && options->max_attempts > 0 && options->lease_seconds > 0);
    struct coordinator *c = mem_calloc(1, sizeof(*c));
    c->options = *options;
    c->counts.tasks = options->tasks;
    c->counts.jobs = 1;
    c->tasks = mem_calloc(options->tasks, sizeof(*c->tasks));
    c->workers = mem_calloc(options->max_workers, sizeof(*c->workers));
    c->room = room_queue_create(options->max_workers);
    c->durations = durations_create();
    leases_init(&c->leases, options->max_workers);
    blocks_init(&c->blocks);
    index_heap_init(&c->pending, options->tasks, goes_first, c->tasks);
    list_init(&c->late);
    list_init(&c->aside);
    for (uint32_t t = 0; t < options->tasks; t++) {
        c->tasks[t].first_dependent = NO_EDGE;
        c->tasks[t].block = NO_BLOCK;
        c->tasks[t].leases[0] = c->tasks[t].leases[1] = NO_LEASE;
        task_make_ready(c, t);
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
    leases_release(&c->leases);
    blocks_release(&c->blocks);
    durations_destroy(c->durations);
    free(c->drops);
    free(c->edges);
    free(c->tasks);
    free(c->workers);
    room_queue_destroy(c->room);
    free(c);
}

static void worker_update_room(struct coordinator *c, int number)
{
    const struct worker *worker = &c->workers[number];
    const uint32_t limit = worker->silent ? 1 : worker->limit;
    const struct room_key key = {worker->silent, worker->held, worker->turn};
    if (worker->present && worker->held < limit)
        room_queue_set(c->room, number, key);
    else
        room_queue_remove(c->room, number);
}

static void worker_set_limit(struct coordinator *c, int number, uint32_t limit)
{
    struct worker *worker = &c->workers[number];
    worker->limit = limit < 1 ? 1 : limit > worker->window ? worker->window : limit;
    worker_update_room(c, number);
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

static void worker_reported(struct coordinator *c, int number)
{
    worker_set_silent(c, number, false);
    if (c->workers[number].present)
        worker_set_limit(c, number, c->workers[number].limit + 1);
}

// A task with one lease that is late can be leased once more.
static void task_update_late(struct coordinator *c, uint32_t number)
{
    struct task *task = &c->tasks[number];
    const bool late = task->state == TASK_LEASED && task->leases[0] != NO_LEASE &&
                      task->leases[1] == NO_LEASE && c->leases.items[task->leases[0]].late;
    if (late == task->late)
        return;
    task->late = late;
    if (late)
        list_append(c, &c->late, number);
    else
        list_remove(c, &c->late, number);
}

// The task's state is the caller's to change when this was the last one.
static void lease_end(struct coordinator *c, uint32_t number)
{
    const struct lease lease = c->leases.items[number];
    struct task *task = &c->tasks[lease.task];
    if (task->leases[0] == number)
        task->leases[0] = task->leases[1];
    task->leases[1] = NO_LEASE;
    leases_remove(&c->leases, number);
    c->workers[lease.worker].held--;
    worker_update_room(c, lease.worker);
    task_update_late(c, lease.task);
}

static uint32_t find_lease(const struct coordinator *c, uint32_t number, int worker)
{
    const struct task *task = &c->tasks[number];
    for (int i = 0; i < MAX_LEASES && task->leases[i] != NO_LEASE; i++) {
        if (c->leases.items[task->leases[i]].worker == worker)
            return task->leases[i];
    }
    return NO_LEASE;
}

// Takes the task out of the lists of its state; the caller gives it a new state.
static void task_detach(struct coordinator *c, uint32_t number)
{
    struct task *task = &c->tasks[number];
    if (task->state == TASK_PENDING) {
        index_heap_remove(&c->pending, number);
    } else if (task->state == TASK_WAITING) {
        c->counts.waiting--;
    } else if (task->state == TASK_CLOSED) {
        blocks_task_ready(&c->blocks, task->block, false);
    } else if (task->state == TASK_LEASED) {
        while (task->leases[0] != NO_LEASE)
            lease_end(c, task->leases[0]);
        c->counts.leased--;
    } else if (task->state == TASK_SETTING_ASIDE && !task->announced) {
        list_remove(c, &c->aside, number);
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
        task_make_ready(c, dependent);
    }
}

// Whoever still holds the task is told, but the worker whose result it is.
static void drop_leases(struct coordinator *c, uint32_t number, int worker)
{
    const struct task *task = &c->tasks[number];
    for (int i = 0; i < MAX_LEASES && task->leases[i] != NO_LEASE; i++) {
        const int holder = c->leases.items[task->leases[i]].worker;
        if (holder == worker)
            continue;
        c->drops = mem_grow(c->drops, &c->drop_capacity, c->drop_count + 1, sizeof(*c->drops));
        c->drops[c->drop_count++] = (struct drop){number, holder};
    }
}

// False: it was final already.
static bool task_finish(struct coordinator *c, uint32_t number, enum task_state state, int worker)
{
    struct task *task = &c->tasks[number];
    if (task_is_final(task))
        return false;
    drop_leases(c, number, worker);
    task_detach(c, number);
    task->state = state;
    if (state == TASK_DONE_STATE)
        c->counts.done++;
    else
        c->counts.aside++;
    if (task->block != NO_BLOCK)
        blocks_task_final(&c->blocks, task->block);
    release_dependents(c, number);
    return true;
}

// Its last lease has ended without a result.
static void task_unleased(struct coordinator *c, uint32_t number)
{
    struct task *task = &c->tasks[number];
    task_detach(c, number);
    if (task->attempts < c->options.max_attempts) {
        task_make_ready(c, number);
        return;
    }
    task->state = TASK_SETTING_ASIDE;
    task->announced = false;
    list_append(c, &c->aside, number);
}

static void lease_give_back(struct coordinator *c, uint32_t number)
{
    const uint32_t task = c->leases.items[number].task;
    lease_end(c, number);
    if (c->tasks[task].leases[0] == NO_LEASE)
        task_unleased(c, task);
}

// An attempt is spent: try again later, or set the task aside.
static void lease_fail(struct coordinator *c, uint32_t number, const char *reason)
{
    struct task *task = &c->tasks[c->leases.items[number].task];
    task->attempts++;
    c->counts.retries++;
    free(task->reason);
    task->reason = mem_printf("%.*s", MAX_REASON_BYTES, reason);
    lease_give_back(c, number);
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

uint32_t coordinator_add_block(struct coordinator *c, uint32_t first, uint32_t count)
{
    assert(first <= c->options.tasks && count <= c->options.tasks - first);
    uint32_t priority = 0;
    for (uint32_t t = first; t < first + count; t++) {
        if (c->tasks[t].priority > priority)
            priority = c->tasks[t].priority;
    }
    const uint32_t number = blocks_add(&c->blocks, first, count, priority);
    for (uint32_t t = first; t < first + count; t++) {
        struct task *task = &c->tasks[t];
        assert(task->block == NO_BLOCK);
        task->block = number;
        if (task_is_final(task)) {
            blocks_task_final(&c->blocks, number);
        } else if (task->state == TASK_PENDING) {
            index_heap_remove(&c->pending, t);
            task_make_ready(c, t);
        }
    }
    return number;
}

void coordinator_restore(struct coordinator *c, uint32_t task, bool set_aside)
{
    assert(task < c->options.tasks && !task_is_final(&c->tasks[task]));
    task_finish(c, task, set_aside ? TASK_ASIDE : TASK_DONE_STATE, NO_WORKER);
}

static void worker_remove(struct coordinator *c, int number, bool lost)
{
    struct worker *worker = &c->workers[number];
    if (!worker->present)
        return;
    for (uint32_t lease; (lease = c->leases.first_of_worker[number]) != NO_LEASE;) {
        if (lost)
            lease_fail(c, lease, "the worker that held it was lost");
        else
            lease_give_back(c, lease);
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
    struct worker *worker = &c->workers[number];
    worker_remove(c, number, true); // a worker that joins twice has lost what it held
    worker->present = true;
    worker->window = worker->limit = window;
    c->known_workers += !worker->known;
    worker->known = true;
    c->counts.workers++;
    worker_update_room(c, number);
}

static void ring_alarms(struct coordinator *c)
{
    for (uint32_t l; (l = leases_next_alarm(&c->leases)) != NO_LEASE;) {
        const struct lease lease = c->leases.items[l];
        if (lease_alarm_seconds(&lease) > c->now_seconds)
            return;
        if (lease.late) {
            worker_set_silent(c, lease.worker, true);
            lease_fail(c, l, "no result within the lease");
        } else {
            leases_set_late(&c->leases, l);
            if (lease.deadline_seconds > c->now_seconds)
                worker_set_limit(c, lease.worker, c->workers[lease.worker].limit / 2);
            task_update_late(c, lease.task);
        }
    }
}

static void task_committed(struct coordinator *c, int worker, uint32_t number)
{
    const uint32_t lease = find_lease(c, number, worker);
    if (lease != NO_LEASE)
        durations_add(c->durations, c->tasks[number].priority,
                      c->now_seconds - c->leases.items[lease].given_seconds);
    worker_reported(c, worker);
    c->counts.computed++;
    c->counts.late_results += !task_finish(c, number, TASK_DONE_STATE, worker);
}

static void task_failed(struct coordinator *c, const struct coordinator_event *event)
{
    const uint32_t lease = find_lease(c, event->task, event->worker);
    worker_reported(c, event->worker);
    if (lease != NO_LEASE && event->fatal)
        c->tasks[event->task].attempts = c->options.max_attempts - 1;
    if (lease != NO_LEASE)
        lease_fail(c, lease, event->reason);
    // otherwise the lease had expired: that attempt is counted already
}

static void open_block(struct coordinator *c, uint32_t number)
{
    const struct block block = c->blocks.items[number];
    for (uint32_t t = block.first; t < block.first + block.count; t++) {
        if (c->tasks[t].state != TASK_CLOSED)
            continue;
        blocks_task_ready(&c->blocks, number, false);
        c->tasks[t].state = TASK_PENDING;
        c->tasks[t].queued = c->queued++;
        index_heap_set(&c->pending, t);
    }
    blocks_set_state(&c->blocks, number, BLOCK_OURS);
}

static void handle_worker_event(struct coordinator *c, const struct coordinator_event *event)
{
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
        task_committed(c, event->worker, event->task);
        break;
    default:
        task_failed(c, event);
        break;
    }
}

static void handle_event(struct coordinator *c, const struct coordinator_event *event)
{
    switch (event->kind) {
    case EVENT_WORKER_JOINED:
    case EVENT_WORKER_LEFT:
    case EVENT_WORKER_LOST:
    case EVENT_COMMITTED:
    case EVENT_FAILED:
        handle_worker_event(c, event);
        break;
    case EVENT_SET_ASIDE_COMMITTED:
        c->counts.late_results += !task_finish(c, event->task, TASK_ASIDE, NO_WORKER);
        break;
    case EVENT_FOUND:
        c->counts.elsewhere +=
            task_finish(c, event->task, event->set_aside ? TASK_ASIDE : TASK_DONE_STATE, NO_WORKER);
        break;
    case EVENT_CLAIM_WON:
        open_block(c, event->block);
        break;
    case EVENT_CLAIM_REFUSED:
        blocks_set_state(&c->blocks, event->block, BLOCK_REFUSED);
        break;
    case EVENT_JOBS:
        c->counts.jobs = event->jobs;
        break;
    case EVENT_STOP_REQUESTED:
        c->stopping = true;
        break;
    case EVENT_TICK:
        break;
    }
}

void coordinator_handle(struct coordinator *c, const struct coordinator_event *event)
{
    assert(event->now_seconds >= c->now_seconds);
    assert(event->worker >= 0 && (size_t)event->worker < c->options.max_workers);
    assert(event->task < c->options.tasks || event->task == 0);
    c->now_seconds = event->now_seconds;
    handle_event(c, event);
    ring_alarms(c);
}

bool coordinator_complete(const struct coordinator *c)
{
    return c->counts.done + c->counts.aside == c->counts.tasks;
}

bool coordinator_ended(const struct coordinator *c)
{
    return (coordinator_complete(c) || c->stopping) && c->counts.workers == 0;
}

bool coordinator_needs_news(const struct coordinator *c)
{
    return c->blocks.foreign_tasks > 0 && (c->counts.jobs > 1 || c->blocks.refused > 0) &&
           (c->counts.waiting > 0 || c->pending.count == 0);
}

bool coordinator_is_final(const struct coordinator *c, uint32_t task)
{
    return task_is_final(&c->tasks[task]);
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

// The worker that gets the next task, or NO_WORKER. It may hold its limit, but never more than a
// fair share of what is left to this job, so that nobody hoards the last tasks while others are
// idle, or takes all tasks of a small job because it was there first.
static int choose_worker(const struct coordinator *c)
{
    const int number = room_queue_first(c->room);
    if (number == NO_WORKER || c->workers[number].silent)
        return number;
    const size_t unclaimed = (c->blocks.claimable_tasks + c->counts.jobs - 1) / c->counts.jobs;
    const size_t open = c->pending.count + c->counts.leased + unclaimed;
    const size_t expected = c->options.expected_workers > c->known_workers
                                ? c->options.expected_workers - c->known_workers
                                : 0;
    const size_t sharers = c->counts.workers - c->silent_workers + expected;
    const size_t share = (open + sharers - 1) / sharers;
    return c->workers[number].held < share ? number : NO_WORKER;
}

static void lease_task(struct coordinator *c, uint32_t number, int worker_number,
                       struct coordinator_action *out)
{
    struct task *task = &c->tasks[number];
    struct worker *worker = &c->workers[worker_number];
    const double usual =
        fmax(LATE_FACTOR * durations_usual(c->durations, task->priority), c->options.late_seconds);
    const double lease_seconds = c->options.lease_seconds;
    const double late = c->options.late_seconds > 0 ? fmin(usual, lease_seconds) : lease_seconds;
    const struct lease lease = {.task = number,
                                .worker = worker_number,
                                .given_seconds = c->now_seconds,
                                .late_seconds = c->now_seconds + late,
                                .deadline_seconds = c->now_seconds + lease_seconds};
    const bool second = task->leases[0] != NO_LEASE;
    task->leases[second] = leases_add(&c->leases, &lease);
    task_update_late(c, number);
    worker->held++;
    worker->turn = ++c->turn;
    worker_update_room(c, worker_number);
    *out = (struct coordinator_action){.kind = ACTION_LEASE,
                                       .worker = worker_number,
                                       .task = number,
                                       .late_seconds = lease.late_seconds,
                                       .deadline_seconds = lease.deadline_seconds,
                                       .second = second};
}

static bool next_lease(struct coordinator *c, struct coordinator_action *out)
{
    const int number = c->pending.count > 0 ? choose_worker(c) : NO_WORKER;
    if (number == NO_WORKER)
        return false;
    const uint32_t task = index_heap_first(&c->pending);
    task_detach(c, task);
    c->tasks[task].state = TASK_LEASED;
    c->counts.leased++;
    lease_task(c, task, number, out);
    return true;
}

// A job may hold tasks while they are fewer than its share of all that are open.
static bool next_claim(struct coordinator *c, struct coordinator_action *out)
{
    const size_t open = c->counts.tasks - c->counts.done - c->counts.aside;
    if (c->pending.count > 0 || c->counts.leased * c->counts.jobs >= open ||
        choose_worker(c) == NO_WORKER)
        return false;
    const uint32_t block = blocks_first_claimable(&c->blocks);
    if (block == NO_BLOCK)
        return false;
    blocks_set_state(&c->blocks, block, BLOCK_ASKED);
    *out = (struct coordinator_action){.kind = ACTION_CLAIM, .block = block};
    return true;
}

// Nothing is left but what others hold: they may have died.
static void reopen_blocks(struct coordinator *c)
{
    if (c->blocks.refused == 0 || c->pending.count > 0 || c->blocks.claimable_tasks > 0 ||
        room_queue_first(c->room) == NO_WORKER || c->now_seconds < c->next_claim_seconds)
        return;
    c->next_claim_seconds = c->now_seconds + c->options.claim_retry_seconds;
    blocks_reopen(&c->blocks);
}

static bool next_second_lease(struct coordinator *c, struct coordinator_action *out)
{
    const uint32_t task = c->late.first;
    if (task == NO_TASK || c->pending.count > 0)
        return false;
    const int holder = c->leases.items[c->tasks[task].leases[0]].worker;
    const int number = room_queue_first_but(c->room, holder);
    if (number == NO_WORKER || c->workers[number].silent)
        return false;
    c->counts.second_leases++;
    lease_task(c, task, number, out);
    return true;
}

static bool next_drop(struct coordinator *c, struct coordinator_action *out)
{
    if (c->drop_count == 0)
        return false;
    const struct drop drop = c->drops[--c->drop_count];
    *out =
        (struct coordinator_action){.kind = ACTION_DROP, .worker = drop.worker, .task = drop.task};
    return true;
}

static bool next_set_aside(struct coordinator *c, struct coordinator_action *out)
{
    const uint32_t t = c->aside.first;
    if (t == NO_TASK)
        return false;
    list_remove(c, &c->aside, t);
    c->tasks[t].announced = true;
    *out = (struct coordinator_action){
        .kind = ACTION_SET_ASIDE, .task = t, .reason = c->tasks[t].reason};
    return true;
}

bool coordinator_next_action(struct coordinator *c, struct coordinator_action *out)
{
    if (next_set_aside(c, out) || next_drop(c, out))
        return true;
    if (c->stopping || coordinator_complete(c))
        return next_stop(c, out);
    reopen_blocks(c);
    return next_lease(c, out) || next_claim(c, out) || next_second_lease(c, out);
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
