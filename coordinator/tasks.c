// SPDX-License-Identifier: Apache-2.0
#include "coordinator/tasks.h"

#include "base/mem.h"

#include <stdlib.h>

#define MAX_REASON_BYTES 1024 // longer ones are cut; the worker's log has the rest

void task_list_init(struct task_list *list)
{
    list->first = NO_TASK;
    list->last = NO_TASK;
}

void task_list_append(struct coordinator *c, struct task_list *list, uint32_t number)
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

void task_list_remove(struct coordinator *c, struct task_list *list, uint32_t number)
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

bool task_goes_first(const void *state, uint32_t a, uint32_t b)
{
    const struct task *tasks = state, *x = &tasks[a], *y = &tasks[b];
    return x->priority != y->priority ? x->priority > y->priority : x->queued < y->queued;
}

static bool is_ours(const struct coordinator *c, const struct task *task)
{
    return task->block == NO_BLOCK || c->blocks.items[task->block].state == BLOCK_OURS;
}

// Nothing but its block keeps the task from being leased.
void task_make_ready(struct coordinator *c, uint32_t number)
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

void worker_update_room(struct coordinator *c, int number)
{
    const struct worker *worker = &c->workers[number];
    const uint32_t limit = worker->silent ? 1 : worker->limit;
    const struct room_key key = {worker->silent, worker->held, worker->turn};
    if (worker->present && worker->held < limit)
        room_queue_set(c->room, number, key);
    else
        room_queue_remove(c->room, number);
}

void worker_set_limit(struct coordinator *c, int number, uint32_t limit)
{
    struct worker *worker = &c->workers[number];
    worker->limit = limit < 1 ? 1 : limit > worker->window ? worker->window : limit;
    worker_update_room(c, number);
}

void worker_set_silent(struct coordinator *c, int number, bool silent)
{
    struct worker *worker = &c->workers[number];
    if (!worker->present || worker->silent == silent)
        return;
    worker->silent = silent;
    c->silent_workers = silent ? c->silent_workers + 1 : c->silent_workers - 1;
    worker_update_room(c, number);
}

void worker_reported(struct coordinator *c, int number)
{
    worker_set_silent(c, number, false);
    if (c->workers[number].present)
        worker_set_limit(c, number, c->workers[number].limit + 1);
}

// A task with one lease that is late can be leased once more.
void task_update_late(struct coordinator *c, uint32_t number)
{
    struct task *task = &c->tasks[number];
    const bool late = task->state == TASK_LEASED && task->leases[0] != NO_LEASE &&
                      task->leases[1] == NO_LEASE && c->leases.items[task->leases[0]].late;
    if (late == task->late)
        return;
    task->late = late;
    if (late)
        task_list_append(c, &c->late, number);
    else
        task_list_remove(c, &c->late, number);
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

uint32_t task_find_lease(const struct coordinator *c, uint32_t number, int worker)
{
    const struct task *task = &c->tasks[number];
    for (int i = 0; i < MAX_LEASES && task->leases[i] != NO_LEASE; i++) {
        if (c->leases.items[task->leases[i]].worker == worker)
            return task->leases[i];
    }
    return NO_LEASE;
}

// Takes the task out of the lists of its state; the caller gives it a new state.
void task_detach(struct coordinator *c, uint32_t number)
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
        task_list_remove(c, &c->aside, number);
    }
}

bool task_is_final(const struct task *task)
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
bool task_finish(struct coordinator *c, uint32_t number, enum task_state state, int worker)
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
    task_list_append(c, &c->aside, number);
}

void lease_give_back(struct coordinator *c, uint32_t number)
{
    const uint32_t task = c->leases.items[number].task;
    lease_end(c, number);
    if (c->tasks[task].leases[0] == NO_LEASE)
        task_unleased(c, task);
}

// An attempt is spent: try again later, or set the task aside.
void lease_fail(struct coordinator *c, uint32_t number, const char *reason)
{
    struct task *task = &c->tasks[c->leases.items[number].task];
    if (task->backup == BACKUP_NONE)
        task->attempts++;
    else
        task->backup = BACKUP_FAILED;
    c->counts.retries++;
    free(task->reason);
    task->reason = mem_printf("%.*s", MAX_REASON_BYTES, reason);
    lease_give_back(c, number);
}
