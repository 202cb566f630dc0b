// SPDX-License-Identifier: Apache-2.0
// A simulated job: an attempt directory, claims, a coordinator and workers; its lives one after the
// other, and what the file server does to its processes.
#include "base/mem.h"
#include "datasets/reflections.h"
#include "tests/sim/world.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MACHINES_OF_JOB 10000  // numbers
#define MAX_DEPTH 2            // of pauses inside of pauses
#define TICK_SECONDS 1.0       // of the coordinator's clock and of the supervisor
#define START_SPREAD_SECONDS 2 // workers do not start at once
#define CRASH_IN_FILES 0.05    // of the chance to die at another action: files see many
#define MACHINE_CRASH 0.4      // of killed processes, their machine with them

double sim_now(const struct sim_job *job)
{
    return job->world->now_seconds + job->clock_offset;
}

// Everything else goes on while this job stands still.
static void pause_job(struct sim_job *job)
{
    struct sim_world *world = job->world;
    const double seconds = sim_exponential(world, world->shape.stale_seconds);
    const double until = world->now_seconds + seconds;
    struct sim_event event;
    sim_tell_story(world, "job %d is paused for %.1f s in the middle of something", job->number,
                   seconds);
    job->busy = true;
    world->depth++;
    while (!world->broken && sim_next_event_of_others(world, until, &event)) {
        sim_handle_event(world, &event);
        strbuf_release(&event.bytes);
    }
    world->depth--;
    job->busy = false;
    world->now_seconds = fmax(world->now_seconds, until);
    job->paused_seconds += world->now_seconds - (until - seconds);
    job->calm_ticks = 0;
    sim_requeue_deferred(world);
}

static int before_operation(void *state, bool writes)
{
    struct sim_process *process = state;
    struct sim_world *world = process->job->world;
    const struct sim_shape *shape = &world->shape;
    if (process->dying)
        return -EIO;
    if (sim_quiet(world))
        return 0;
    if (sim_chance(world, shape->crash * CRASH_IN_FILES)) {
        sim_tell_story(world, "a process of job %d dies between two operations on files",
                       process->job->number);
        process->dying = true;
        return -EIO;
    }
    if (writes && sim_chance(world, shape->disk_full))
        return -ENOSPC;
    if (world->depth < MAX_DEPTH && sim_chance(world, shape->pause))
        pause_job(process->job);
    return 0;
}

void sim_process_init(struct sim_process *process, struct sim_job *job)
{
    *process = (struct sim_process){.job = job};
    process->client =
        (struct sim_client){.disk = job->world->disk,
                            .machine = job->number * MACHINES_OF_JOB,
                            .state = process,
                            .before = before_operation,
                            .skips_directory_sync = job->world->machine->skips_directory_sync,
                            .misreads_claims = job->world->machine->takes_live_claims};
    sim_client_init(&process->client);
}

void sim_job_init(struct sim_job *job, struct sim_world *world, int number)
{
    *job = (struct sim_job){.world = world, .number = number, .worker_count = world->shape.workers};
    job->clock_offset = sim_uniform(world) * 1e5;
    job->workers = mem_calloc(job->worker_count, sizeof(*job->workers));
    for (size_t w = 0; w < job->worker_count; w++) {
        job->workers[w].number = (int)w;
        job->workers[w].process.job = job;
        job->workers[w].slowness = sim_chance(world, world->shape.slow_workers) ? 30 : 1;
    }
}

static void plan_restart(struct sim_job *job)
{
    job->state = SIM_JOB_AWAY;
    sim_schedule_job(job, (struct sim_event){.kind = SIM_START_JOB},
                     sim_exponential(job->world, job->world->shape.restart_seconds));
}

// What this life had in memory.
static void forget_life(struct sim_job *job)
{
    for (size_t w = 0; w < job->worker_count; w++) {
        if (job->workers[w].alive)
            sim_worker_end(&job->workers[w]);
    }
    sim_head_end(job);
    claims_close(job->claims);
    sim_reader_destroy(job->reader);
    free(job->known_before);
    free(job->attempt);
    free(job->owner_path);
    job->known_before = NULL;
    job->claims = NULL;
    job->reader = NULL;
    job->attempt = job->owner_path = NULL;
}

void sim_job_release(struct sim_job *job)
{
    if (!job->world)
        return;
    if (job->state == SIM_JOB_RUNNING)
        forget_life(job);
    free(job->workers);
}

void sim_job_kill(struct sim_job *job, bool crash)
{
    sim_tell_story(job->world, "job %d is gone%s", job->number, crash ? " with its machine" : "");
    forget_life(job);
    if (crash)
        sim_disk_crash(job->world->disk, job->number * MACHINES_OF_JOB);
    plan_restart(job);
}

// A process is known to be gone when its line says so and the life it names is over.
static struct sim_world *the_world; // of claims_options.is_gone, which has no state

static bool is_gone(const char *process)
{
    int number = 0, life = 0;
    if (sscanf(process, "job %d life %d", &number, &life) != 2)
        return false;
    const struct sim_job *job = &the_world->jobs[number];
    return job->life != life || job->state != SIM_JOB_RUNNING;
}

static int open_claims(struct sim_job *job, struct error *err)
{
    const struct sim_shape *shape = &job->world->shape;
    char process[CLAIMS_PROCESS_BYTES];
    snprintf(process, sizeof(process), "job %d life %d", job->number, job->life);
    snprintf(job->owner, sizeof(job->owner), "%s", strrchr(job->attempt, '/') + 1);
    job->owner_path = claims_owner_path(SIM_DIRECTORY "/claims", job->owner);
    const struct claims_options options = {.fs = &job->head.process.client.fs,
                                           .directory = SIM_DIRECTORY "/claims",
                                           .owner = job->owner,
                                           .process = process,
                                           .blocks =
                                               (uint32_t)(job->world->block_count + shape->tasks),
                                           .beat_seconds = shape->beat_seconds,
                                           .stale_seconds = shape->stale_seconds,
                                           .is_gone = shape->knows_the_dead ? is_gone : NULL};
    the_world = job->world;
    return claims_open(&options, sim_now(job), &job->claims, err);
}

static int look(void *state, struct error *err)
{
    struct sim_job *job = state;
    return sim_reader_refresh(job->reader, &job->head.process.client.fs, err);
}

static bool find(void *state, uint32_t task, bool *aside)
{
    const struct sim_job *job = state;
    const struct sim_row *row = sim_reader_find(job->reader, task);
    *aside = row && row->execution == SIM_SET_ASIDE_ROW;
    return row != NULL;
}

static void tell(void *state, const struct coordinator_event *event)
{
    sim_head_handle(state, event);
}

static int begin(struct sim_job *job, struct error *err)
{
    const struct sim_shape *shape = &job->world->shape;
    if (reflections_begin_attempt(&job->head.process.client.fs, SIM_DIRECTORY, &job->attempt, err))
        return -1;
    if (shape->claims && open_claims(job, err))
        return -1;
    if (look(job, err))
        return -1;
    job->sharing_options = (struct sharing_options){.blocks = job->world->blocks,
                                                    .block_count = job->world->block_count,
                                                    .claims = job->claims,
                                                    .tasks = shape->tasks,
                                                    .look_seconds = 5,
                                                    .patience_seconds = shape->stale_seconds,
                                                    .expected_jobs = shape->jobs,
                                                    .expected_seconds = sim_now(job) + 10,
                                                    .state = job,
                                                    .tell = tell,
                                                    .look = look,
                                                    .find = find};
    return 0;
}

void sim_job_start(struct sim_job *job)
{
    struct sim_world *world = job->world;
    struct error err;
    job->life++;
    job->state = SIM_JOB_RUNNING;
    job->failed = false;
    job->paused_seconds = 0;
    job->calm_ticks = 0;
    world->stats.runs++;
    sim_process_init(&job->head.process, job);
    job->reader = sim_reader_create(world);
    job->known_before =
        mem_dup(world->acknowledged, world->shape.tasks * sizeof(*job->known_before));
    if (begin(job, &err)) {
        sim_tell_story(world, "job %d cannot start: %s", job->number, err.text);
        job->failed = true;
        return;
    }
    sim_head_start(job);
    for (size_t w = 0; w < job->worker_count; w++) {
        const struct sim_event start = {.kind = SIM_START_WORKER,
                                        .worker = (int)w,
                                        .incarnation = job->workers[w].incarnation + 1};
        sim_schedule_job(job, start, sim_uniform(world) * START_SPREAD_SECONDS);
    }
    sim_schedule_job(job, (struct sim_event){.kind = SIM_TICK}, TICK_SECONDS);
    const double left = world->shape.quiet_seconds - world->now_seconds;
    if (left > 0 && sim_chance(world, 0.4))
        sim_schedule_job(job, (struct sim_event){.kind = SIM_STOP}, sim_uniform(world) * left);
    if (left > 0 && !world->shape.calm && sim_chance(world, 0.4))
        sim_schedule_job(job, (struct sim_event){.kind = SIM_KILL_JOB}, sim_uniform(world) * left);
}

// A job that beats on time is never taken for dead: it has missed beats for stale_seconds or, when
// the file server's clock has jumped, CLAIMS_MISSED_BEATS of them.
static void check_fence(struct sim_job *job)
{
    const struct sim_shape *shape = &job->world->shape;
    const double missed = CLAIMS_MISSED_BEATS * shape->beat_seconds;
    const double silence = job->world->server_offset != 0 && missed < shape->stale_seconds
                               ? missed
                               : shape->stale_seconds;
    if (!claims_are_over(job->claims))
        return;
    sim_tell_story(job->world, "job %d finds that it was taken for dead", job->number);
    if (job->paused_seconds < silence - shape->beat_seconds - 2 * TICK_SECONDS)
        sim_broken(job->world, "job %d is taken for dead after a pause of %.1f s", job->number,
                   job->paused_seconds);
}

// Pauses add up while no beat comes between them.
static void note_calm(struct sim_job *job)
{
    if (job->sharing.failing) {
        job->paused_seconds += TICK_SECONDS;
        job->calm_ticks = 0;
    } else if (++job->calm_ticks > job->world->shape.beat_seconds + 2 * TICK_SECONDS) {
        job->paused_seconds = 0;
    }
}

static void share(struct sim_job *job)
{
    struct error err;
    const bool was_stopping = job->head.stopping;
    if (sharing_step(&job->sharing, sim_now(job), &err)) {
        sim_tell_story(job->world, "job %d fails: %s", job->number, err.text);
        job->failed = true;
    }
    if (!was_stopping)
        check_fence(job);
    note_calm(job);
}

void sim_job_tick(struct sim_job *job)
{
    sim_head_tick(job);
    if (job->claims && !job->failed && !job->head.process.dying && !job->world->broken)
        share(job);
    sim_schedule_job(job, (struct sim_event){.kind = SIM_TICK}, TICK_SECONDS);
}

// Whoever else has claims there.
static void remove_all_claims(struct sim_job *job)
{
    struct fs *fs = &job->head.process.client.fs;
    struct fs_names names;
    struct error err;
    if (fs_list(fs, SIM_DIRECTORY "/claims/owners", &names, &err))
        return;
    for (size_t i = 0; i < names.count; i++) {
        char *path = fs_join(SIM_DIRECTORY "/claims/owners", names.names[i]);
        (void)fs->ops->remove(fs->state, path);
        free(path);
    }
    fs_names_release(&names);
}

static void end_well(struct sim_job *job)
{
    struct error err;
    const bool complete = job->world->machine->complete(job->head.machine);
    sim_tell_story(job->world, "job %d ends: %s", job->number, complete ? "complete" : "stopped");
    if (job->claims && job->world->machine->cleans_up_early)
        remove_all_claims(job);
    if (job->claims && claims_leave(job->claims, &err) == 0 && complete)
        (void)claims_remove(job->claims, &err);
    forget_life(job);
    if (complete)
        job->state = SIM_JOB_COMPLETE;
    else
        plan_restart(job);
}

void sim_job_end_when_over(struct sim_job *job)
{
    struct sim_world *world = job->world;
    if (job->state != SIM_JOB_RUNNING || job->busy || world->broken)
        return;
    if (job->failed || job->head.process.dying)
        sim_job_kill(job, !sim_quiet(world) && sim_chance(world, MACHINE_CRASH));
    else if (sim_head_is_over(job))
        end_well(job);
}
