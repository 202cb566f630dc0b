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

void sim_schedule(struct sim_world *world, struct sim_event event, double delay_seconds)
{
    event.time = world->now_seconds + delay_seconds;
    event.serial = world->serial++;
    event.run = world->run;
    world->queue = mem_grow(world->queue, &world->queue_capacity, world->queue_count + 1,
                            sizeof(*world->queue));
    size_t place = world->queue_count++;
    while (place > 0 && is_earlier(&event, &world->queue[(place - 1) / 2])) {
        world->queue[place] = world->queue[(place - 1) / 2];
        place = (place - 1) / 2;
    }
    world->queue[place] = event;
}

bool sim_next_event(struct sim_world *world, struct sim_event *out)
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
    world->now_seconds = out->time;
    return true;
}

void sim_clear_events(struct sim_world *world)
{
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

void sim_send(struct sim_world *world, enum sim_event_kind direction, int worker, int incarnation,
              const void *bytes, size_t length)
{
    int copies = 1;
    if (!sim_quiet(world) && sim_chance(world, world->shape.loss))
        copies = 0;
    else if (!sim_quiet(world) && sim_chance(world, world->shape.duplicate))
        copies = 2;
    if (copies != 1)
        sim_tell_story(world, "a message %s worker %d %s", direction == SIM_TO_HEAD ? "from" : "to",
                       worker, copies == 0 ? "is lost" : "is doubled");
    for (int i = 0; i < copies; i++) {
        struct sim_event event = {.kind = direction, .worker = worker, .incarnation = incarnation};
        strbuf_add(&event.bytes, bytes, length);
        sim_schedule(world, event, message_delay(world));
    }
}

void sim_commit_row(struct sim_world *world, struct sim_row row)
{
    world->rows =
        mem_grow(world->rows, &world->row_capacity, world->row_count + 1, sizeof(*world->rows));
    if (row.execution != SIM_SET_ASIDE && world->execution_tasks[row.execution] != row.task)
        sim_broken(world, "a row of task %u comes from no execution of it", row.task);
    if (world->first_row[row.task] == SIM_NO_ROW)
        world->first_row[row.task] = world->row_count;
    else
        world->stats.duplicate_rows++;
    world->rows[world->row_count++] = row;
}

bool sim_task_is_endless(const struct sim_world *world, uint32_t task)
{
    return task % 97 == 13 && task / 97 < world->shape.endless;
}

bool sim_task_is_poisoned(const struct sim_world *world, uint32_t task)
{
    return random_uniform(world->seed, 1, task) < world->shape.poisoned;
}
