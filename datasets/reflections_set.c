// SPDX-License-Identifier: Apache-2.0
// A directory of segments as one sorted set.
//
//     DIR/attempt-0001/...h5    one directory for each time a job began, numbered by exclusive
//     mkdir DIR/attempt-0002/...h5
//
// Segments count in the order (attempt, file name, row). A task whose row is found again later is a
// second execution, after a lost acknowledgement or by two jobs on one directory: it is left out
// with all its pairs, so that the pairs of a task always come from one execution. The sorted result
// does not depend on which workers did what.
#include "datasets/reflections.h"

#include "base/arena.h"
#include "base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ATTEMPTS_MAX 1000000 // bounds the search for a free number
#define ATTEMPT_NAME_BYTES 32

struct set_memory {
    struct arena arena;
    struct segment *segments;
    const char **paths;
    size_t segments_capacity, paths_capacity;
};

// One committed execution of a task.
struct execution {
    const struct reflection_task *task;
    const struct reflection *pairs;
    size_t order; // in which segments and rows count
};

static void format_attempt(unsigned long number, char out[ATTEMPT_NAME_BYTES])
{
    snprintf(out, ATTEMPT_NAME_BYTES, "attempt-%04lu", number);
}

// The number in "attempt-NNNN" written as format_attempt writes it, or 0.
static unsigned long parse_attempt(const char *name)
{
    char canonical[ATTEMPT_NAME_BYTES];
    if (strncmp(name, "attempt-", 8) != 0)
        return 0;
    unsigned long number = strtoul(name + 8, NULL, 10);
    format_attempt(number, canonical);
    return number <= ATTEMPTS_MAX && strcmp(name, canonical) == 0 ? number : 0;
}

static int compare_numbers(const void *a, const void *b)
{
    unsigned long x = *(const unsigned long *)a, y = *(const unsigned long *)b;
    return (x > y) - (x < y);
}

// The attempts of a directory, ascending; caller frees.
static int list_attempts(struct fs *fs, const char *directory, unsigned long **out, size_t *count,
                         struct error *err)
{
    struct fs_names names;
    *count = 0;
    if (fs_list(fs, directory, &names, err) != 0)
        return -1;
    unsigned long *numbers = mem_calloc(names.count + 1, sizeof(*numbers));
    for (size_t i = 0; i < names.count; i++) {
        numbers[*count] = parse_attempt(names.names[i]);
        *count += numbers[*count] != 0;
    }
    fs_names_release(&names);
    qsort(numbers, *count, sizeof(*numbers), compare_numbers);
    *out = numbers;
    return 0;
}

static bool is_segment_name(const char *name)
{
    size_t length = strlen(name);
    return length > 3 && strcmp(name + length - 3, ".h5") == 0;
}

static int add_segment(struct fs *fs, const char *path, struct reflection_set *out,
                       struct error *err)
{
    struct set_memory *memory = out->memory;
    struct segment segment;
    if (segment_open(fs, path, &segment, err) != 0)
        return -1;
    size_t count = out->segment_count + 1;
    memory->segments =
        mem_grow(memory->segments, &memory->segments_capacity, count, sizeof(*memory->segments));
    memory->paths = mem_grow(memory->paths, &memory->paths_capacity, count, sizeof(char *));
    memory->segments[out->segment_count] = segment;
    memory->paths[out->segment_count] = arena_strndup(&memory->arena, path, strlen(path));
    out->segments = memory->paths;
    out->segment_count = count;
    return 0;
}

static int add_attempt(struct fs *fs, const char *directory, unsigned long number,
                       struct reflection_set *out, struct error *err)
{
    char name[ATTEMPT_NAME_BYTES];
    struct fs_names names;
    format_attempt(number, name);
    char *attempt = fs_join(directory, name);
    int rc = fs_list(fs, attempt, &names, err);
    if (rc == 0) {
        for (size_t i = 0; i < names.count && rc == 0; i++) {
            if (!is_segment_name(names.names[i]))
                continue;
            char *path = fs_join(attempt, names.names[i]);
            rc = add_segment(fs, path, out, err);
            free(path);
        }
        fs_names_release(&names);
    }
    free(attempt);
    return rc;
}

// By task; of one task the execution that counts comes first.
static int compare_executions(const void *a, const void *b)
{
    const struct execution *x = a, *y = b;
    int order = digest_compare(x->task->task_id, y->task->task_id);
    if (order == 0)
        order = (x->task->outcome == TASK_SET_ASIDE) - (y->task->outcome == TASK_SET_ASIDE);
    return order != 0 ? order : (x->order > y->order) - (x->order < y->order);
}

static struct execution *list_executions(const struct reflection_set *set, size_t *out_count)
{
    const struct set_memory *memory = set->memory;
    size_t count = 0, n = 0;
    for (size_t i = 0; i < set->segment_count; i++)
        count += memory->segments[i].task_count;
    struct execution *executions = mem_calloc(count + 1, sizeof(*executions));
    for (size_t i = 0; i < set->segment_count; i++) {
        const struct segment *segment = &memory->segments[i];
        const struct reflection *pairs = segment->pairs;
        for (size_t row = 0; row < segment->task_count; row++, n++) {
            executions[n] = (struct execution){&segment->tasks[row], pairs, n};
            pairs += segment->tasks[row].pairs;
        }
    }
    qsort(executions, count, sizeof(*executions), compare_executions);
    *out_count = count;
    return executions;
}

// Keeps the first execution of every task and lays tasks and pairs out in order.
static void merge(struct reflection_set *set)
{
    struct set_memory *memory = set->memory;
    size_t count, kept = 0, pair_count = 0;
    struct execution *executions = list_executions(set, &count);
    for (size_t i = 0; i < count; i++) {
        if (kept > 0 &&
            digest_equal(executions[kept - 1].task->task_id, executions[i].task->task_id))
            continue;
        executions[kept++] = executions[i];
        pair_count += executions[i].task->pairs;
    }
    struct reflection_task *tasks = arena_alloc(&memory->arena, kept * sizeof(*tasks));
    struct reflection *pairs = arena_alloc(&memory->arena, pair_count * sizeof(*pairs));
    set->tasks = tasks;
    set->pairs = pairs;
    set->task_count = kept;
    set->pair_count = pair_count;
    set->duplicate_tasks = count - kept;
    for (size_t i = 0; i < kept; i++) {
        tasks[i] = *executions[i].task;
        if (tasks[i].pairs > 0)
            memcpy(pairs, executions[i].pairs, tasks[i].pairs * sizeof(*pairs));
        pairs += tasks[i].pairs;
    }
    free(executions);
}

int reflection_set_open(struct fs *fs, const char *directory, struct reflection_set *out,
                        struct error *err)
{
    unsigned long *attempts = NULL;
    size_t count;
    *out = (struct reflection_set){.memory = mem_calloc(1, sizeof(struct set_memory))};
    int rc = list_attempts(fs, directory, &attempts, &count, err);
    for (size_t i = 0; i < count && rc == 0; i++)
        rc = add_attempt(fs, directory, attempts[i], out, err);
    free(attempts);
    if (rc == 0)
        merge(out);
    else
        reflection_set_close(out);
    return rc;
}

void reflection_set_close(struct reflection_set *set)
{
    struct set_memory *memory = set->memory;
    if (memory) {
        for (size_t i = 0; i < set->segment_count; i++)
            segment_close(&memory->segments[i]);
        free(memory->segments);
        free(memory->paths);
        arena_release(&memory->arena);
        free(memory);
    }
    *set = (struct reflection_set){0};
}

int reflections_begin_attempt(struct fs *fs, const char *directory, char **out_path,
                              struct error *err)
{
    unsigned long *attempts = NULL;
    size_t count;
    *out_path = NULL;
    if (fs_make_directories(fs, directory, err) != 0 ||
        list_attempts(fs, directory, &attempts, &count, err) != 0)
        return -1;
    unsigned long number = count > 0 ? attempts[count - 1] + 1 : 1;
    free(attempts);
    char *path = NULL;
    int rc = -EEXIST;
    for (; rc == -EEXIST && number <= ATTEMPTS_MAX; number++) {
        char name[ATTEMPT_NAME_BYTES];
        free(path);
        format_attempt(number, name);
        path = fs_join(directory, name);
        rc = fs->ops->make_directory(fs->state, path);
    }
    if (rc == 0)
        rc = fs->ops->sync_directory(fs->state, directory);
    if (rc != 0) {
        error_set_errno(err, -rc, "cannot make the next attempt directory in '%s'", directory);
        free(path);
        return -1;
    }
    *out_path = path;
    return 0;
}
