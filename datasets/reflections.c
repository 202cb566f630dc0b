// SPDX-License-Identifier: Apache-2.0
// Identities of tasks and records, and what a task and its pairs must satisfy.
#include "datasets/reflections.h"

#include "base/mem.h"
#include "base/utf8.h"

#include <assert.h>
#include <math.h>
#include <stdbool.h>
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

static int origin_check(const struct reflection *pair, size_t index, struct error *err)
{
    if (pair->source_count == 0)
        return error_set(err, "pair %zu comes from nowhere", index);
    for (size_t i = 0; i < pair->source_count; i++) {
        const struct reflection_source *source = &pair->sources[i];
        if (source->begin > source->end)
            return error_set(err, "pair %zu comes from bytes %llu to %llu", index,
                             (unsigned long long)source->begin, (unsigned long long)source->end);
    }
    for (size_t i = 0; i < pair->parent_count; i++) {
        if (digest_equal(pair->parents[i], pair->record_id))
            return error_set(err, "pair %zu is its own parent", index);
    }
    return 0;
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
    if (origin_check(pair, index, err) != 0)
        return -1;
    struct digest id = reflection_record_id(task->task_id, pair->step, pair->ordinal);
    if (!digest_equal(pair->task_id, task->task_id) || !digest_equal(pair->record_id, id))
        return error_set(err, "the id of pair %zu is not that of its task, step and ordinal",
                         index);
    return 0;
}

static int drops_check(const struct reflection_task *task, struct error *err)
{
    if (task->drop_count > REFLECTION_DROPS_LIMIT)
        return error_set(err, "a task has %zu reasons for dropped pairs, the limit is %d",
                         task->drop_count, REFLECTION_DROPS_LIMIT);
    for (size_t i = 0; i < task->drop_count; i++) {
        const struct reflection_drop *drop = &task->drops[i];
        const size_t bytes = strlen(drop->reason);
        if ((unsigned)drop->step >= REFLECTION_STEPS)
            return error_set(err, "a drop of the unknown step %u", (unsigned)drop->step);
        if (bytes == 0 || utf8_valid_prefix(drop->reason, bytes) != bytes)
            return error_set(err, "the reason of drop %zu is empty or not valid UTF-8", i);
        for (size_t k = 0; k < i; k++) {
            if (task->drops[k].step == drop->step &&
                strcmp(task->drops[k].reason, drop->reason) == 0)
                return error_set(err, "drops %zu and %zu have the same step and reason", k, i);
        }
    }
    return 0;
}

static int usage_check(const struct reflection_task *task, struct error *err)
{
    bool seen[REFLECTION_STEPS] = {false};
    for (size_t i = 0; i < task->usage_count; i++) {
        const struct reflection_usage *usage = &task->usage[i];
        if ((unsigned)usage->step >= REFLECTION_STEPS || seen[usage->step])
            return error_set(err, "usage %zu has the unknown or repeated step %u", i,
                             (unsigned)usage->step);
        if (usage->cached_tokens > usage->prompt_tokens)
            return error_set(err, "usage %zu has %llu cached of %llu prompt tokens", i,
                             (unsigned long long)usage->cached_tokens,
                             (unsigned long long)usage->prompt_tokens);
        seen[usage->step] = true;
    }
    return 0;
}

uint64_t reflection_task_tokens(const struct reflection_task *task)
{
    uint64_t tokens = 0;
    for (size_t i = 0; i < task->usage_count; i++)
        tokens += task->usage[i].prompt_tokens + task->usage[i].output_tokens;
    return tokens;
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
    if (drops_check(task, err) != 0 || usage_check(task, err) != 0)
        return -1;
    for (size_t i = 0; i < count; i++) {
        if (pair_check(task, &pairs[i], i, err) != 0)
            return -1;
    }
    return 0;
}
