// SPDX-License-Identifier: Apache-2.0
// A directory of segments as one sorted set: an index of it at one moment, laid out in order.
//
// A task whose row is found again later is a second execution, after a lost acknowledgement or by
// two jobs on one directory: it is left out with all its pairs, so that the pairs of a task always
// come from one execution. The sorted result does not depend on which workers did what.
#include "datasets/reflections.h"

#include "base/mem.h"
#include "datasets/reflections_index.h"

#include <stdlib.h>
#include <string.h>

struct set_memory {
    struct reflections_index *index;
    struct reflection_task *tasks;
    struct reflection *pairs;
};

static int compare_tasks(const void *a, const void *b)
{
    const struct indexed_task *x = a, *y = b;
    return digest_compare(x->task->task_id, y->task->task_id);
}

static void lay_out(struct reflection_set *set)
{
    struct set_memory *memory = set->memory;
    const size_t count = reflections_index_tasks(memory->index);
    struct indexed_task *sorted =
        mem_dup(reflections_index_all(memory->index), count * sizeof(*sorted));
    size_t pair_count = 0;
    qsort(sorted, count, sizeof(*sorted), compare_tasks);
    for (size_t i = 0; i < count; i++)
        pair_count += sorted[i].task->pairs;
    memory->tasks = mem_calloc(count + 1, sizeof(*memory->tasks));
    memory->pairs = mem_calloc(pair_count + 1, sizeof(*memory->pairs));
    struct reflection *pairs = memory->pairs;
    for (size_t i = 0; i < count; i++) {
        memory->tasks[i] = *sorted[i].task;
        if (memory->tasks[i].pairs > 0)
            memcpy(pairs, sorted[i].pairs, memory->tasks[i].pairs * sizeof(*pairs));
        pairs += memory->tasks[i].pairs;
    }
    free(sorted);
    set->tasks = memory->tasks;
    set->task_count = count;
    set->pairs = memory->pairs;
    set->pair_count = pair_count;
    set->segments = reflections_index_segments(memory->index, &set->segment_count);
    set->duplicate_tasks = reflections_index_rows(memory->index) - count;
}

int reflection_set_open(struct fs *fs, const char *directory, struct reflection_set *out,
                        struct error *err)
{
    struct set_memory *memory = mem_calloc(1, sizeof(*memory));
    memory->index = reflections_index_create(fs, directory);
    *out = (struct reflection_set){.memory = memory};
    if (reflections_index_refresh(memory->index, err) != 0) {
        reflection_set_close(out);
        return -1;
    }
    lay_out(out);
    return 0;
}

const struct reflections_index *reflection_set_index(const struct reflection_set *set)
{
    return ((const struct set_memory *)set->memory)->index;
}

void reflection_set_close(struct reflection_set *set)
{
    struct set_memory *memory = set->memory;
    if (memory) {
        reflections_index_destroy(memory->index);
        free(memory->tasks);
        free(memory->pairs);
        free(memory);
    }
    *set = (struct reflection_set){0};
}
