// SPDX-License-Identifier: Apache-2.0
// One story: the shape of the cluster is drawn from the seed, every job is started until it has
// seen everything done, and then the disk is read as a reader would.
#include "tests/sim/sim.h"

#include "base/mem.h"
#include "tests/sim/world.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_EVENTS 1000000 // jobs that need more do not end
#define MAX_SECONDS 1e8    // of simulated time
#define CLOCK_JUMP 2000.0  // of the file server, at most

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

static void draw_faults(struct sim_world *world)
{
    struct sim_shape *shape = &world->shape;
    shape->loss = draw_fault(world, 0.1);
    shape->duplicate = draw_fault(world, 0.1);
    shape->long_delay = draw_fault(world, 0.1);
    shape->crash = draw_fault(world, 0.02);
    shape->pause = draw_fault(world, 0.01);
    shape->disk_full = draw_fault(world, 0.05);
    shape->poisoned = sim_chance(world, 0.5) ? 0 : sim_uniform(world) * 0.1;
    shape->endless = draw_fault(world, 1) > 0.7 ? 2 : 0;
    shape->slow_workers = draw_fault(world, 0.5);
    shape->quiet_seconds = sim_uniform(world) * 600;
    shape->restart_seconds = 0.1 + sim_uniform(world) * 30;
}

static void draw_claims(struct sim_world *world)
{
    struct sim_shape *shape = &world->shape;
    shape->claims = shape->jobs > 1 || sim_chance(world, 0.5);
    shape->block_tasks = 1 + (uint32_t)draw_size(world, 30);
    shape->beat_seconds = 1 + sim_uniform(world) * 3;
    shape->stale_seconds = (4 + sim_uniform(world) * 8) * shape->beat_seconds;
    shape->knows_the_dead = sim_chance(world, 0.5);
}

static void draw_shape(struct sim_world *world)
{
    struct sim_shape *shape = &world->shape;
    const double crowd = sim_uniform(world);
    shape->calm = sim_chance(world, 0.1);
    shape->jobs = crowd < 0.4 ? 1 : crowd < 0.8 ? 2 : 3 + sim_chance(world, 0.5);
    shape->workers = draw_size(world, sim_chance(world, 0.01) ? 1000 : 40);
    shape->tasks = sim_chance(world, 0.02) ? 0 : draw_size(world, 10 * shape->workers + 300);
    shape->expected_workers = sim_chance(world, 0.5) ? shape->workers : 0;
    shape->window = (uint32_t)draw_size(world, 32);
    shape->commit_seconds = sim_uniform(world) * 10;
    shape->lease_seconds = shape->calm ? 1e6 : 15 + sim_uniform(world) * 200;
    shape->late_seconds = sim_chance(world, 0.3) || shape->calm ? 0 : 1 + sim_uniform(world) * 20;
    shape->max_attempts = 1 + (int)(sim_uniform(world) * 4);
    shape->delay_seconds = 0.001 + sim_uniform(world) * 0.2;
    shape->dependent = sim_chance(world, 0.5) ? 0 : sim_uniform(world);
    shape->priorities = sim_chance(world, 0.5);
    draw_claims(world);
    draw_faults(world);
    world->stats.tasks = shape->tasks;
    world->stats.workers = shape->workers;
    world->stats.jobs = shape->jobs;
}

static double disk_uniform(void *state)
{
    return sim_uniform(state);
}

static int64_t server_time(void *state)
{
    const struct sim_world *world = state;
    return (int64_t)((world->now_seconds + world->server_offset) * 1e9);
}

static void cut_into_blocks(struct sim_world *world)
{
    const uint32_t tasks = (uint32_t)world->shape.tasks, each = world->shape.block_tasks;
    world->blocks = mem_calloc(tasks / each + 1, sizeof(*world->blocks));
    for (uint32_t t = 0; t < tasks; t += each)
        world->blocks[world->block_count++] =
            (struct sharing_block){t, tasks - t < each ? tasks - t : each};
}

static void create_world(struct sim_world *world)
{
    draw_shape(world);
    const struct sim_shape *shape = &world->shape;
    const struct sim_disk_chance chance = {world, disk_uniform, server_time};
    world->disk = sim_disk_create(&chance);
    world->ever_leased = mem_calloc(shape->tasks, sizeof(*world->ever_leased));
    world->acknowledged = mem_calloc(shape->tasks, sizeof(*world->acknowledged));
    sim_draw_dependencies(world);
    cut_into_blocks(world);
    for (size_t j = 0; j < shape->jobs; j++) {
        sim_job_init(&world->jobs[j], world, (int)j);
        sim_schedule_job(&world->jobs[j], (struct sim_event){.kind = SIM_START_JOB},
                         j > 0 ? sim_uniform(world) * (sim_chance(world, 0.5) ? 3 : 100) : 0);
    }
    if (!shape->calm && sim_chance(world, 0.2))
        sim_schedule(world, (struct sim_event){.kind = SIM_POWER_LOSS, .job = SIM_NO_JOB},
                     sim_uniform(world) * shape->quiet_seconds);
}

static void destroy_world(struct sim_world *world)
{
    sim_clear_events(world);
    for (size_t j = 0; j < world->shape.jobs; j++)
        sim_job_release(&world->jobs[j]);
    sim_disk_destroy(world->disk);
    free(world->queue);
    free(world->deferred);
    free(world->blocks);
    free(world->ever_leased);
    free(world->acknowledged);
    free(world->prerequisites);
    free(world->prerequisite_counts);
    free(world->dependents);
    free(world->dependent_offsets);
    free(world->execution_tasks);
}

static void worker_lost(struct sim_job *job, const struct sim_event *event)
{
    const struct model_worker *worker = &job->head.workers[event->worker];
    if (!worker->present || worker->incarnation != event->incarnation)
        return;
    sim_tell_story(job->world, "job %d learns that worker %d was lost", job->number, event->worker);
    sim_head_tell(job, EVENT_WORKER_LOST, event->worker, 0, 0);
}

static void lose_power(struct sim_world *world)
{
    sim_tell_story(world, "power is lost");
    for (size_t j = 0; j < world->shape.jobs; j++) {
        if (world->jobs[j].state == SIM_JOB_RUNNING)
            sim_job_kill(&world->jobs[j], false);
    }
    sim_disk_crash(world->disk, SIM_ALL_MACHINES);
}

static void handle_running(struct sim_job *job, const struct sim_event *event)
{
    switch (event->kind) {
    case SIM_START_WORKER:
        sim_worker_start(job, event->worker, event->incarnation);
        break;
    case SIM_WAKE_WORKER:
        sim_worker_wake(job, event);
        break;
    case SIM_TO_WORKER:
        sim_worker_receive(job, event);
        break;
    case SIM_TO_HEAD:
        sim_head_receive(job, event);
        break;
    case SIM_WORKER_LOST:
        worker_lost(job, event);
        break;
    case SIM_SET_ASIDE:
        sim_head_set_aside(job, event->task);
        break;
    case SIM_TICK:
        sim_job_tick(job);
        break;
    case SIM_STOP:
        sim_tell_story(job->world, "job %d is asked to stop", job->number);
        sim_head_tell(job, EVENT_STOP_REQUESTED, 0, 0, 0);
        break;
    default:
        job->failed = true; // it is killed
        break;
    }
}

// The file server's clock jumps now and then; no host's clock has anything to do with it.
static void let_clock_jump(struct sim_world *world)
{
    if (!sim_quiet(world) && !world->shape.calm && sim_chance(world, 0.0005))
        world->server_offset += (sim_uniform(world) - 0.5) * CLOCK_JUMP;
}

void sim_handle_event(struct sim_world *world, const struct sim_event *event)
{
    world->stats.events++;
    let_clock_jump(world);
    if (event->kind == SIM_POWER_LOSS) {
        lose_power(world);
        return;
    }
    struct sim_job *job = &world->jobs[event->job];
    if (job->life != event->life)
        return;
    if (event->kind == SIM_START_JOB && job->state == SIM_JOB_AWAY)
        sim_job_start(job);
    else if (job->state == SIM_JOB_RUNNING && event->kind != SIM_START_JOB)
        handle_running(job, event);
    sim_job_end_when_over(job);
}

static void check_task(struct sim_world *world, const struct sim_reader *reader, uint32_t task)
{
    const struct sim_row *row = sim_reader_find(reader, task);
    const bool poisoned = sim_task_is_poisoned(world, task) || sim_task_is_endless(world, task);
    if (!row) {
        sim_broken(world, "task %u was lost: the jobs are complete without its row", task);
        return;
    }
    const bool aside = row->execution == SIM_SET_ASIDE_ROW;
    if (!world->ever_leased[task])
        sim_broken(world, "task %u has a row, but was never leased", task);
    if (poisoned && !aside)
        sim_broken(world, "task %u is poisoned, but counts as done", task);
    if (world->shape.calm && aside && !poisoned)
        sim_broken(world, "task %u was set aside though nothing went wrong", task);
    world->stats.aside += aside;
    world->stats.duplicate_rows += sim_reader_rows(reader, task) - 1;
}

static void check_disk(struct sim_world *world)
{
    struct sim_reader *reader = sim_read_disk(world);
    for (uint32_t t = 0; t < world->shape.tasks && !world->broken; t++)
        check_task(world, reader, t);
    sim_reader_destroy(reader);
    if (world->shape.calm && world->stats.duplicate_rows > 0)
        sim_broken(world, "%zu rows are duplicates though nothing went wrong",
                   world->stats.duplicate_rows);
}

static bool all_complete(const struct sim_world *world)
{
    for (size_t j = 0; j < world->shape.jobs; j++) {
        if (world->jobs[j].state != SIM_JOB_COMPLETE)
            return false;
    }
    return true;
}

// Plays until every job is complete or a promise is broken.
static void play(struct sim_world *world)
{
    struct sim_event event;
    while (!world->broken && !all_complete(world) && sim_next_event(world, &event)) {
        sim_handle_event(world, &event);
        strbuf_release(&event.bytes);
        if (world->stats.events > MAX_EVENTS || world->now_seconds > MAX_SECONDS)
            sim_broken(world, "the jobs do not end");
    }
    if (!world->broken)
        check_disk(world);
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
