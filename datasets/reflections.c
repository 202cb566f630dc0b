// SPDX-License-Identifier: Apache-2.0
// Identities of tasks and records, and what a task and its pairs must satisfy.
#include "datasets/reflections.h"

#include "base/mem.h"
#include "base/utf8.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *const step_names[REFLECTION_STEPS] = {"cloze", "1a", "1b", "2", "3", "4", "5"};

const char *reflection_step_name(enum reflection_step step)
{
    assert((unsigned)step < REFLECTION_STEPS);
    return step_names[step];
}

int reflection_step_parse(const char *name, enum reflection_step *out, struct error *err)
{
    for (int i = 0; i < REFLECTION_STEPS; i++) {
        if (strcmp(name, step_names[i]) == 0) {
            *out = (enum reflection_step)i;
            return 0;
        }
    }
    return error_set(err, "unknown step '%s'; known are cloze, 1a, 1b, 2, 3, 4, 5", name);
}

static int compare_digests(const void *a, const void *b)
{
    return digest_compare(*(const struct digest *)a, *(const struct digest *)b);
}

struct digest task_identity_digest(const struct task_identity *identity)
{
    struct digest_builder builder;
    digest_begin(&builder);
    digest_field_text(&builder, "memo task 1");
    digest_field_text(&builder, identity->kind);
    digest_field_u64(&builder, identity->content_count);
    if (identity->content_count > 0) {
        size_t bytes = identity->content_count * sizeof(struct digest);
        struct digest *sorted = mem_dup(identity->contents, bytes);
        qsort(sorted, identity->content_count, sizeof(*sorted), compare_digests);
        digest_field(&builder, sorted, bytes);
        free(sorted);
    }
    digest_field_u64(&builder, identity->step);
    digest_field(&builder, identity->prompts.bytes, sizeof(identity->prompts.bytes));
    digest_field(&builder, identity->generator.bytes, sizeof(identity->generator.bytes));
    digest_field(&builder, identity->sampling.bytes, sizeof(identity->sampling.bytes));
    digest_field_u64(&builder, identity->seed);
    return digest_end(&builder);
}

struct digest reflection_record_id(struct digest task_id, enum reflection_step step,
                                   uint32_t ordinal)
{
    struct digest_builder builder;
    digest_begin(&builder);
    digest_field_text(&builder, "memo record 1");
    digest_field(&builder, task_id.bytes, sizeof(task_id.bytes));
    digest_field_u64(&builder, step);
    digest_field_u64(&builder, ordinal);
    return digest_end(&builder);
}

static int pair_check(const struct reflection_task *task, const struct reflection *pair,
                      size_t index, struct error *err)
{
    if ((unsigned)pair->step >= REFLECTION_STEPS)
        return error_set(err, "pair %zu has the unknown step %u", index, (unsigned)pair->step);
    if (index > 0 && pair[-1].ordinal >= pair->ordinal)
        return error_set(err, "pair %zu has ordinal %u after %u, they must ascend", index,
                         pair->ordinal, pair[-1].ordinal);
    if (utf8_valid_prefix(pair->question, pair->question_bytes) != pair->question_bytes)
        return error_set(err, "the question of pair %zu is not valid UTF-8", index);
    if (utf8_valid_prefix(pair->answer, pair->answer_bytes) != pair->answer_bytes)
        return error_set(err, "the answer of pair %zu is not valid UTF-8", index);
    if (pair->span_begin > pair->span_end)
        return error_set(err, "pair %zu comes from bytes %llu to %llu", index,
                         (unsigned long long)pair->span_begin, (unsigned long long)pair->span_end);
    struct digest id = reflection_record_id(task->task_id, pair->step, pair->ordinal);
    if (!digest_equal(pair->task_id, task->task_id) || !digest_equal(pair->record_id, id))
        return error_set(err, "the id of pair %zu is not that of its task, step and ordinal",
                         index);
    return 0;
}

int reflection_task_check(const struct reflection_task *task, const struct reflection *pairs,
                          size_t count, struct error *err)
{
    size_t reason_bytes = strlen(task->reason);
    if ((unsigned)task->outcome > TASK_SET_ASIDE)
        return error_set(err, "unknown outcome %u of a task", (unsigned)task->outcome);
    if (task->pairs != count || (task->outcome == TASK_DONE) != (count > 0))
        return error_set(err, "a task with outcome %u and %u pairs comes with %zu",
                         (unsigned)task->outcome, task->pairs, count);
    if (utf8_valid_prefix(task->reason, reason_bytes) != reason_bytes)
        return error_set(err, "the reason of a task is not valid UTF-8");
    if (!isfinite(task->seconds) || task->seconds < 0)
        return error_set(err, "a task took %g seconds", task->seconds);
    for (size_t i = 0; i < count; i++) {
        if (pair_check(task, &pairs[i], i, err) != 0)
            return -1;
    }
    return 0;
}
