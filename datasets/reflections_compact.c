// SPDX-License-Identifier: Apache-2.0
// Folding many segments into few, so that a crash at any moment loses nothing:
//
//   1. read the set (every segment verified, the earliest execution of each task chosen),
//   2. write it in order as new segments of a new, therefore last, attempt,
//   3. read the new segments back and compare them with the set,
//   4. only then remove the old ones.
//
// Until 4 begins the old segments count and the new ones are second executions, which the set
// leaves out. 4 goes backwards and makes each removal durable, so that of several executions of a
// task the one that counted is the last old one to go: at every moment the set has the same tasks
// and pairs. Repeating the command after a crash folds whatever is there. When 1 to 3 fail, the new
// segments are removed again. Attempt directories stay, empty: a job may hold one, and their
// numbers must not be given out twice.
#include "datasets/reflections_tools.h"

#include "base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct compaction {
    struct fs *fs;
    const struct reflection_set *set;
    char *attempt; // directory of the new segments
    size_t target_bytes;
    size_t written; // segments
};

static char *segment_path(const struct compaction *job, size_t number)
{
    return mem_printf("%s/compact-%06zu.h5", job->attempt, number);
}

static int commit(struct compaction *job, struct segment_writer *writer, struct error *err)
{
    char name[32];
    snprintf(name, sizeof(name), "compact-%06zu", job->written);
    if (segment_writer_commit(writer, job->fs, job->attempt, name, err) != 0)
        return -1;
    job->written++;
    return 0;
}

static int write_segments(struct compaction *job, struct error *err)
{
    const struct reflection_set *set = job->set;
    const struct reflection *pairs = set->pairs;
    struct segment_writer *writer = segment_writer_create();
    int rc = 0;
    for (size_t i = 0; i < set->task_count && rc == 0; i++) {
        rc = segment_writer_add(writer, &set->tasks[i], pairs, set->tasks[i].pairs, err);
        pairs += set->tasks[i].pairs;
        if (rc == 0 && segment_writer_bytes(writer) >= job->target_bytes)
            rc = commit(job, writer, err);
    }
    if (rc == 0 && segment_writer_tasks(writer) > 0)
        rc = commit(job, writer, err);
    segment_writer_destroy(writer);
    return rc;
}

static bool same_drops(const struct reflection_task *a, const struct reflection_task *b)
{
    bool same = a->drop_count == b->drop_count;
    for (size_t i = 0; i < a->drop_count && same; i++)
        same = a->drops[i].step == b->drops[i].step && a->drops[i].pairs == b->drops[i].pairs &&
               strcmp(a->drops[i].reason, b->drops[i].reason) == 0;
    return same;
}

static bool same_usage(const struct reflection_task *a, const struct reflection_task *b)
{
    bool same = a->usage_count == b->usage_count;
    for (size_t i = 0; i < a->usage_count && same; i++) {
        const struct reflection_usage *x = &a->usage[i], *y = &b->usage[i];
        same = x->step == y->step && x->requests == y->requests &&
               x->prompt_tokens == y->prompt_tokens && x->cached_tokens == y->cached_tokens &&
               x->output_tokens == y->output_tokens;
    }
    return same;
}

static bool same_task(const struct reflection_task *a, const struct reflection_task *b)
{
    return digest_equal(a->task_id, b->task_id) && a->outcome == b->outcome &&
           a->pairs == b->pairs && strcmp(a->reason, b->reason) == 0 && a->seconds == b->seconds &&
           same_drops(a, b) && same_usage(a, b);
}

static bool same_origin(const struct reflection *a, const struct reflection *b)
{
    bool same = a->source_count == b->source_count && a->parent_count == b->parent_count;
    for (size_t i = 0; i < a->source_count && same; i++)
        same = digest_equal(a->sources[i].document, b->sources[i].document) &&
               a->sources[i].begin == b->sources[i].begin && a->sources[i].end == b->sources[i].end;
    for (size_t i = 0; i < a->parent_count && same; i++)
        same = digest_equal(a->parents[i], b->parents[i]);
    return same;
}

static bool same_pair(const struct reflection *a, const struct reflection *b)
{
    return digest_equal(a->record_id, b->record_id) && digest_equal(a->task_id, b->task_id) &&
           a->step == b->step && a->ordinal == b->ordinal &&
           a->question_bytes == b->question_bytes && a->answer_bytes == b->answer_bytes &&
           memcmp(a->question, b->question, a->question_bytes) == 0 &&
           memcmp(a->answer, b->answer, a->answer_bytes) == 0 && same_origin(a, b) &&
           a->seed == b->seed && a->prompt_tokens == b->prompt_tokens &&
           a->output_tokens == b->output_tokens;
}

// Compares one new segment with the set from task *task and pair *pair on, and moves both forward.
static int check_segment(const struct compaction *job, size_t number, size_t *task, size_t *pair,
                         struct error *err)
{
    const struct reflection_set *set = job->set;
    struct segment segment;
    char *path = segment_path(job, number);
    int rc = segment_open(job->fs, path, &segment, err);
    if (rc == 0) {
        bool same = segment.task_count <= set->task_count - *task &&
                    segment.pair_count <= set->pair_count - *pair;
        for (size_t i = 0; i < segment.task_count && same; i++)
            same = same_task(&segment.tasks[i], &set->tasks[*task + i]);
        for (size_t i = 0; i < segment.pair_count && same; i++)
            same = same_pair(&segment.pairs[i], &set->pairs[*pair + i]);
        if (!same)
            rc = error_set(err, "'%s' does not hold what was written to it", path);
        *task += segment.task_count;
        *pair += segment.pair_count;
        segment_close(&segment);
    }
    free(path);
    return rc;
}

static int check_segments(const struct compaction *job, struct error *err)
{
    size_t task = 0, pair = 0;
    for (size_t i = 0; i < job->written; i++) {
        if (check_segment(job, i, &task, &pair, err) != 0)
            return -1;
    }
    if (task != job->set->task_count || pair != job->set->pair_count)
        return error_set(err, "'%s' holds %zu of %zu tasks", job->attempt, task,
                         job->set->task_count);
    return 0;
}

static void remove_new_segments(const struct compaction *job)
{
    for (size_t i = 0; i < job->written; i++) {
        char *path = segment_path(job, i);
        job->fs->ops->remove(job->fs->state, path);
        free(path);
    }
}

static int remove_durably(struct fs *fs, const char *path)
{
    char *directory = mem_strdup(path);
    *strrchr(directory, '/') = '\0'; // paths of a set are DIR/attempt-NNNN/NAME
    int rc = fs->ops->remove(fs->state, path);
    if (rc == 0 || rc == -ENOENT)
        rc = fs->ops->sync_directory(fs->state, directory);
    free(directory);
    return rc;
}

static int remove_old_segments(const struct compaction *job, struct error *err)
{
    for (size_t i = job->set->segment_count; i-- > 0;) {
        int rc = remove_durably(job->fs, job->set->segments[i]);
        if (rc != 0)
            return error_set_errno(err, -rc, "cannot remove the folded segment '%s'; run again",
                                   job->set->segments[i]);
    }
    return 0;
}

static int compact_set(struct compaction *job, const char *directory, struct error *err)
{
    if (reflections_begin_attempt(job->fs, directory, &job->attempt, err) != 0)
        return -1;
    int rc = write_segments(job, err);
    if (rc == 0)
        rc = check_segments(job, err);
    if (rc != 0)
        remove_new_segments(job);
    else
        rc = remove_old_segments(job, err);
    free(job->attempt);
    return rc;
}

int reflections_compact(struct fs *fs, const char *directory, size_t target_bytes,
                        struct reflections_compacted *out, struct error *err)
{
    struct reflection_set set;
    if (reflection_set_open(fs, directory, &set, err) != 0)
        return -1;
    struct compaction job = {.fs = fs, .set = &set, .target_bytes = target_bytes};
    int rc = set.segment_count > 1 ? compact_set(&job, directory, err) : 0;
    *out = (struct reflections_compacted){
        .segments_before = set.segment_count,
        .segments_after = set.segment_count > 1 ? job.written : set.segment_count,
        .tasks = set.task_count,
        .pairs = set.pair_count,
        .duplicate_tasks = set.duplicate_tasks,
    };
    reflection_set_close(&set);
    return rc;
}
