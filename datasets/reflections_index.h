// SPDX-License-Identifier: Apache-2.0
// What is committed in a directory of reflections, by task id, for those who look while workers
// commit. Each segment is verified and opened once and stays in memory.
//
// The rule of reflection_set_open holds among what was seen so far: of several executions of a task
// the one of the earlier segment counts, and one that only sets it aside gives way. A second
// execution that is committed later, under an earlier name, may therefore take the place of one
// that was found before; the ids of its pairs are the same.
#ifndef MEMO_DATASETS_REFLECTIONS_INDEX_H
#define MEMO_DATASETS_REFLECTIONS_INDEX_H

#include "datasets/reflections.h"

struct reflections_index;

// directory is copied; fs is the caller's and outlives the index. Empty until it is refreshed.
struct reflections_index *reflections_index_create(struct fs *fs, const char *directory);
void reflections_index_destroy(struct reflections_index *index);

// Reads the segments that came since the last time. A directory without attempts is empty; a
// damaged segment is an error that names it, and may be tried again. What was found before stays
// valid.
int reflections_index_refresh(struct reflections_index *index, struct error *err);

// What the index holds, whoever wrote it, will be found again after a loss of power: a writer that
// died may have put a segment in place without making its name durable. For those who act upon it.
int reflections_index_make_durable(struct reflections_index *index, struct error *err);

struct indexed_task {
    const struct reflection_task *task;
    const struct reflection *pairs; // task->pairs of them
};
// False: no execution was seen. *out is valid as long as the index.
bool reflections_index_find(const struct reflections_index *index, struct digest task_id,
                            struct indexed_task *out);

// The executions that count, in no order. [reflections_index_tasks]
const struct indexed_task *reflections_index_all(const struct reflections_index *index);
size_t reflections_index_tasks(const struct reflections_index *index);
size_t reflections_index_rows(const struct reflections_index *index); // all executions

// Paths of the segments in the order in which they count; the index's, until the next refresh.
const char *const *reflections_index_segments(const struct reflections_index *index, size_t *count);

// What the set was laid out from; the set's.
const struct reflections_index *reflection_set_index(const struct reflection_set *set);

#endif
