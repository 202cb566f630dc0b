// SPDX-License-Identifier: Apache-2.0
// What the verbs audit, export and compact do with a directory of reflections.
#ifndef MEMO_DATASETS_REFLECTIONS_TOOLS_H
#define MEMO_DATASETS_REFLECTIONS_TOOLS_H

#include "base/json.h"
#include "base/strbuf.h"
#include "datasets/reflections.h"

// A set held against the plan that it should fulfil.
struct reflections_audit {
    size_t planned; // distinct
    size_t done;    // of the planned tasks, by outcome
    size_t empty;
    size_t set_aside;
    struct digest *missing; // planned, but in no segment; ascending
    size_t missing_count;
    struct digest *unknown; // in a segment, but not planned; ascending
    size_t unknown_count;
    size_t lost_parents; // pairs' parents that are no record of the set: of two executions of a
                         // task with different pairs the other one counts
};
// planned: task ids in ascending order, equal ones count once.
void reflections_audit(const struct digest *planned, size_t planned_count,
                       const struct reflection_set *set, struct reflections_audit *out);
void reflections_audit_release(struct reflections_audit *audit);

// One object: id, task, step, ordinal, question, answer, sources (objects of
// document, begin, end), parents (ids), seed, prompt_tokens, output_tokens. Ids and the seed are
// hexadecimal text.
void reflection_write_json(const struct reflection *pair, struct json_writer *w);
// Appends it as one line of JSON Lines.
void reflection_format_json(const struct reflection *pair, struct strbuf *out);
// All pairs of the set in its order, atomically; an existing file is replaced.
int reflections_export(const struct reflection_set *set, struct fs *fs, const char *path,
                       struct error *err);

struct reflections_compacted {
    size_t segments_before;
    size_t segments_after;
    size_t tasks;
    size_t pairs;
    size_t duplicate_tasks; // executions that did not count and are gone now
};
// Folds the segments of a directory into few of about target_bytes each. Not to be called while a
// job writes to the directory: nothing would be lost, but if it repeats a task that is done
// already, its execution may come to count instead of the one that did.
int reflections_compact(struct fs *fs, const char *directory, size_t target_bytes,
                        struct reflections_compacted *out, struct error *err);

#endif
