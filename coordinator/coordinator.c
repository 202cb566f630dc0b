// SPDX-License-Identifier: Apache-2.0
#include "coordinator/coordinator.h"

#include "base/mem.h"
#include "coordinator/tasks.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

#define LATE_FACTOR 3.0 // times what is usual

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
    index_heap_init(&c->pending, options->tasks, task_goes_first, c->tasks);
    task_list_init(&c->late);
    task_list_init(&c->aside);
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
    const uint32_t lease = task_find_lease(c, number, worker);
    if (c->tasks[number].backup == BACKUP_NONE)
        c->own_work_seconds = c->now_seconds;
    if (lease != NO_LEASE)
        durations_add(c->durations, c->tasks[number].priority,
                      c->now_seconds - c->leases.items[lease].given_seconds);
    worker_reported(c, worker);
    c->counts.computed++;
    c->counts.late_results += !task_finish(c, number, TASK_DONE_STATE, worker);
}

static void task_failed(struct coordinator *c, const struct coordinator_event *event)
{
    const uint32_t lease = task_find_lease(c, event->task, event->worker);
    worker_reported(c, event->worker);
    if (lease != NO_LEASE && event->fatal && c->tasks[event->task].backup == BACKUP_NONE)
        c->tasks[event->task].attempts = c->options.max_attempts - 1;
    if (lease != NO_LEASE)
        lease_fail(c, lease, event->reason);
    // otherwise the lease had expired: that attempt is counted already
}

static void open_task(struct coordinator *c, uint32_t number)
{
    struct task *task = &c->tasks[number];
    blocks_task_ready(&c->blocks, task->block, false);
    task->state = TASK_PENDING;
    task->queued = c->queued++;
    index_heap_set(&c->pending, number);
}

static void open_block(struct coordinator *c, uint32_t number)
{
    const struct block block = c->blocks.items[number];
    for (uint32_t t = block.first; t < block.first + block.count; t++) {
        c->tasks[t].backup = BACKUP_NONE;
        if (c->tasks[t].state == TASK_CLOSED)
            open_task(c, t);
    }
    blocks_set_state(&c->blocks, number, BLOCK_OURS);
}

// It may have become final, or this job's, since it was asked for.
static void win_backup(struct coordinator *c, uint32_t number)
{
    struct task *task = &c->tasks[number];
    if (task->state != TASK_CLOSED || task->backup == BACKUP_FAILED)
        return;
    task->backup = BACKUP_OURS;
    open_task(c, number);
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
    case EVENT_BACKUP_WON:
        win_backup(c, event->task);
        break;
    case EVENT_BACKUP_REFUSED:
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
    if (c->counts.jobs > 1 && c->blocks.count > 0 && c->pending.count == 0)
        return !coordinator_complete(c); // others may do what this job has leased, too
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
    if (task->backup == BACKUP_NONE)
        c->own_work_seconds = c->now_seconds;
    else
        c->counts.backups++;
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
    c->next_backup = (uint32_t)c->options.tasks;
    blocks_reopen(&c->blocks);
}

// Whether another job could well have begun and ended the task since this one ran out of its own.
static bool is_overdue(const struct coordinator *c, const struct task *task)
{
    const double usual = durations_usual(c->durations, task->priority);
    const double wait =
        isfinite(usual) ? fmax(usual, c->options.late_seconds) : c->options.late_seconds;
    return c->now_seconds - c->own_work_seconds >= wait;
}

static bool can_be_backed_up(const struct coordinator *c, const struct task *task)
{
    return task->state == TASK_CLOSED && task->backup != BACKUP_FAILED &&
           c->blocks.items[task->block].state == BLOCK_REFUSED && is_overdue(c, task);
}

// Passes over every task once in claim_retry_seconds, at most.
static bool next_backup(struct coordinator *c, struct coordinator_action *out)
{
    const size_t open = c->counts.tasks - c->counts.done - c->counts.aside;
    const int number = room_queue_first(c->room);
    if (c->options.late_seconds <= 0 || c->pending.count > 0 || c->blocks.refused == 0 ||
        c->blocks.claimable_tasks > 0 || c->counts.leased * c->counts.jobs >= open ||
        number == NO_WORKER || c->workers[number].silent)
        return false;
    while (c->next_backup > 0) {
        const uint32_t task = --c->next_backup;
        if (can_be_backed_up(c, &c->tasks[task])) {
            *out = (struct coordinator_action){.kind = ACTION_BACKUP, .task = task};
            return true;
        }
    }
    return false;
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
    task_list_remove(c, &c->aside, t);
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
    return next_lease(c, out) || next_claim(c, out) || next_second_lease(c, out) ||
           next_backup(c, out);
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
