// SPDX-License-Identifier: Apache-2.0
// The simulated coordinator process. It does what the shell does: messages become events, actions
// become messages. Beside the machine stands a plain model of the contract in coordinator.h; after
// every event both must have the same counts.
#include "base/mem.h"
#include "tests/sim/world.h"

#include <stdlib.h>
#include <string.h>

#define JOIN_SECONDS 20.0  // a worker that is still unknown then is killed
#define LEAVE_SECONDS 60.0 // one that has not left so long after STOP, too
#define ASIDE_SECONDS 0.2  // the coordinator's own commit

static struct model_task *model_task(struct sim_world *world, uint32_t task)
{
    return &world->head.tasks[task];
}

static void model_release(struct sim_world *world, uint32_t task)
{
    struct model_task *t = model_task(world, task);
    if (t->state == MODEL_HELD) {
        world->head.workers[t->worker].held--;
        world->head.counts.leased--;
    }
    if (t->state == MODEL_WAITING)
        world->head.counts.waiting--;
    if (t->state == MODEL_FREE) {
        world->head.free_tasks--;
        world->head.free_of[sim_task_priority(world, task)]--;
    }
}

static void model_free(struct sim_world *world, uint32_t task)
{
    model_task(world, task)->state = MODEL_FREE;
    world->head.free_tasks++;
    world->head.free_of[sim_task_priority(world, task)]++;
}

static void model_release_dependents(struct sim_world *world, uint32_t task)
{
    const uint32_t *offsets = world->dependent_offsets;
    for (uint32_t i = offsets[task]; i < offsets[task + 1]; i++) {
        struct model_task *t = model_task(world, world->dependents[i]);
        if (--t->waits_for > 0 || t->state != MODEL_WAITING)
            continue;
        world->head.counts.waiting--;
        model_free(world, world->dependents[i]);
    }
}

static void model_finish(struct sim_world *world, uint32_t task, bool aside)
{
    struct model_task *t = model_task(world, task);
    if (t->state == MODEL_DONE || t->state == MODEL_ASIDE) {
        world->head.counts.late_results++;
        return;
    }
    model_release(world, task);
    t->state = aside ? MODEL_ASIDE : MODEL_DONE;
    world->head.counts.done += !aside;
    world->head.counts.aside += aside;
    model_release_dependents(world, task);
}

static void model_give_back(struct sim_world *world, uint32_t task, bool counts)
{
    struct model_task *t = model_task(world, task);
    model_release(world, task);
    t->attempts += counts;
    world->head.counts.retries += counts;
    if (t->attempts < world->shape.max_attempts)
        model_free(world, task);
    else
        t->state = MODEL_SPENT;
}

static void model_leave(struct sim_world *world, int worker, bool lost)
{
    struct model_worker *w = &world->head.workers[worker];
    if (!w->present)
        return;
    for (uint32_t t = 0; t < world->shape.tasks && w->held > 0; t++) {
        if (world->head.tasks[t].state == MODEL_HELD && world->head.tasks[t].worker == worker)
            model_give_back(world, t, lost);
    }
    w->present = w->silent = w->stopped = false;
    world->head.counts.workers--;
}

static void model_expire(struct sim_world *world)
{
    struct sim_head *head = &world->head;
    while (head->lease_first < head->lease_count &&
           head->leases[head->lease_first].deadline_seconds <= world->now_seconds) {
        const struct model_lease lease = head->leases[head->lease_first++];
        struct model_task *t = model_task(world, lease.task);
        if (t->state != MODEL_HELD || t->lease != lease.lease)
            continue;
        sim_tell_story(world, "the lease of task %u by worker %d expires", lease.task, t->worker);
        head->workers[t->worker].silent = true;
        model_give_back(world, lease.task, true);
    }
}

static void model_handle(struct sim_world *world, const struct coordinator_event *event)
{
    struct sim_head *head = &world->head;
    struct model_worker *w = &head->workers[event->worker];
    const struct model_task *t = world->shape.tasks > 0 ? model_task(world, event->task) : NULL;
    switch (event->kind) {
    case EVENT_WORKER_JOINED:
        model_leave(world, event->worker, true);
        w->present = true;
        w->window = event->window;
        head->counts.workers++;
        break;
    case EVENT_WORKER_LEFT:
    case EVENT_WORKER_LOST:
        model_leave(world, event->worker, event->kind == EVENT_WORKER_LOST);
        break;
    case EVENT_COMMITTED:
        w->silent = false;
        model_finish(world, event->task, false);
        break;
    case EVENT_FAILED:
        w->silent = false;
        if (t->state == MODEL_HELD && t->worker == event->worker)
            model_give_back(world, event->task, true);
        break;
    case EVENT_SET_ASIDE_COMMITTED:
        model_finish(world, event->task, true);
        break;
    case EVENT_STOP_REQUESTED:
        head->stopping = true;
        break;
    default:
        break;
    }
    model_expire(world);
}

static void check_count(struct sim_world *world, const char *what, size_t machine, size_t model)
{
    if (machine != model)
        sim_broken(world, "the coordinator counts %zu %s, the model %zu", machine, what, model);
}

static void check_counts(struct sim_world *world)
{
    const struct coordinator_counts machine = world->machine->counts(world->head.machine);
    const struct coordinator_counts *model = &world->head.counts;
    check_count(world, "tasks done", machine.done, model->done);
    check_count(world, "tasks set aside", machine.aside, model->aside);
    check_count(world, "waiting tasks", machine.waiting, model->waiting);
    check_count(world, "leases", machine.leased, model->leased);
    check_count(world, "workers", machine.workers, model->workers);
    check_count(world, "retries", machine.retries, model->retries);
    check_count(world, "late results", machine.late_results, model->late_results);
}

static void model_lease_task(struct sim_world *world, int worker, uint32_t task)
{
    struct sim_head *head = &world->head;
    struct model_worker *w = &head->workers[worker];
    struct model_task *t = model_task(world, task);
    if (head->stopping)
        sim_broken(world, "task %u is leased after the stop", task);
    if (t->state != MODEL_FREE)
        sim_broken(world, "task %u is leased to worker %d, but it is not free", task, worker);
    sim_check_prerequisites(world, task);
    for (uint32_t p = sim_task_priority(world, task) + 1; p < SIM_PRIORITIES; p++) {
        if (head->free_of[p] > 0)
            sim_broken(world, "task %u is leased before %zu tasks of higher priority", task,
                       head->free_of[p]);
    }
    if (!w->present || w->held >= w->window)
        sim_broken(world, "worker %d gets task %u: it is %s", worker, task,
                   w->present ? "full" : "not there");
    model_release(world, task);
    t->state = MODEL_HELD;
    t->worker = worker;
    t->lease = world->serial++;
    w->held++;
    head->counts.leased++;
    world->ever_leased[task] = true;
    head->leases =
        mem_grow(head->leases, &head->lease_capacity, head->lease_count + 1, sizeof(*head->leases));
    head->leases[head->lease_count++] =
        (struct model_lease){.task = task,
                             .lease = t->lease,
                             .deadline_seconds = world->now_seconds + world->shape.lease_seconds};
    w->batch = mem_grow(w->batch, &w->batch_capacity, w->batch_count + 1, sizeof(*w->batch));
    w->batch[w->batch_count++] = task;
}

static void send_message(struct sim_world *world, int worker, const struct message *message)
{
    struct strbuf bytes = {0};
    message_encode(message, &bytes);
    sim_send(world, SIM_TO_WORKER, worker, world->head.workers[worker].incarnation, bytes.bytes,
             bytes.length);
    strbuf_release(&bytes);
}

static void flush_leases(struct sim_world *world, int worker)
{
    struct model_worker *w = &world->head.workers[worker];
    const struct message lease = {
        .kind = MESSAGE_LEASE, .tasks = w->batch, .count = w->batch_count};
    if (w->batch_count == 0)
        return;
    sim_tell_story(world, "worker %d is given %zu tasks from %u on", worker, w->batch_count,
                   w->batch[0]);
    send_message(world, worker, &lease);
    w->batch_count = 0;
}

static void act(struct sim_world *world, const struct coordinator_action *action)
{
    struct model_worker *w = &world->head.workers[action->worker];
    switch (action->kind) {
    case ACTION_LEASE:
        model_lease_task(world, action->worker, action->task);
        break;
    case ACTION_SET_ASIDE:
        sim_tell_story(world, "task %u is set aside: %s", action->task, action->reason);
        if (model_task(world, action->task)->state != MODEL_SPENT ||
            model_task(world, action->task)->aside_sent)
            sim_broken(world, "task %u is set aside after %d attempts", action->task,
                       model_task(world, action->task)->attempts);
        model_task(world, action->task)->aside_sent = true;
        sim_schedule(world, (struct sim_event){.kind = SIM_ASIDE_DURABLE, .task = action->task},
                     sim_exponential(world, ASIDE_SECONDS));
        break;
    case ACTION_STOP_WORKER:
        if (!w->present || w->stopped)
            sim_broken(world, "worker %d is told to stop: it is not there or was told",
                       action->worker);
        w->stopped = true;
        w->stopped_seconds = world->now_seconds;
        send_message(world, action->worker, &(struct message){.kind = MESSAGE_STOP});
        break;
    case ACTION_DROP:
        send_message(world, action->worker,
                     &(struct message){
                         .kind = MESSAGE_DROP, .tasks = &(uint32_t){action->task}, .count = 1});
        break;
    default:
        sim_broken(world, "action %d, which nobody asked for", action->kind);
        break;
    }
}

static void take_actions(struct sim_world *world)
{
    struct coordinator_action action;
    bool leased = false;
    while (!world->broken && world->machine->next_action(world->head.machine, &action)) {
        act(world, &action);
        leased = leased || action.kind == ACTION_LEASE;
    }
    for (size_t w = 0; leased && w < world->shape.workers; w++)
        flush_leases(world, (int)w);
    check_counts(world);
}

void sim_head_tell(struct sim_world *world, enum coordinator_event_kind kind, int worker,
                   uint32_t task, uint32_t window)
{
    const struct coordinator_event event = {.kind = kind,
                                            .now_seconds = world->now_seconds,
                                            .worker = worker,
                                            .task = task,
                                            .window = window,
                                            .reason = "poisoned"};
    model_handle(world, &event);
    world->machine->handle(world->head.machine, &event);
    check_counts(world);
    take_actions(world);
}

static void receive_committed(struct sim_world *world, int worker, const struct message *message)
{
    for (size_t i = 0; i < message->count && !world->broken; i++) {
        if (world->first_row[message->tasks[i]] == SIM_NO_ROW)
            sim_broken(world, "worker %d reports task %u, which is not on disk", worker,
                       message->tasks[i]);
        sim_head_tell(world, EVENT_COMMITTED, worker, message->tasks[i], 0);
    }
}

static void receive(struct sim_world *world, int worker, int incarnation,
                    const struct message *message)
{
    struct model_worker *w = &world->head.workers[worker];
    const struct sim_worker *process = &world->workers[worker];
    switch (message->kind) {
    case MESSAGE_HELLO:
        if (!process->alive || process->incarnation != incarnation)
            break;
        w->incarnation = incarnation;
        sim_head_tell(world, EVENT_WORKER_JOINED, worker, 0, message->window);
        break;
    case MESSAGE_COMMITTED:
        receive_committed(world, worker, message);
        break;
    case MESSAGE_FAILED:
        sim_head_tell(world, EVENT_FAILED, worker, message->tasks[0], 0);
        break;
    case MESSAGE_BYE:
        if (w->incarnation != incarnation)
            break;
        if (message->failed)
            sim_head_tell(world, EVENT_STOP_REQUESTED, 0, 0, 0);
        sim_head_tell(world, EVENT_WORKER_LEFT, worker, 0, 0);
        break;
    default:
        sim_broken(world, "unexpected message of kind %d", message->kind);
    }
}

void sim_head_receive(struct sim_world *world, const struct sim_event *event)
{
    struct message message;
    struct error err;
    if (message_decode(event->bytes.bytes, event->bytes.length, &message, &err)) {
        sim_broken(world, "the coordinator cannot read a message: %s", err.text);
        return;
    }
    receive(world, event->worker, event->incarnation, &message);
    message_release(&message);
}

static void supervise(struct sim_world *world, int number)
{
    const struct model_worker *w = &world->head.workers[number];
    const struct sim_worker *process = &world->workers[number];
    const double now = world->now_seconds;
    const bool unknown = process->alive && !w->present;
    const bool stuck = process->alive && w->stopped && now > w->stopped_seconds + LEAVE_SECONDS;
    if ((unknown && now > process->started_seconds + JOIN_SECONDS) || stuck) {
        sim_tell_story(world, "worker %d is killed: it %s", number,
                       stuck ? "does not leave" : "never joined");
        sim_worker_kill(world, number);
    } else if (w->present && !process->alive && now > process->ended_seconds + LEAVE_SECONDS) {
        sim_head_tell(world, EVENT_WORKER_LOST, number, 0, 0);
        sim_schedule(world,
                     (struct sim_event){.kind = SIM_START_WORKER,
                                        .worker = number,
                                        .incarnation = process->incarnation + 1},
                     0);
    }
}

// Nobody who answers may idle while tasks wait and its window and its share have room.
static void check_idle_workers(struct sim_world *world)
{
    const struct sim_head *head = &world->head;
    size_t answering = 0, known = 0;
    if (head->stopping || head->free_tasks == 0)
        return;
    for (size_t w = 0; w < world->shape.workers; w++) {
        answering += head->workers[w].present && !head->workers[w].silent;
        known += head->workers[w].incarnation > 0;
    }
    const size_t expected = world->shape.expected_workers;
    const size_t sharers = answering + (expected > known ? expected - known : 0);
    for (size_t w = 0; w < world->shape.workers && answering > 0; w++) {
        const struct model_worker *worker = &head->workers[w];
        const size_t share = (head->free_tasks + head->counts.leased + sharers - 1) / sharers;
        if (worker->present && !worker->silent && worker->held < worker->window &&
            worker->held < share)
            sim_broken(world, "worker %zu holds %u tasks while %zu wait", w, worker->held,
                       head->free_tasks);
    }
}

void sim_head_tick(struct sim_world *world)
{
    sim_head_tell(world, EVENT_TICK, 0, 0, 0);
    for (size_t w = 0; w < world->shape.workers && !world->broken; w++)
        supervise(world, (int)w);
    check_idle_workers(world);
}

static void start_task(struct sim_world *world, uint32_t task)
{
    struct model_task *t = model_task(world, task);
    void *machine = world->head.machine;
    t->waits_for = world->prerequisite_counts[task];
    if (t->waits_for > 0) {
        t->state = MODEL_WAITING;
        world->head.counts.waiting++;
    } else {
        model_free(world, task);
    }
    for (uint32_t i = 0; i < t->waits_for; i++)
        world->machine->depend(machine, task,
                               world->prerequisites[(size_t)task * SIM_PREREQUISITES + i]);
    world->machine->set_priority(machine, task, sim_task_priority(world, task));
}

void sim_head_start(struct sim_world *world)
{
    const struct sim_shape *shape = &world->shape;
    struct sim_head *head = &world->head;
    const struct coordinator_options options = {.tasks = shape->tasks,
                                                .max_workers = shape->workers,
                                                .expected_workers = shape->expected_workers,
                                                .lease_seconds = shape->lease_seconds,
                                                .max_attempts = shape->max_attempts};
    memset(head, 0, sizeof(*head));
    head->machine = world->machine->create(&options);
    head->tasks = mem_calloc(shape->tasks, sizeof(*head->tasks));
    head->workers = mem_calloc(shape->workers, sizeof(*head->workers));
    for (uint32_t t = 0; t < shape->tasks; t++)
        start_task(world, t);
    for (uint32_t t = 0; t < shape->tasks; t++) {
        if (world->first_row[t] == SIM_NO_ROW)
            continue;
        const bool aside = world->rows[world->first_row[t]].execution == SIM_SET_ASIDE;
        model_finish(world, t, aside);
        world->machine->restore(head->machine, t, aside);
    }
    sim_tell_story(world, "the job starts: %zu of %zu tasks are on disk",
                   head->counts.done + head->counts.aside, shape->tasks);
    check_counts(world);
}

// What was final stays final: the next start must find it.
void sim_head_end(struct sim_world *world)
{
    struct sim_head *head = &world->head;
    for (uint32_t t = 0; t < world->shape.tasks; t++) {
        const enum model_state state = head->tasks[t].state;
        if ((state == MODEL_DONE || state == MODEL_ASIDE) && world->first_row[t] == SIM_NO_ROW)
            sim_broken(world, "task %u was final, but a restart cannot know it", t);
    }
    for (size_t w = 0; w < world->shape.workers; w++)
        free(head->workers[w].batch);
    world->machine->destroy(head->machine);
    free(head->tasks);
    free(head->workers);
    free(head->leases);
    memset(head, 0, sizeof(*head));
}

bool sim_head_is_over(const struct sim_world *world)
{
    for (size_t w = 0; w < world->shape.workers; w++) {
        if (world->workers[w].alive)
            return false;
    }
    return world->machine->ended(world->head.machine);
}
