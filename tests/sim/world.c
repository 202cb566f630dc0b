// SPDX-License-Identifier: Apache-2.0
// Time, chance, network and disk of the simulated cluster.
#include "tests/sim/world.h"

#include "base/mem.h"
#include "base/random.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>

double sim_uniform(struct sim_world *world)
{
    return random_uniform(world->seed, 0, world->draws++);
}

bool sim_chance(struct sim_world *world, double probability)
{
    return sim_uniform(world) < probability;
}

double sim_exponential(struct sim_world *world, double mean)
{
    return -mean * log(1 - sim_uniform(world));
}

bool sim_quiet(const struct sim_world *world)
{
    return world->now_seconds >= world->shape.quiet_seconds;
}

void sim_tell_story(struct sim_world *world, const char *format, ...)
{
    va_list args;
    if (!world->story)
        return;
    fprintf(world->story, "%10.3f  ", world->now_seconds);
    va_start(args, format);
    vfprintf(world->story, format, args);
    va_end(args);
    fputc('\n', world->story);
}

void sim_broken(struct sim_world *world, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    sim_tell_story(world, "BROKEN: %s", text);
    if (!world->broken)
        error_set(world->err, "seed %llu, %.3f s: %s", (unsigned long long)world->seed,
                  world->now_seconds, text);
    world->broken = true;
}

static bool is_earlier(const struct sim_event *a, const struct sim_event *b)
{
    return a->time != b->time ? a->time < b->time : a->serial < b->serial;
}

static void push(struct sim_world *world, struct sim_event event)
{
    world->queue = mem_grow(world->queue, &world->queue_capacity, world->queue_count + 1,
                            sizeof(*world->queue));
    size_t place = world->queue_count++;
    while (place > 0 && is_earlier(&event, &world->queue[(place - 1) / 2])) {
        world->queue[place] = world->queue[(place - 1) / 2];
        place = (place - 1) / 2;
    }
    world->queue[place] = event;
}

void sim_schedule(struct sim_world *world, struct sim_event event, double delay_seconds)
{
    event.time = world->now_seconds + delay_seconds;
    event.serial = world->serial++;
    push(world, event);
}

void sim_schedule_job(struct sim_job *job, struct sim_event event, double delay_seconds)
{
    event.job = job->number;
    event.life = job->life;
    sim_schedule(job->world, event, delay_seconds);
}

static bool pop(struct sim_world *world, struct sim_event *out)
{
    if (world->queue_count == 0)
        return false;
    *out = world->queue[0];
    const struct sim_event last = world->queue[--world->queue_count];
    size_t place = 0;
    for (size_t child; (child = 2 * place + 1) < world->queue_count; place = child) {
        if (child + 1 < world->queue_count &&
            is_earlier(&world->queue[child + 1], &world->queue[child]))
            child++;
        if (!is_earlier(&world->queue[child], &last))
            break;
        world->queue[place] = world->queue[child];
    }
    if (world->queue_count > 0)
        world->queue[place] = last;
    return true;
}

bool sim_next_event(struct sim_world *world, struct sim_event *out)
{
    if (!pop(world, out))
        return false;
    world->now_seconds = fmax(world->now_seconds, out->time); // later when its job was paused
    return true;
}

static bool must_wait(const struct sim_world *world, const struct sim_event *event)
{
    return event->job == SIM_NO_JOB || world->jobs[event->job].busy;
}

bool sim_next_event_of_others(struct sim_world *world, double until_seconds, struct sim_event *out)
{
    while (world->queue_count > 0 && world->queue[0].time <= until_seconds) {
        if (!must_wait(world, &world->queue[0]))
            return sim_next_event(world, out);
        world->deferred = mem_grow(world->deferred, &world->deferred_capacity,
                                   world->deferred_count + 1, sizeof(*world->deferred));
        (void)pop(world, &world->deferred[world->deferred_count++]);
    }
    return false;
}

void sim_requeue_deferred(struct sim_world *world)
{
    while (world->deferred_count > 0)
        push(world, world->deferred[--world->deferred_count]);
}

void sim_clear_events(struct sim_world *world)
{
    sim_requeue_deferred(world);
    for (size_t i = 0; i < world->queue_count; i++)
        strbuf_release(&world->queue[i].bytes);
    world->queue_count = 0;
}

static double message_delay(struct sim_world *world)
{
    const struct sim_shape *shape = &world->shape;
    if (!sim_quiet(world) && sim_chance(world, shape->long_delay))
        return sim_exponential(world, shape->lease_seconds);
    return sim_exponential(world, shape->delay_seconds);
}

void sim_send(struct sim_job *job, enum sim_event_kind direction, int worker, int incarnation,
              const void *bytes, size_t length)
{
    struct sim_world *world = job->world;
    int copies = 1;
    if (!sim_quiet(world) && sim_chance(world, world->shape.loss))
        copies = 0;
    else if (!sim_quiet(world) && sim_chance(world, world->shape.duplicate))
        copies = 2;
    if (copies != 1)
        sim_tell_story(world, "a message %s worker %d.%d %s",
                       direction == SIM_TO_HEAD ? "from" : "to", job->number, worker,
                       copies == 0 ? "is lost" : "is doubled");
    for (int i = 0; i < copies; i++) {
        struct sim_event event = {.kind = direction, .worker = worker, .incarnation = incarnation};
        strbuf_add(&event.bytes, bytes, length);
        sim_schedule_job(job, event, message_delay(world));
    }
}

bool sim_task_is_endless(const struct sim_world *world, uint32_t task)
{
    return task % 97 == 13 && task / 97 < world->shape.endless;
}

bool sim_task_is_poisoned(const struct sim_world *world, uint32_t task)
{
    return random_uniform(world->seed, 1, task) < world->shape.poisoned;
}
