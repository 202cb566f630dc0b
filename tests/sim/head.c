// SPDX-License-Identifier: Apache-2.0
// The simulated coordinator process. It does what the shell does: messages become events, actions
// become messages, and the real sharing.c speaks with the real claims. Beside the machine stands a
// plain model (model.c) of the contract in coordinator.h.
#include "base/mem.h"
#include "tests/sim/model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define JOIN_SECONDS 20.0  // a worker that is still unknown then is killed
#define LEAVE_SECONDS 60.0 // one that has not left so long after STOP, too
#define ASIDE_SECONDS 0.2  // until the coordinator's own commit

static void send_message(struct sim_job *job, int worker, const struct message *message)
{
    struct strbuf bytes = {0};
    message_encode(message, &bytes);
    sim_send(job, SIM_TO_WORKER, worker, job->head.workers[worker].incarnation, bytes.bytes,
             bytes.length);
    strbuf_release(&bytes);
}

static void flush_leases(struct sim_job *job, int worker)
{
    struct model_worker *w = &job->head.workers[worker];
    const struct message lease = {
        .kind = MESSAGE_LEASE, .tasks = w->batch, .count = w->batch_count};
    if (w->batch_count == 0)
        return;
    sim_tell_story(job->world, "worker %d.%d is given %zu tasks from %u on", job->number, worker,
                   w->batch_count, w->batch[0]);
    send_message(job, worker, &lease);
    w->batch_count = 0;
}

static void lease(struct sim_job *job, const struct coordinator_action *action)
{
    struct model_worker *w = &job->head.workers[action->worker];
    model_lease_task(job, action);
    job->world->ever_leased[action->task] = true;
    w->batch = mem_grow(w->batch, &w->batch_capacity, w->batch_count + 1, sizeof(*w->batch));
    w->batch[w->batch_count++] = action->task;
}

static void claim(struct sim_job *job, uint32_t block)
{
    struct error err;
    if (job->head.stopping || job->head.free_tasks > 0 || job->head.owned[block])
        sim_broken(job->world, "job %d asks for block %u without need", job->number, block);
    if (sharing_claim(&job->sharing, block, sim_now(job), &err)) {
        sim_tell_story(job->world, "job %d fails: %s", job->number, err.text);
        job->failed = true;
    }
}

static void act(struct sim_job *job, const struct coordinator_action *action)
{
    switch (action->kind) {
    case ACTION_LEASE:
        lease(job, action);
        break;
    case ACTION_SET_ASIDE:
        sim_tell_story(job->world, "job %d sets task %u aside: %s", job->number, action->task,
                       action->reason);
        model_set_aside(job, action->task);
        sim_schedule_job(job, (struct sim_event){.kind = SIM_SET_ASIDE, .task = action->task},
                         sim_exponential(job->world, ASIDE_SECONDS));
        break;
    case ACTION_DROP:
        model_drop(job, action);
        flush_leases(job, action->worker);
        send_message(job, action->worker,
                     &(struct message){
                         .kind = MESSAGE_DROP, .tasks = &(uint32_t){action->task}, .count = 1});
        break;
    case ACTION_CLAIM:
        claim(job, action->block);
        break;
    case ACTION_BACKUP:
        model_ask_backup(job, action->task);
        sharing_back_up(&job->sharing, action->task, sim_now(job));
        break;
    case ACTION_STOP_WORKER:
        model_stop_worker(job, action->worker);
        send_message(job, action->worker, &(struct message){.kind = MESSAGE_STOP});
        break;
    }
}

static bool goes_on(const struct sim_job *job)
{
    return !job->world->broken && !job->failed && !job->head.process.dying;
}

static void take_actions(struct sim_job *job)
{
    struct coordinator_action action;
    while (goes_on(job) && job->world->machine->next_action(job->head.machine, &action))
        act(job, &action);
    for (size_t w = 0; w < job->worker_count && goes_on(job); w++)
        flush_leases(job, (int)w);
    model_check_counts(job);
}

// The event alone, without what follows from it.
void sim_head_handle(struct sim_job *job, const struct coordinator_event *event)
{
    struct coordinator_event complete = *event;
    complete.now_seconds = sim_now(job); // it may have been paused since
    complete.reason = "poisoned";
    model_handle(job, &complete);
    job->world->machine->handle(job->head.machine, &complete);
    model_check_counts(job);
}

void sim_head_tell(struct sim_job *job, enum coordinator_event_kind kind, int worker, uint32_t task,
                   uint32_t window)
{
    sim_head_handle(job, &(struct coordinator_event){
                             .kind = kind, .worker = worker, .task = task, .window = window});
    take_actions(job);
}

// The coordinator's own commit: it may die between that and taking note of it.
void sim_head_set_aside(struct sim_job *job, uint32_t task)
{
    struct sim_world *world = job->world;
    const struct sim_row row = {.task = task, .execution = SIM_SET_ASIDE_ROW};
    struct error err;
    char name[64];
    snprintf(name, sizeof(name), "set-aside-%08u", task);
    const int rc = sim_store_rows(&job->head.process, name, &row, 1, &err);
    if (rc < 0) {
        sim_tell_story(world, "job %d fails: %s", job->number, err.text);
        job->failed = true;
    } else if (rc == 0) {
        world->acknowledged[task] = true;
        sim_head_tell(job, EVENT_SET_ASIDE_COMMITTED, 0, task, 0);
    }
}

static void receive_committed(struct sim_job *job, int worker, const struct message *message)
{
    for (size_t i = 0; i < message->count && goes_on(job); i++) {
        if (!job->world->acknowledged[message->tasks[i]])
            sim_broken(job->world, "worker %d.%d reports task %u, which is not on disk",
                       job->number, worker, message->tasks[i]);
        sim_head_tell(job, EVENT_COMMITTED, worker, message->tasks[i], 0);
    }
}

static void receive(struct sim_job *job, int worker, int incarnation, const struct message *message)
{
    struct model_worker *w = &job->head.workers[worker];
    const struct sim_worker *process = &job->workers[worker];
    switch (message->kind) {
    case MESSAGE_HELLO:
        if (!process->alive || process->incarnation != incarnation)
            break;
        w->incarnation = incarnation;
        sim_head_tell(job, EVENT_WORKER_JOINED, worker, 0, message->window);
        break;
    case MESSAGE_COMMITTED:
        receive_committed(job, worker, message);
        break;
    case MESSAGE_FAILED:
        sim_head_tell(job, EVENT_FAILED, worker, message->tasks[0], 0);
        break;
    case MESSAGE_BYE:
        if (w->incarnation != incarnation)
            break;
        if (message->failed)
            sim_head_tell(job, EVENT_STOP_REQUESTED, 0, 0, 0);
        sim_head_tell(job, EVENT_WORKER_LEFT, worker, 0, 0);
        break;
    default:
        sim_broken(job->world, "unexpected message of kind %d", message->kind);
    }
}

void sim_head_receive(struct sim_job *job, const struct sim_event *event)
{
    struct message message;
    struct error err;
    if (message_decode(event->bytes.bytes, event->bytes.length, &message, &err)) {
        sim_broken(job->world, "the coordinator cannot read a message: %s", err.text);
        return;
    }
    receive(job, event->worker, event->incarnation, &message);
    message_release(&message);
}

static void supervise(struct sim_job *job, int number)
{
    const struct model_worker *w = &job->head.workers[number];
    const struct sim_worker *process = &job->workers[number];
    const double now = job->world->now_seconds;
    const bool unknown = process->alive && !w->present;
    const bool stuck = process->alive && w->stopped && now > w->stopped_seconds + LEAVE_SECONDS;
    if ((unknown && now > process->started_seconds + JOIN_SECONDS) || stuck) {
        sim_tell_story(job->world, "worker %d.%d is killed: it %s", job->number, number,
                       stuck ? "does not leave" : "never joined");
        sim_worker_kill(job, number);
    } else if (w->present && !process->alive && now > process->ended_seconds + LEAVE_SECONDS) {
        sim_head_tell(job, EVENT_WORKER_LOST, number, 0, 0);
        sim_schedule_job(job,
                         (struct sim_event){.kind = SIM_START_WORKER,
                                            .worker = number,
                                            .incarnation = process->incarnation + 1},
                         0);
    }
}

void sim_head_tick(struct sim_job *job)
{
    sim_head_tell(job, EVENT_TICK, 0, 0, 0);
    for (size_t w = 0; w < job->worker_count && goes_on(job); w++)
        supervise(job, (int)w);
    if (goes_on(job))
        model_check_idle(job);
}

static void describe_task(struct sim_job *job, uint32_t task)
{
    const struct sim_world *world = job->world;
    for (uint32_t i = 0; i < world->prerequisite_counts[task]; i++)
        world->machine->depend(job->head.machine, task,
                               world->prerequisites[(size_t)task * SIM_PREREQUISITES + i]);
    world->machine->set_priority(job->head.machine, task, sim_task_priority(world, task));
}

static void restore_task(struct sim_job *job, uint32_t task)
{
    const struct sim_row *row = sim_reader_find(job->reader, task);
    if (!row) {
        if (job->known_before[task])
            sim_broken(job->world, "task %u was final, but a restart cannot know it", task);
        return;
    }
    const bool aside = row->execution == SIM_SET_ASIDE_ROW;
    model_restore(job, task, aside);
    job->world->machine->restore(job->head.machine, task, aside);
}

void sim_head_start(struct sim_job *job)
{
    const struct sim_world *world = job->world;
    const struct sim_shape *shape = &world->shape;
    const struct coordinator_options options = {.tasks = shape->tasks,
                                                .max_workers = shape->workers,
                                                .expected_workers = shape->expected_workers,
                                                .lease_seconds = shape->lease_seconds,
                                                .late_seconds = shape->late_seconds,
                                                .claim_retry_seconds = 3,
                                                .max_attempts = shape->max_attempts};
    job->head.machine = world->machine->create(&options);
    model_start(job);
    for (uint32_t t = 0; t < shape->tasks; t++)
        describe_task(job, t);
    if (job->claims)
        sharing_init(&job->sharing, &job->sharing_options, world->machine->inner(job->head.machine),
                     sim_now(job));
    for (uint32_t t = 0; t < shape->tasks; t++)
        restore_task(job, t);
    sim_tell_story(job->world, "job %d starts life %d: %zu of %zu tasks are on disk", job->number,
                   job->life, job->head.counts.done + job->head.counts.aside, shape->tasks);
    model_check_counts(job);
}

void sim_head_end(struct sim_job *job)
{
    struct sim_head *head = &job->head;
    if (!head->machine)
        return;
    for (size_t w = 0; w < job->worker_count; w++)
        free(head->workers[w].batch);
    job->world->machine->destroy(head->machine);
    free(head->tasks);
    free(head->workers);
    free(head->owned);
    memset(head, 0, sizeof(*head));
}

bool sim_head_is_over(const struct sim_job *job)
{
    for (size_t w = 0; w < job->worker_count; w++) {
        if (job->workers[w].alive)
            return false;
    }
    return job->head.machine && job->world->machine->ended(job->head.machine);
}
