// SPDX-License-Identifier: Apache-2.0
// Which tasks wait for which, drawn from the seed: the last tasks of a story have a few
// prerequisites each, anywhere before them, among them tasks that wait themselves.
#include "base/mem.h"
#include "base/random.h"
#include "tests/sim/world.h"

#include <stdlib.h>

uint32_t sim_task_priority(const struct sim_world *world, uint32_t task)
{
    return world->shape.priorities ? random_u64(world->seed, 2, task) % SIM_PRIORITIES : 0;
}

static int compare_numbers(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static void draw_prerequisites(struct sim_world *world, uint32_t task)
{
    uint32_t *list = world->prerequisites + (size_t)task * SIM_PREREQUISITES;
    const uint64_t wanted = 1 + random_u64(world->seed, 3, task) % SIM_PREREQUISITES;
    uint32_t kept = 0;
    for (uint64_t i = 0; i < wanted; i++)
        list[i] =
            (uint32_t)(random_u64(world->seed, 4, (uint64_t)task * SIM_PREREQUISITES + i) % task);
    qsort(list, (size_t)wanted, sizeof(*list), compare_numbers);
    for (uint64_t i = 0; i < wanted; i++) {
        if (kept == 0 || list[kept - 1] != list[i])
            list[kept++] = list[i];
    }
    world->prerequisite_counts[task] = kept;
}

static void index_dependents(struct sim_world *world)
{
    const size_t tasks = world->shape.tasks;
    uint32_t *offsets = world->dependent_offsets;
    for (size_t t = 0; t < tasks; t++) {
        for (uint32_t i = 0; i < world->prerequisite_counts[t]; i++)
            offsets[world->prerequisites[t * SIM_PREREQUISITES + i] + 1]++;
    }
    for (size_t t = 0; t < tasks; t++)
        offsets[t + 1] += offsets[t];
    uint32_t *next = mem_dup(offsets, (tasks + 1) * sizeof(*next));
    world->dependents = mem_calloc((size_t)offsets[tasks] + 1, sizeof(*world->dependents));
    for (size_t t = 0; t < tasks; t++) {
        for (uint32_t i = 0; i < world->prerequisite_counts[t]; i++)
            world->dependents[next[world->prerequisites[t * SIM_PREREQUISITES + i]]++] =
                (uint32_t)t;
    }
    free(next);
}

void sim_draw_dependencies(struct sim_world *world)
{
    const size_t tasks = world->shape.tasks;
    const size_t independent = tasks - (size_t)((double)tasks * world->shape.dependent);
    world->prerequisites = mem_calloc(tasks * SIM_PREREQUISITES + 1, sizeof(*world->prerequisites));
    world->prerequisite_counts = mem_calloc(tasks + 1, sizeof(*world->prerequisite_counts));
    world->dependent_offsets = mem_calloc(tasks + 1, sizeof(*world->dependent_offsets));
    for (size_t t = independent > 0 ? independent : 1; t < tasks; t++)
        draw_prerequisites(world, (uint32_t)t);
    index_dependents(world);
}

void sim_check_prerequisites(struct sim_world *world, uint32_t task)
{
    const uint32_t *list = world->prerequisites + (size_t)task * SIM_PREREQUISITES;
    for (uint32_t i = 0; i < world->prerequisite_counts[task]; i++) {
        if (!world->acknowledged[list[i]])
            sim_broken(world, "task %u comes before its prerequisite %u is on disk", task, list[i]);
    }
}
