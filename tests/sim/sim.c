// SPDX-License-Identifier: Apache-2.0
// One story: the shape of the cluster is drawn from the seed, the job is started until it is
// complete, and then the disk is read as a reader would.
#include "tests/sim/sim.h"

#include "base/mem.h"
#include "tests/sim/world.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_EVENTS 5000000     // a job that needs more does not end
#define MAX_SECONDS 1e8        // of simulated time
#define TICK_SECONDS 1.0       // of the coordinator's clock and of the supervisor
#define SLOW_FACTOR 30         // of slow workers
#define START_SPREAD_SECONDS 2 // workers do not start at once

static size_t draw_size(struct sim_world *world, size_t most)
{
    return (size_t)floor(exp(sim_uniform(world) * log((double)most + 1)));
}

// Each fault is absent in half of the stories, so that simple stories are told too.
static double draw_fault(struct sim_world *world, double most)
{
    const double rate = sim_uniform(world) * most;
    return sim_chance(world, 0.5) || world->shape.calm ? 0 : rate;
}

static void draw_shape(struct sim_world *world)
{
    struct sim_shape *shape = &world->shape;
    shape->calm = sim_chance(world, 0.1);
    shape->workers = draw_size(world, sim_chance(world, 0.02) ? 3000 : 40);
    shape->tasks = sim_chance(world, 0.02) ? 0 : draw_size(world, 10 * shape->workers + 300);
    shape->expected_workers = sim_chance(world, 0.5) ? shape->workers : 0;
    shape->window = (uint32_t)draw_size(world, 32);
    shape->commit_seconds = sim_uniform(world) * 10;
    shape->lease_seconds = shape->calm ? 1e6 : 15 + sim_uniform(world) * 200;
    shape->max_attempts = 1 + (int)(sim_uniform(world) * 4);
    shape->delay_seconds = 0.001 + sim_uniform(world) * 0.2;
    shape->loss = draw_fault(world, 0.1);
    shape->duplicate = draw_fault(world, 0.1);
    shape->long_delay = draw_fault(world, 0.1);
    shape->crash = draw_fault(world, 0.02);
    shape->disk_full = draw_fault(world, 0.05);
    shape->poisoned = sim_chance(world, 0.5) ? 0 : sim_uniform(world) * 0.1;
    shape->endless = draw_fault(world, 1) > 0.7 ? 2 : 0;
    shape->slow_workers = draw_fault(world, 0.5);
    shape->dependent = sim_chance(world, 0.5) ? 0 : sim_uniform(world);
    shape->priorities = sim_chance(world, 0.5);
    shape->quiet_seconds = sim_uniform(world) * 600;
    shape->restart_seconds = 0.1 + sim_uniform(world) * 30;
    world->stats.tasks = shape->tasks;
    world->stats.workers = shape->workers;
}

static void create_world(struct sim_world *world)
{
    draw_shape(world);
    const struct sim_shape *shape = &world->shape;
    world->first_row = mem_calloc(shape->tasks, sizeof(*world->first_row));
    world->ever_leased = mem_calloc(shape->tasks, sizeof(*world->ever_leased));
    world->workers = mem_calloc(shape->workers, sizeof(*world->workers));
    for (size_t t = 0; t < shape->tasks; t++)
        world->first_row[t] = SIM_NO_ROW;
    sim_draw_dependencies(world);
    for (size_t w = 0; w < shape->workers; w++) {
        world->workers[w].world = world;
        world->workers[w].number = (int)w;
        world->workers[w].slowness = sim_chance(world, shape->slow_workers) ? SLOW_FACTOR : 1;
    }
}

static void destroy_world(struct sim_world *world)
{
    sim_clear_events(world);
    for (size_t w = 0; w < world->shape.workers; w++)
        sim_worker_end(&world->workers[w]);
    free(world->queue);
    free(world->rows);
    free(world->first_row);
    free(world->ever_leased);
    free(world->prerequisites);
    free(world->prerequisite_counts);
    free(world->dependents);
    free(world->dependent_offsets);
    free(world->execution_tasks);
    free(world->workers);
}

// Before the faults end the job may be asked to stop or be killed, at any time.
static void plan_interruptions(struct sim_world *world)
{
    const double left = world->shape.quiet_seconds - world->now_seconds;
    if (left > 0 && sim_chance(world, 0.4))
        sim_schedule(world, (struct sim_event){.kind = SIM_STOP}, sim_uniform(world) * left);
    if (left > 0 && !world->shape.calm && sim_chance(world, 0.4))
        sim_schedule(world, (struct sim_event){.kind = SIM_KILL_JOB}, sim_uniform(world) * left);
}

static void start_job(struct sim_world *world)
{
    world->run++;
    world->stats.runs++;
    sim_head_start(world);
    for (size_t w = 0; w < world->shape.workers; w++) {
        const struct sim_event start = {.kind = SIM_START_WORKER,
                                        .worker = (int)w,
                                        .incarnation = world->workers[w].incarnation + 1};
        sim_schedule(world, start, sim_uniform(world) * START_SPREAD_SECONDS);
    }
    sim_schedule(world, (struct sim_event){.kind = SIM_TICK}, TICK_SECONDS);
    plan_interruptions(world);
}

// Every process of the job is gone, and with it every message.
static void end_job(struct sim_world *world)
{
    sim_clear_events(world);
    for (size_t w = 0; w < world->shape.workers; w++) {
        if (world->workers[w].alive)
            sim_worker_end(&world->workers[w]);
    }
    sim_head_end(world);
}

static void worker_lost(struct sim_world *world, const struct sim_event *event)
{
    const struct model_worker *worker = &world->head.workers[event->worker];
    if (!worker->present || worker->incarnation != event->incarnation)
        return;
    sim_tell_story(world, "the coordinator learns that worker %d was lost", event->worker);
    sim_head_tell(world, EVENT_WORKER_LOST, event->worker, 0, 0);
}

// The coordinator's process may die between its commit and taking note of it.
static void aside_durable(struct sim_world *world, uint32_t task)
{
    sim_commit_row(world, (struct sim_row){.task = task, .execution = SIM_SET_ASIDE});
    if (!sim_quiet(world) && sim_chance(world, world->shape.crash))
        sim_schedule(world, (struct sim_event){.kind = SIM_KILL_JOB}, 0);
    else
        sim_head_tell(world, EVENT_SET_ASIDE_COMMITTED, 0, task, 0);
}

static void handle_event(struct sim_world *world, const struct sim_event *event)
{
    switch (event->kind) {
    case SIM_START_WORKER:
        sim_worker_start(world, event->worker, event->incarnation);
        break;
    case SIM_WAKE_WORKER:
        sim_worker_wake(world, event);
        break;
    case SIM_TO_WORKER:
        sim_worker_receive(world, event);
        break;
    case SIM_TO_HEAD:
        sim_head_receive(world, event);
        break;
    case SIM_WORKER_LOST:
        worker_lost(world, event);
        break;
    case SIM_ASIDE_DURABLE:
        aside_durable(world, event->task);
        break;
    case SIM_TICK:
        sim_head_tick(world);
        sim_schedule(world, (struct sim_event){.kind = SIM_TICK}, TICK_SECONDS);
        break;
    case SIM_STOP:
        sim_tell_story(world, "the job is asked to stop");
        sim_head_tell(world, EVENT_STOP_REQUESTED, 0, 0, 0);
        break;
    case SIM_KILL_JOB:
        sim_tell_story(world, "the job is killed");
        end_job(world);
        start_job(world);
        break;
    }
}

static void check_row(struct sim_world *world, uint32_t task)
{
    const size_t row = world->first_row[task];
    const bool poisoned = sim_task_is_poisoned(world, task) || sim_task_is_endless(world, task);
    if (row == SIM_NO_ROW) {
        sim_broken(world, "task %u was lost: the job is complete without its row", task);
        return;
    }
    const bool aside = world->rows[row].execution == SIM_SET_ASIDE;
    if (poisoned && !aside)
        sim_broken(world, "task %u is poisoned, but counts as done", task);
    if (world->shape.calm && aside && !poisoned)
        sim_broken(world, "task %u was set aside though nothing went wrong", task);
    world->stats.aside += aside;
}

// Reads the disk as a reader does: of the rows of a task the earliest counts.
static void check_disk(struct sim_world *world)
{
    const struct coordinator_counts counts = world->machine->counts(world->head.machine);
    for (uint32_t t = 0; t < world->shape.tasks; t++)
        check_row(world, t);
    if (counts.done + counts.aside != world->shape.tasks)
        sim_broken(world, "complete with %zu done and %zu set aside of %zu tasks", counts.done,
                   counts.aside, world->shape.tasks);
    if (world->shape.calm && world->stats.duplicate_rows > 0)
        sim_broken(world, "%zu rows are duplicates though nothing went wrong",
                   world->stats.duplicate_rows);
}

// Plays until the job is complete or a promise is broken.
static void play(struct sim_world *world)
{
    struct sim_event event;
    start_job(world);
    while (!world->broken && sim_next_event(world, &event)) {
        world->stats.events++;
        handle_event(world, &event);
        strbuf_release(&event.bytes);
        if (world->stats.events > MAX_EVENTS || world->now_seconds > MAX_SECONDS)
            sim_broken(world, "the job does not end");
        if (world->broken || !sim_head_is_over(world))
            continue;
        if (world->machine->complete(world->head.machine)) {
            check_disk(world);
            break;
        }
        end_job(world);
        start_job(world);
    }
    if (world->head.machine)
        end_job(world);
}

int sim_run(uint64_t seed, const struct sim_machine *machine, FILE *story, struct sim_stats *stats,
            struct error *err)
{
    struct sim_world world = {.seed = seed, .machine = machine, .story = story, .err = err};
    create_world(&world);
    play(&world);
    world.stats.executions = world.executions;
    sim_tell_story(&world, "the end: %zu tasks, %zu set aside, %zu executions, %zu duplicate rows",
                   world.stats.tasks, world.stats.aside, world.executions,
                   world.stats.duplicate_rows);
    destroy_world(&world);
    *stats = world.stats;
    return world.broken ? -1 : 0;
}
