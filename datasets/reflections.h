// SPDX-License-Identifier: Apache-2.0
// Reflections: question-answer pairs with their provenance, and the tasks that made them.
#ifndef MEMO_DATASETS_REFLECTIONS_H
#define MEMO_DATASETS_REFLECTIONS_H

#include "base/error.h"
#include "base/fs.h"
#include "base/hash.h"

#include <stddef.h>
#include <stdint.h>

enum reflection_step {
    STEP_CLOZE = 0, // the cloze generator's only step
    STEP_DIRECT = 1,
    STEP_INDIRECT = 2,
    STEP_CONSOLIDATE = 3,
    STEP_VERIFY = 4,
    STEP_ENTITY = 5,
    STEP_CROSS = 6,
};
#define REFLECTION_STEPS 7
const char *reflection_step_name(enum reflection_step step); // "cloze", "1a", "1b", "2", ...
int reflection_step_parse(const char *name, enum reflection_step *out, struct error *err);

// Task id: what is asked of which text by which generator. Two runs that would do the same work
// agree on it.
struct task_identity {
    const char *kind;              // "chunk" or "group"
    const struct digest *contents; // digest of the generator's input; of a group's chunks, sorted
    size_t content_count;
    enum reflection_step step;
    struct digest prompts;   // of the prompt set; zero for cloze
    struct digest generator; // of the generator
    struct digest sampling;  // of temperature, top-p, limits
    uint64_t seed;           // of the run
};
struct digest task_identity_digest(const struct task_identity *identity);
struct digest reflection_record_id(struct digest task_id, enum reflection_step step,
                                   uint32_t ordinal);

struct reflection_source {
    struct digest document; // digest of the document's text
    uint64_t begin;         // bytes inside the document
    uint64_t end;
};

struct reflection {
    struct digest record_id;
    struct digest task_id;
    enum reflection_step step;
    uint32_t ordinal;     // within the task, ascending
    const char *question; // UTF-8; a NUL follows in what is read from files
    size_t question_bytes;
    const char *answer;
    size_t answer_bytes;
    // What it was made from: one span, or one for each chunk that a cross-document pair joins.
    const struct reflection_source *sources;
    size_t source_count;          // at least 1
    const struct digest *parents; // record ids of the pairs that it was made from
    size_t parent_count;
    uint64_t seed;
    uint32_t prompt_tokens;
    uint32_t output_tokens;
};

enum task_outcome { TASK_DONE = 0, TASK_EMPTY = 1, TASK_SET_ASIDE = 2 };

enum { REFLECTION_DROPS_LIMIT = 1024 }; // of one task

// Pairs that a step made, or should have made, and that are not kept.
struct reflection_drop {
    enum reflection_step step;
    const char *reason; // one of few fixed phrases: "not self-contained", "repeated question", ...
    uint32_t pairs;
};

// What a step cost the language model.
struct reflection_usage {
    enum reflection_step step;
    uint32_t requests;
    uint64_t prompt_tokens;
    uint64_t cached_tokens; // of the prompt, not computed again
    uint64_t output_tokens;
};

struct reflection_task {
    struct digest task_id;
    enum task_outcome outcome;
    uint32_t pairs;
    const char *reason;                  // why set aside; empty otherwise
    const struct reflection_drop *drops; // no two of equal step and reason
    size_t drop_count;
    const struct reflection_usage *usage; // no two of equal step
    size_t usage_count;
    double seconds;
};

uint64_t reflection_task_tokens(const struct reflection_task *task); // prompt and output

// One segment being built in memory. Texts are copied.
struct segment_writer;
struct segment_writer *segment_writer_create(void);
void segment_writer_destroy(struct segment_writer *writer);
// pairs belong to task and are stored with it or not at all. An error, and nothing is added, when
// they would make a segment that segment_open rejects: task->pairs is not count, a task is done
// without pairs or has pairs without being done, ordinals do not ascend, a text is not UTF-8, a
// pair has no source, a span ends before it begins, an id is not that of its task, step and
// ordinal, drops or usage come twice, or more tokens are cached than prompted.
int segment_writer_add(struct segment_writer *writer, const struct reflection_task *task,
                       const struct reflection *pairs, size_t count, struct error *err);
size_t segment_writer_tasks(const struct segment_writer *writer);
size_t segment_writer_bytes(const struct segment_writer *writer); // about what the file will take
// Writes directory/name.h5 durably (temporary name, sync, rename without replacing, directory sync)
// and empties the writer. On failure the writer keeps its content.
int segment_writer_commit(struct segment_writer *writer, struct fs *fs, const char *directory,
                          const char *name, struct error *err);

// What segment_writer_add and segment_open demand of a task; pure.
int reflection_task_check(const struct reflection_task *task, const struct reflection *pairs,
                          size_t count, struct error *err);

// A committed segment, verified as a whole before anything is read from it.
struct segment {
    const struct reflection_task *tasks;
    size_t task_count;
    const struct reflection *pairs; // task by task, in the order of tasks
    size_t pair_count;
    void *memory;
};
int segment_open(struct fs *fs, const char *path, struct segment *out, struct error *err);
void segment_close(struct segment *segment);

// A directory of segments: DIR/attempt-NNNN/*.h5. Each attempt directory is made by exclusive
// mkdir. When a task was committed twice, the execution of the lower attempt (then the lower file
// name) counts, whole; a row that only sets the task aside gives way to any that does not (a worker
// whose lease had expired may still deliver).
struct reflection_set {
    const struct reflection_task *tasks; // sorted by task id
    size_t task_count;
    const struct reflection *pairs; // sorted by (task id, ordinal)
    size_t pair_count;
    const char *const *segments; // paths, in the order in which they count
    size_t segment_count;
    size_t duplicate_tasks; // executions that did not count
    void *memory;
};
// Files under temporary names are not looked at. One damaged segment is an error that names it.
int reflection_set_open(struct fs *fs, const char *directory, struct reflection_set *out,
                        struct error *err);
void reflection_set_close(struct reflection_set *set);

// Makes the next DIR/attempt-NNNN and returns its path (caller frees). Safe against other jobs.
int reflections_begin_attempt(struct fs *fs, const char *directory, char **out_path,
                              struct error *err);

#endif
