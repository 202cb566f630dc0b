// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/scale.h"

#include "base/mem.h"
#include "tests/sim/world.h"

#include <math.h>
#include <stdlib.h>
#include <sys/resource.h>

#define WINDOW 4          // tasks that a worker runs at once
#define TASK_SECONDS 10.0 // mean
#define DELAY_SECONDS 0.001
#define BLOCK_TASKS 1024
#define COMMIT_SECONDS 60.0

struct scale_worker {
    struct scale *scale;
    int number;
    struct transport transport;
    struct task_runner runner;
    struct agent *agent;
    struct sim_running running[WINDOW];
    size_t running_count;
    size_t uncommitted;
    double next_wake_seconds;
};

struct scale {
    struct sim_world world; // its clock and its queue
    struct coordinator *coordinator;
    struct scale_worker *workers;
    struct strbuf *batches; // [workers] leases to be sent, as numbers
    uint32_t *touched;      // workers with a batch
    size_t touched_count;
    struct sim_scale figures;
};

static void send_bytes(struct scale *scale, enum sim_event_kind direction, int worker,
                       const void *bytes, size_t length)
{
    struct sim_event event = {.kind = direction, .worker = worker};
    strbuf_add(&event.bytes, bytes, length);
    scale->figures.messages++;
    sim_schedule(&scale->world, event, sim_exponential(&scale->world, DELAY_SECONDS));
}

static void worker_post(struct transport *transport, int peer, const void *bytes, size_t length)
{
    struct scale_worker *worker = transport->state;
    (void)peer;
    send_bytes(worker->scale, SIM_TO_HEAD, worker->number, bytes, length);
}

static int runner_submit(void *state, uint32_t task, struct error *err)
{
    struct scale_worker *worker = state;
    struct sim_world *world = &worker->scale->world;
    (void)err;
    worker->running[worker->running_count++] = (struct sim_running){
        .task = task, .end_seconds = world->now_seconds + sim_exponential(world, TASK_SECONDS)};
    return 0;
}

static int runner_poll(void *state, struct task_result *out, struct error *err)
{
    struct scale_worker *worker = state;
    (void)err;
    for (size_t i = 0; i < worker->running_count; i++) {
        if (worker->running[i].end_seconds > worker->scale->world.now_seconds)
            continue;
        *out = (struct task_result){.task = worker->running[i].task,
                                    .dropped = worker->running[i].dropped};
        worker->running[i] = worker->running[--worker->running_count];
        worker->uncommitted += !out->dropped;
        return 1;
    }
    return 0;
}

static int runner_commit(void *state, struct error *err)
{
    struct scale_worker *worker = state;
    (void)err;
    worker->uncommitted = 0;
    return 0;
}

static void runner_drop(void *state, uint32_t task)
{
    struct scale_worker *worker = state;
    for (size_t i = 0; i < worker->running_count; i++)
        worker->running[i].dropped |= worker->running[i].task == task;
}

static size_t runner_bytes(void *state)
{
    const struct scale_worker *worker = state;
    return worker->uncommitted;
}

static void plan_wake(struct scale_worker *worker)
{
    struct sim_world *world = &worker->scale->world;
    double next = worker->uncommitted > 0 ? world->now_seconds + COMMIT_SECONDS : INFINITY;
    for (size_t i = 0; i < worker->running_count; i++)
        next = fmin(next, worker->running[i].end_seconds);
    if (next >= worker->next_wake_seconds || isinf(next))
        return;
    worker->next_wake_seconds = next;
    sim_schedule(world, (struct sim_event){.kind = SIM_WAKE_WORKER, .worker = worker->number},
                 next - world->now_seconds);
}

static void run_agent(struct scale_worker *worker)
{
    struct error err;
    for (bool busy = true; busy && !agent_ended(worker->agent);) {
        busy = false;
        (void)agent_step(worker->agent, worker->scale->world.now_seconds, &busy, &err);
    }
    plan_wake(worker);
}

static void start_worker(struct scale *scale, int number)
{
    static const struct transport_ops ops = {.post = worker_post};
    struct scale_worker *worker = &scale->workers[number];
    const struct agent_options options = {.commit_seconds = COMMIT_SECONDS,
                                          .commit_bytes = SIZE_MAX};
    struct error err;
    *worker =
        (struct scale_worker){.scale = scale, .number = number, .next_wake_seconds = INFINITY};
    worker->transport = (struct transport){.ops = &ops, .state = worker, .size = 1};
    worker->runner = (struct task_runner){.state = worker,
                                          .window = WINDOW,
                                          .submit = runner_submit,
                                          .poll = runner_poll,
                                          .commit = runner_commit,
                                          .drop = runner_drop,
                                          .uncommitted_bytes = runner_bytes};
    (void)agent_create(&worker->transport, &worker->runner, &options, &worker->agent, &err);
}

static void tell(struct scale *scale, enum coordinator_event_kind kind, int worker, uint32_t number,
                 uint32_t window)
{
    scale->figures.events++;
    coordinator_handle(scale->coordinator,
                       &(struct coordinator_event){.kind = kind,
                                                   .now_seconds = scale->world.now_seconds,
                                                   .worker = worker,
                                                   .window = window,
                                                   .task = kind == EVENT_CLAIM_WON ? 0 : number,
                                                   .block = number});
}

static void post(struct scale *scale, int worker, const struct message *message)
{
    struct strbuf bytes = {0};
    message_encode(message, &bytes);
    send_bytes(scale, SIM_TO_WORKER, worker, bytes.bytes, bytes.length);
    strbuf_release(&bytes);
}

static void act(struct scale *scale, struct coordinator_action *action)
{
    scale->figures.actions++;
    switch (action->kind) {
    case ACTION_LEASE:
        if (scale->batches[action->worker].length == 0)
            scale->touched[scale->touched_count++] = (uint32_t)action->worker;
        strbuf_add(&scale->batches[action->worker], &action->task, sizeof(action->task));
        break;
    case ACTION_CLAIM:
        tell(scale, EVENT_CLAIM_WON, 0, action->block, 0);
        break;
    case ACTION_DROP:
        post(scale, action->worker,
             &(struct message){.kind = MESSAGE_DROP, .tasks = &action->task, .count = 1});
        break;
    default:
        post(scale, action->worker, &(struct message){.kind = MESSAGE_STOP});
        break;
    }
}

static void take_actions(struct scale *scale)
{
    struct coordinator_action action;
    while (coordinator_next_action(scale->coordinator, &action))
        act(scale, &action);
    for (size_t i = 0; i < scale->touched_count; i++) {
        struct strbuf *batch = &scale->batches[scale->touched[i]];
        post(scale, (int)scale->touched[i],
             &(struct message){.kind = MESSAGE_LEASE,
                               .tasks = (uint32_t *)(void *)batch->bytes,
                               .count = batch->length / sizeof(uint32_t)});
        strbuf_reset(batch);
    }
    scale->touched_count = 0;
}

static void receive(struct scale *scale, int worker, const struct message *message)
{
    if (message->kind == MESSAGE_HELLO)
        tell(scale, EVENT_WORKER_JOINED, worker, 0, message->window);
    if (message->kind == MESSAGE_BYE)
        tell(scale, EVENT_WORKER_LEFT, worker, 0, 0);
    for (size_t i = 0; i < message->count; i++)
        tell(scale, EVENT_COMMITTED, worker, message->tasks[i], 0);
    take_actions(scale);
}

static void handle_event(struct scale *scale, const struct sim_event *event)
{
    struct scale_worker *worker = &scale->workers[event->worker];
    struct message message;
    struct error err;
    if (event->kind == SIM_START_WORKER)
        start_worker(scale, event->worker);
    if (event->kind == SIM_WAKE_WORKER) {
        worker->next_wake_seconds = INFINITY;
        run_agent(worker);
    }
    if (event->kind != SIM_TO_WORKER && event->kind != SIM_TO_HEAD)
        return;
    (void)message_decode(event->bytes.bytes, event->bytes.length, &message, &err);
    if (event->kind == SIM_TO_HEAD) {
        receive(scale, event->worker, &message);
    } else {
        (void)agent_receive(worker->agent, &message, &err);
        run_agent(worker);
    }
    message_release(&message);
}

static void create(struct scale *scale, size_t workers, size_t tasks)
{
    const struct coordinator_options options = {.tasks = tasks,
                                                .max_workers = workers,
                                                .expected_workers = workers,
                                                .lease_seconds = 7200,
                                                .late_seconds = 10,
                                                .max_attempts = 3,
                                                .claim_retry_seconds = 2};
    scale->coordinator = coordinator_create(&options);
    for (size_t t = 0; t < tasks; t += BLOCK_TASKS)
        (void)coordinator_add_block(scale->coordinator, (uint32_t)t,
                                    (uint32_t)(tasks - t < BLOCK_TASKS ? tasks - t : BLOCK_TASKS));
    scale->workers = mem_calloc(workers, sizeof(*scale->workers));
    scale->batches = mem_calloc(workers, sizeof(*scale->batches));
    scale->touched = mem_calloc(workers, sizeof(*scale->touched));
    for (size_t w = 0; w < workers; w++)
        sim_schedule(&scale->world, (struct sim_event){.kind = SIM_START_WORKER, .worker = (int)w},
                     sim_uniform(&scale->world));
}

static void destroy(struct scale *scale, size_t workers)
{
    sim_clear_events(&scale->world);
    for (size_t w = 0; w < workers; w++) {
        agent_destroy(scale->workers[w].agent);
        strbuf_release(&scale->batches[w]);
    }
    coordinator_destroy(scale->coordinator);
    free(scale->world.queue);
    free(scale->workers);
    free(scale->batches);
    free(scale->touched);
}

static double cpu_seconds(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)usage.ru_utime.tv_sec + (double)usage.ru_stime.tv_sec +
           1e-6 * (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

void sim_run_scale(size_t workers, size_t tasks, struct sim_scale *out)
{
    struct scale scale = {.world = {.seed = 1}};
    struct sim_event event;
    struct rusage usage;
    const double begin = cpu_seconds();
    create(&scale, workers, tasks);
    while (!coordinator_ended(scale.coordinator) && sim_next_event(&scale.world, &event)) {
        handle_event(&scale, &event);
        strbuf_release(&event.bytes);
    }
    *out = scale.figures;
    out->done = coordinator_counts(scale.coordinator).done;
    out->span_seconds = scale.world.now_seconds;
    destroy(&scale, workers);
    getrusage(RUSAGE_SELF, &usage);
    out->peak_bytes = 1024.0 * (double)usage.ru_maxrss;
    out->cpu_seconds = cpu_seconds() - begin;
}
