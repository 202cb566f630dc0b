// SPDX-License-Identifier: Apache-2.0
// Simulated worker processes: a real agent over the simulated network, and a runner that spends
// simulated time. Every function that the agent calls is a point where the process may die; then it
// fails, and nothing that the agent still does has an effect.
#include "base/mem.h"
#include "tests/sim/world.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TASK_SECONDS 1.0
#define MACHINE_CRASH 0.4 // of killed processes, their machine with them
#define LONG_TASKS 0.02   // share that takes twenty times as long

static bool dies_here(struct sim_worker *worker, const char *where)
{
    struct sim_world *world = worker->process.job->world;
    if (!worker->process.dying && !sim_quiet(world) && sim_chance(world, world->shape.crash)) {
        sim_tell_story(world, "worker %d.%d dies %s", worker->process.job->number, worker->number,
                       where);
        worker->process.dying = true;
    }
    return worker->process.dying;
}

static void worker_post(struct transport *transport, int peer, const void *bytes, size_t length)
{
    struct sim_worker *worker = transport->state;
    (void)peer;
    if (dies_here(worker, "before a message"))
        return;
    sim_send(worker->process.job, SIM_TO_HEAD, worker->number, worker->incarnation, bytes, length);
    (void)dies_here(worker, "after a message");
}

static int runner_submit(void *state, uint32_t task, struct error *err)
{
    struct sim_worker *worker = state;
    struct sim_world *world = worker->process.job->world;
    if (dies_here(worker, "before a task"))
        return error_set(err, "dead");
    if (worker->running_count == worker->runner.window) {
        sim_broken(world, "worker %d.%d runs more tasks than its window",
                   worker->process.job->number, worker->number);
        return error_set(err, "window");
    }
    if (!world->ever_leased[task])
        sim_broken(world, "worker %d.%d runs task %u, which was never leased",
                   worker->process.job->number, worker->number, task);
    sim_check_prerequisites(world, task);
    for (size_t i = 0; i < worker->running_count; i++) {
        if (worker->running[i].task == task)
            sim_broken(world, "worker %d.%d runs task %u twice at once",
                       worker->process.job->number, worker->number, task);
    }
    const double mean = (sim_chance(world, LONG_TASKS) ? 20 : 1) * TASK_SECONDS * worker->slowness;
    const double seconds =
        sim_task_is_endless(world, task) ? INFINITY : sim_exponential(world, mean);
    world->execution_tasks = mem_grow(world->execution_tasks, &world->execution_capacity,
                                      world->executions + 1, sizeof(*world->execution_tasks));
    world->execution_tasks[world->executions] = task;
    worker->running[worker->running_count++] =
        (struct sim_running){.task = task,
                             .execution = world->executions++,
                             .end_seconds = world->now_seconds + seconds};
    return 0;
}

// A planted bug: the last record is that of an earlier execution.
static void mix_executions(const struct sim_world *world, struct sim_row *row)
{
    for (uint64_t e = row->execution; e-- > 0 && row->record_count > 1;) {
        if (world->execution_tasks[e] == row->task) {
            row->records[row->record_count - 1] = e;
            return;
        }
    }
}

static void keep_row(struct sim_worker *worker, const struct sim_running *ended)
{
    const struct sim_world *world = worker->process.job->world;
    if (worker->uncommitted_count == 0)
        worker->oldest_seconds = world->now_seconds;
    worker->uncommitted = mem_grow(worker->uncommitted, &worker->uncommitted_capacity,
                                   worker->uncommitted_count + 1, sizeof(*worker->uncommitted));
    struct sim_row *row = &worker->uncommitted[worker->uncommitted_count++];
    *row = (struct sim_row){.task = ended->task,
                            .record_count = 1 + ended->task % SIM_MAX_RECORDS,
                            .execution = ended->execution};
    for (uint32_t i = 0; i < row->record_count; i++)
        row->records[i] = ended->execution;
    if (world->machine->mixes_executions)
        mix_executions(world, row);
}

static int runner_poll(void *state, struct task_result *out, struct error *err)
{
    struct sim_worker *worker = state;
    for (size_t i = 0; i < worker->running_count; i++) {
        const struct sim_running ended = worker->running[i];
        if (ended.end_seconds > worker->process.job->world->now_seconds)
            continue;
        if (dies_here(worker, "at the end of a task"))
            return error_set(err, "dead");
        worker->running[i] = worker->running[--worker->running_count];
        *out = (struct task_result){
            .task = ended.task, .pairs = 1, .tokens = 10, .dropped = ended.dropped};
        if (ended.dropped)
            return 1;
        out->failed = sim_task_is_poisoned(worker->process.job->world, ended.task);
        strcpy(out->reason, out->failed ? "poisoned" : "");
        if (!out->failed)
            keep_row(worker, &ended);
        return 1;
    }
    return 0;
}

static int runner_commit(void *state, struct error *err)
{
    struct sim_worker *worker = state;
    struct sim_world *world = worker->process.job->world;
    const int job = worker->process.job->number;
    char name[64];
    if (dies_here(worker, "before a commit"))
        return error_set(err, "dead");
    snprintf(name, sizeof(name), "rank-%04d-%04d%06u", worker->number, worker->incarnation,
             worker->segments);
    const int rc =
        sim_store_rows(&worker->process, name, worker->uncommitted, worker->uncommitted_count, err);
    if (rc < 0)
        return -1;
    sim_tell_story(world, "worker %d.%d %s %zu tasks", job, worker->number,
                   rc == 0 ? "commits" : "is fenced off with", worker->uncommitted_count);
    for (size_t i = 0; i < worker->uncommitted_count && rc == 0; i++)
        world->acknowledged[worker->uncommitted[i].task] = true;
    worker->segments += rc == 0;
    worker->uncommitted_count = 0;
    (void)dies_here(worker, "after a commit, before its report");
    return rc;
}

static void runner_drop(void *state, uint32_t task)
{
    struct sim_worker *worker = state;
    for (size_t i = 0; i < worker->running_count; i++)
        worker->running[i].dropped |= worker->running[i].task == task;
}

static size_t runner_uncommitted_bytes(void *state)
{
    const struct sim_worker *worker = state;
    return worker->uncommitted_count * 1000;
}

void sim_worker_end(struct sim_worker *worker)
{
    agent_destroy(worker->agent);
    free(worker->running);
    free(worker->uncommitted);
    worker->agent = NULL;
    worker->running = NULL;
    worker->uncommitted = NULL;
    worker->running_count = worker->uncommitted_count = worker->uncommitted_capacity = 0;
    worker->alive = worker->process.dying = false;
    worker->segments = 0;
    worker->ended_seconds = worker->process.job->world->now_seconds;
}

// The process is gone: it comes back after a while; the coordinator hears of the loss before or
// after that, or only from the new HELLO.
void sim_worker_kill(struct sim_job *job, int number)
{
    struct sim_world *world = job->world;
    struct sim_worker *worker = &job->workers[number];
    const int incarnation = worker->incarnation, machine = worker->process.client.machine;
    sim_worker_end(worker);
    world->stats.crashes++;
    if (!sim_quiet(world) && sim_chance(world, MACHINE_CRASH))
        sim_disk_crash(world->disk, machine);
    const struct sim_event lost = {
        .kind = SIM_WORKER_LOST, .worker = number, .incarnation = incarnation};
    const struct sim_event start = {
        .kind = SIM_START_WORKER, .worker = number, .incarnation = incarnation + 1};
    sim_schedule_job(job, lost, sim_exponential(world, world->shape.restart_seconds));
    sim_schedule_job(job, start, sim_exponential(world, world->shape.restart_seconds));
}

static void plan_wake(struct sim_worker *worker)
{
    double next = INFINITY;
    for (size_t i = 0; i < worker->running_count; i++)
        next = fmin(next, worker->running[i].end_seconds);
    if (worker->uncommitted_count > 0)
        next = fmin(next, worker->oldest_seconds +
                              worker->process.job->world->shape.commit_seconds + 1e-6);
    if (next >= worker->next_wake_seconds || isinf(next))
        return;
    const double delay = fmax(0, next - worker->process.job->world->now_seconds);
    worker->next_wake_seconds =
        worker->process.job->world->now_seconds + delay; // as sim_schedule rounds it
    const struct sim_event wake = {
        .kind = SIM_WAKE_WORKER, .worker = worker->number, .incarnation = worker->incarnation};
    sim_schedule_job(worker->process.job, wake, delay);
}

// Lets the agent work until it has nothing to do at this time.
static void run_agent(struct sim_worker *worker)
{
    struct sim_world *world = worker->process.job->world;
    struct error err;
    bool busy = true;
    while (busy && worker->alive && !worker->process.dying && !agent_ended(worker->agent)) {
        busy = false;
        if (agent_step(worker->agent, world->now_seconds, &busy, &err) && !worker->process.dying)
            sim_tell_story(world, "worker %d.%d gives up: %s", worker->process.job->number,
                           worker->number, err.text);
    }
    if (worker->process.dying) {
        sim_worker_kill(worker->process.job, worker->number);
    } else if (agent_ended(worker->agent)) {
        sim_tell_story(world, "worker %d.%d has left", worker->process.job->number, worker->number);
        sim_worker_end(worker);
    } else {
        plan_wake(worker);
    }
}

void sim_worker_start(struct sim_job *job, int number, int incarnation)
{
    static const struct transport_ops ops = {.post = worker_post};
    struct sim_world *world = job->world;
    struct sim_worker *worker = &job->workers[number];
    const struct agent_options options = {.commit_seconds = world->shape.commit_seconds,
                                          .commit_bytes = 100000,
                                          .lease_seconds = world->shape.lease_seconds};
    struct error err;
    if (worker->alive || incarnation <= worker->incarnation)
        return;
    sim_tell_story(world, "worker %d.%d starts", job->number, number);
    sim_process_init(&worker->process, job);
    worker->process.client.machine += 1 + number;
    worker->incarnation = incarnation;
    worker->alive = true;
    worker->started_seconds = world->now_seconds;
    worker->next_wake_seconds = INFINITY;
    worker->transport = (struct transport){.ops = &ops, .state = worker, .size = 1};
    worker->runner = (struct task_runner){.state = worker,
                                          .window = world->shape.window,
                                          .submit = runner_submit,
                                          .poll = runner_poll,
                                          .commit = runner_commit,
                                          .drop = runner_drop,
                                          .uncommitted_bytes = runner_uncommitted_bytes};
    worker->running = mem_calloc(worker->runner.window, sizeof(*worker->running));
    if (agent_create(&worker->transport, &worker->runner, &options, &worker->agent, &err))
        sim_broken(world, "agent_create: %s", err.text);
    else if (worker->process.dying)
        sim_worker_kill(job, number);
}

static bool is_for_this_process(const struct sim_worker *worker, const struct sim_event *event)
{
    return worker->alive && worker->incarnation == event->incarnation;
}

void sim_worker_receive(struct sim_job *job, const struct sim_event *event)
{
    struct sim_world *world = job->world;
    struct sim_worker *worker = &job->workers[event->worker];
    struct message message;
    struct error err;
    if (!is_for_this_process(worker, event))
        return;
    if (message_decode(event->bytes.bytes, event->bytes.length, &message, &err)) {
        sim_broken(world, "a worker cannot read a message: %s", err.text);
        return;
    }
    if (agent_receive(worker->agent, &message, &err))
        sim_broken(world, "a worker refuses a message: %s", err.text);
    message_release(&message);
    run_agent(worker);
}

void sim_worker_wake(struct sim_job *job, const struct sim_event *event)
{
    struct sim_worker *worker = &job->workers[event->worker];
    if (!is_for_this_process(worker, event) || event->time < worker->next_wake_seconds)
        return;
    worker->next_wake_seconds = INFINITY;
    run_agent(worker);
}
