// SPDX-License-Identifier: Apache-2.0
// Entries stand in one array, found through a hash table of their numbers with linear probing: ids
// are digests, their first bytes are the hash.
#include "datasets/reflections_index.h"

#include "base/mem.h"
#include "datasets/reflections_directory.h"

#include <stdlib.h>
#include <string.h>

#define EMPTY UINT32_MAX
#define MINIMUM_SLOTS 64

struct indexed_segment {
    struct segment_name name;
    bool durable; // reflections_index_make_durable has seen it
    char *path;
    struct segment segment;
};

struct reflections_index {
    struct fs *fs;
    char *directory;
    struct indexed_segment **segments; // in the order in which they count
    size_t segment_count;
    const char **paths; // [segment_count]
    struct indexed_task *tasks;
    const struct indexed_segment **owners; // [task_count] where the execution stands
    size_t task_count, tasks_capacity, owners_capacity;
    size_t rows;
    uint32_t *slots; // [slot_count], a power of two, at most half full
    size_t slot_count;
};

static void fill_slots(uint32_t *slots, size_t count)
{
    for (size_t i = 0; i < count; i++)
        slots[i] = EMPTY;
}

struct reflections_index *reflections_index_create(struct fs *fs, const char *directory)
{
    struct reflections_index *index = mem_calloc(1, sizeof(*index));
    index->fs = fs;
    index->directory = mem_strdup(directory);
    index->slot_count = MINIMUM_SLOTS;
    index->slots = mem_calloc(index->slot_count, sizeof(*index->slots));
    fill_slots(index->slots, index->slot_count);
    return index;
}

static void segment_destroy(struct indexed_segment *segment)
{
    segment_close(&segment->segment);
    free(segment->name.file);
    free(segment->path);
    free(segment);
}

void reflections_index_destroy(struct reflections_index *index)
{
    if (!index)
        return;
    for (size_t i = 0; i < index->segment_count; i++)
        segment_destroy(index->segments[i]);
    free(index->segments);
    free(index->paths);
    free(index->tasks);
    free(index->owners);
    free(index->slots);
    free(index->directory);
    free(index);
}

// The slot that holds the task, or the empty one where it belongs.
static size_t find_slot(const struct reflections_index *index, struct digest id)
{
    uint64_t hash;
    memcpy(&hash, id.bytes, sizeof(hash));
    size_t slot = (size_t)hash & (index->slot_count - 1);
    while (index->slots[slot] != EMPTY &&
           !digest_equal(index->tasks[index->slots[slot]].task->task_id, id))
        slot = (slot + 1) & (index->slot_count - 1);
    return slot;
}

static void grow_slots(struct reflections_index *index)
{
    index->slot_count *= 2;
    index->slots = mem_realloc(index->slots, index->slot_count * sizeof(*index->slots));
    fill_slots(index->slots, index->slot_count);
    for (size_t i = 0; i < index->task_count; i++)
        index->slots[find_slot(index, index->tasks[i].task->task_id)] = (uint32_t)i;
}

// Whether an execution counts rather than the one found before it.
static bool counts_before(const struct reflection_task *task, const struct indexed_segment *owner,
                          const struct reflection_task *other,
                          const struct indexed_segment *other_owner)
{
    const bool aside = task->outcome == TASK_SET_ASIDE;
    const bool other_aside = other->outcome == TASK_SET_ASIDE;
    if (aside != other_aside)
        return other_aside;
    return segment_name_compare(&owner->name, &other_owner->name) < 0; // rows come in their order
}

static void add_row(struct reflections_index *index, const struct indexed_segment *owner,
                    const struct indexed_task *row)
{
    const size_t slot = find_slot(index, row->task->task_id);
    const uint32_t number = index->slots[slot];
    index->rows++;
    if (number != EMPTY) {
        if (counts_before(row->task, owner, index->tasks[number].task, index->owners[number])) {
            index->tasks[number] = *row;
            index->owners[number] = owner;
        }
        return;
    }
    const size_t count = index->task_count + 1;
    index->tasks = mem_grow(index->tasks, &index->tasks_capacity, count, sizeof(*index->tasks));
    index->owners = mem_grow(index->owners, &index->owners_capacity, count, sizeof(*index->owners));
    index->tasks[count - 1] = *row;
    index->owners[count - 1] = owner;
    index->slots[slot] = (uint32_t)(count - 1);
    index->task_count = count;
    if (2 * count > index->slot_count)
        grow_slots(index);
}

static int add_segment(struct reflections_index *index, const struct segment_name *name,
                       struct indexed_segment **out, struct error *err)
{
    struct indexed_segment *added = mem_calloc(1, sizeof(*added));
    added->path = segment_name_path(index->directory, name);
    if (segment_open(index->fs, added->path, &added->segment, err) != 0) {
        segment_destroy(added);
        return -1;
    }
    added->name = (struct segment_name){name->attempt, mem_strdup(name->file)};
    struct indexed_task row = {.pairs = added->segment.pairs};
    for (size_t t = 0; t < added->segment.task_count; t++) {
        row.task = &added->segment.tasks[t];
        add_row(index, added, &row);
        row.pairs += row.task->pairs;
    }
    *out = added;
    return 0;
}

// Both lists are in the order in which segments count; so is the result.
static int merge_names(struct reflections_index *index, const struct segment_names *names,
                       struct error *err)
{
    const size_t most = index->segment_count + names->count;
    struct indexed_segment **merged = mem_calloc(most + 1, sizeof(struct indexed_segment *));
    size_t known = 0, count = 0;
    int rc = 0;
    for (size_t i = 0; i < names->count && rc == 0; i++) {
        int order = 1;
        while (known < index->segment_count &&
               (order = segment_name_compare(&index->segments[known]->name, &names->names[i])) < 0)
            merged[count++] = index->segments[known++];
        if (known < index->segment_count && order == 0) {
            merged[count++] = index->segments[known++];
        } else {
            rc = add_segment(index, &names->names[i], &merged[count], err);
            count += rc == 0;
        }
    }
    while (known < index->segment_count)
        merged[count++] = index->segments[known++];
    free(index->segments);
    index->segments = merged;
    index->segment_count = count;
    return rc;
}

int reflections_index_refresh(struct reflections_index *index, struct error *err)
{
    struct segment_names names;
    if (segment_names_list(index->fs, index->directory, &names, err) != 0)
        return -1;
    const int rc = merge_names(index, &names, err);
    segment_names_release(&names);
    index->paths = mem_realloc(index->paths, (index->segment_count + 1) * sizeof(char *));
    for (size_t i = 0; i < index->segment_count; i++)
        index->paths[i] = index->segments[i]->path;
    return rc;
}

static int sync_attempt(struct reflections_index *index, const struct segment_name *name,
                        struct error *err)
{
    char *path = segment_name_path(index->directory, name);
    *strrchr(path, '/') = '\0';
    const int rc = index->fs->ops->sync_directory(index->fs->state, path);
    if (rc != 0)
        error_set_errno(err, -rc, "cannot sync '%s'", path);
    free(path);
    return rc != 0 ? -1 : 0;
}

int reflections_index_make_durable(struct reflections_index *index, struct error *err)
{
    unsigned long synced = 0; // attempts are numbered from 1 on, and segments stand in their order
    for (size_t i = 0; i < index->segment_count; i++) {
        struct indexed_segment *segment = index->segments[i];
        if (!segment->durable && segment->name.attempt != synced &&
            sync_attempt(index, &segment->name, err))
            return -1;
        synced = segment->durable ? synced : segment->name.attempt;
        segment->durable = true;
    }
    return 0;
}

bool reflections_index_find(const struct reflections_index *index, struct digest task_id,
                            struct indexed_task *out)
{
    const uint32_t number = index->slots[find_slot(index, task_id)];
    if (number != EMPTY)
        *out = index->tasks[number];
    return number != EMPTY;
}

const struct indexed_task *reflections_index_all(const struct reflections_index *index)
{
    return index->tasks;
}

size_t reflections_index_tasks(const struct reflections_index *index)
{
    return index->task_count;
}

size_t reflections_index_rows(const struct reflections_index *index)
{
    return index->rows;
}

const char *const *reflections_index_segments(const struct reflections_index *index, size_t *count)
{
    *count = index->segment_count;
    return index->paths;
}
