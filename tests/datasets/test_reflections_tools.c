// SPDX-License-Identifier: Apache-2.0
#include "base/json.h"
#include "datasets/reflections_summary.h"
#include "datasets/reflections_tools.h"
#include "tests/datasets/reflections_helper.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static int compare_digests(const void *a, const void *b)
{
    return digest_compare(*(const struct digest *)a, *(const struct digest *)b);
}

// Ids of the examples first..end - 1, ascending, each of them twice when asked.
static struct digest *plan_of(uint32_t first, uint32_t end, int times, size_t *count)
{
    struct digest *ids = mem_calloc((size_t)(end - first) * 2 + 1, sizeof(*ids));
    *count = 0;
    for (int i = 0; i < times; i++) {
        for (uint32_t number = first; number < end; number++)
            ids[(*count)++] = example_task_id(number);
    }
    qsort(ids, *count, sizeof(*ids), compare_digests);
    return ids;
}

static void commit_attempt(const char *directory, const char *name, uint32_t first, uint32_t end,
                           uint32_t variant)
{
    char *attempt;
    struct error err;
    if (reflections_begin_attempt(fs_system(), directory, &attempt, &err) != 0 ||
        example_commit(attempt, name, first, end, variant, &err) != 0)
        fail_msg("%s", err.text);
    free(attempt);
}

static void open_set(const char *directory, struct reflection_set *set)
{
    struct error err;
    if (reflection_set_open(fs_system(), directory, set, &err) != 0)
        fail_msg("%s", err.text);
}

static void audit_finds_missing_and_unknown_tasks(void **state)
{
    struct reflection_set set;
    struct reflections_audit audit;
    commit_attempt(*state, "a", 10, 60, 0);
    open_set(*state, &set);
    for (int times = 1; times <= 2; times++) {
        size_t count;
        struct digest *planned = plan_of(0, 40, times, &count);
        reflections_audit(planned, count, &set, &audit);
        assert_int_equal(audit.planned, 40);
        // Of 10..39: number % 5 == 0 has no pairs, of these number % 10 == 5 is set aside.
        assert_int_equal(audit.done, 24);
        assert_int_equal(audit.empty, 3);
        assert_int_equal(audit.set_aside, 3);
        assert_int_equal(audit.missing_count, 10);
        assert_int_equal(audit.unknown_count, 20);
        size_t expected_count;
        struct digest *expected = plan_of(0, 10, 1, &expected_count);
        assert_memory_equal(audit.missing, expected, 10 * sizeof(*expected));
        free(expected);
        expected = plan_of(40, 60, 1, &expected_count);
        assert_memory_equal(audit.unknown, expected, 20 * sizeof(*expected));
        free(expected);
        reflections_audit_release(&audit);
        free(planned);
    }
    reflections_audit(NULL, 0, &set, &audit);
    assert_int_equal(audit.planned, 0);
    assert_int_equal(audit.unknown_count, 50);
    reflections_audit_release(&audit);
    reflection_set_close(&set);
}

static void audit_of_nothing_misses_everything(void **state)
{
    struct reflection_set set;
    struct reflections_audit audit;
    size_t count;
    open_set(*state, &set);
    struct digest *planned = plan_of(0, 33, 1, &count);
    reflections_audit(planned, count, &set, &audit);
    assert_int_equal(audit.missing_count, 33);
    assert_int_equal(audit.unknown_count, 0);
    reflections_audit_release(&audit);
    reflection_set_close(&set);
    free(planned);
}

static void assert_member(const struct json *object, const char *key, const char *expected)
{
    const struct json *value = json_get(object, key);
    assert_non_null(value);
    assert_int_equal(value->type, JSON_STRING);
    assert_string_equal(value->string, expected);
}

static void assert_origin(const struct json *object, const struct reflection *pair)
{
    struct error err;
    char hex[DIGEST_TEXT_BYTES];
    int64_t number;
    const struct json *sources = json_get(object, "sources");
    const struct json *parents = json_get(object, "parents");
    assert_true(sources && sources->type == JSON_ARRAY && parents && parents->type == JSON_ARRAY);
    assert_int_equal(sources->length, pair->source_count);
    assert_int_equal(parents->length, pair->parent_count);
    for (size_t i = 0; i < pair->source_count; i++) {
        const struct json *source = &sources->items[i];
        digest_format(pair->sources[i].document, hex);
        assert_member(source, "document", hex);
        assert_int_equal(json_get_int(source, "begin", 0, 1000, &number, &err), 0);
        assert_int_equal(number, pair->sources[i].begin);
        assert_int_equal(json_get_int(source, "end", 0, 1000, &number, &err), 0);
        assert_int_equal(number, pair->sources[i].end);
    }
    for (size_t i = 0; i < pair->parent_count; i++) {
        digest_format(pair->parents[i], hex);
        assert_string_equal(parents->items[i].string, hex);
    }
}

static void export_writes_every_pair_as_json(void **state)
{
    struct error err;
    struct reflection_set set;
    struct strbuf text = {0};
    struct arena arena = {0};
    commit_attempt(*state, "a", 0, 33, 0);
    open_set(*state, &set);
    char *path = fs_join(*state, "pairs.jsonl");
    assert_int_equal(reflections_export(&set, fs_system(), path, &err), 0);
    assert_int_equal(fs_read(fs_system(), path, &text, &err), 0);
    const char *line = text.bytes;
    for (size_t i = 0; i < set.pair_count; i++) {
        const struct reflection *pair = &set.pairs[i];
        const struct json *object;
        const char *end = strchr(line, '\n');
        char hex[DIGEST_TEXT_BYTES];
        int64_t number = -1;
        assert_non_null(end);
        if (json_parse(&arena, line, (size_t)(end - line), &object, &err) != 0)
            fail_msg("%s", err.text);
        digest_format(pair->record_id, hex);
        assert_member(object, "id", hex);
        digest_format(pair->task_id, hex);
        assert_member(object, "task", hex);
        assert_origin(object, pair);
        assert_member(object, "step", "1a");
        assert_member(object, "question", pair->question);
        assert_member(object, "answer", pair->answer);
        assert_int_equal(json_get_int(object, "ordinal", 0, 1000, &number, &err), 0);
        assert_int_equal(number, pair->ordinal);
        line = end + 1;
    }
    assert_int_equal(*line, 0);
    arena_release(&arena);
    strbuf_release(&text);
    reflection_set_close(&set);
    free(path);
}

static void a_summary_adds_up(void **state)
{
    struct reflection_set set;
    struct reflections_summary summary;
    uint64_t dropped = 0, prompts = 0, kept = 0;
    commit_attempt(*state, "a", 0, 33, 0);
    open_set(*state, &set);
    reflections_summarize(&set, &summary);
    for (uint32_t number = 0; number < 33; number++) {
        struct example example;
        example_fill(&example, number, 0);
        for (size_t i = 0; i < example.task.drop_count; i++)
            dropped += example.drops[i].pairs;
        for (size_t i = 0; i < example.task.usage_count; i++)
            prompts += example.usage[i].prompt_tokens;
        kept += example.task.pairs;
    }
    assert_int_equal(summary.all.pairs, kept);
    assert_int_equal(summary.all.dropped, dropped);
    assert_int_equal(summary.all.prompt_tokens, prompts);
    assert_int_equal(summary.outcomes[TASK_DONE] + summary.outcomes[TASK_EMPTY] +
                         summary.outcomes[TASK_SET_ASIDE],
                     33);
    assert_int_equal(summary.aside_count, 1);
    assert_int_equal(summary.asides[0].tasks, summary.outcomes[TASK_SET_ASIDE]);
    assert_int_equal(summary.drop_count, 3);
    for (size_t i = 0; i < summary.drop_count; i++)
        dropped -= summary.drops[i].pairs;
    assert_int_equal(dropped, 0);
    assert_int_equal(summary.task_pairs.quantiles[0], 0);
    assert_int_equal(summary.task_pairs.quantiles[SUMMARY_QUANTILES - 1], 4);
    reflections_summary_release(&summary);
    reflection_set_close(&set);
}

// One segment in each of several attempts; some tasks were done twice, with other texts the second
// time.
static void make_scattered(const char *directory, uint32_t attempts)
{
    for (uint32_t i = 0; i < attempts; i++) {
        char name[16];
        snprintf(name, sizeof(name), "s%u", i);
        commit_attempt(directory, name, 10 * i, 10 * i + 15, i);
    }
}

static void assert_same_sets(const struct reflection_set *a, const struct reflection_set *b)
{
    assert_int_equal(a->task_count, b->task_count);
    assert_int_equal(a->pair_count, b->pair_count);
    for (size_t i = 0; i < a->task_count; i++)
        assert_true(task_equal(&a->tasks[i], &b->tasks[i]));
    for (size_t i = 0; i < a->pair_count; i++)
        assert_true(pair_equal(&a->pairs[i], &b->pairs[i]));
}

static void compact_keeps_every_task_and_pair(void **state)
{
    struct error err;
    struct reflection_set before, after;
    struct reflections_compacted result;
    make_scattered(*state, 8);
    open_set(*state, &before);
    assert_int_equal(before.duplicate_tasks, 35);
    const size_t targets[] = {18000, 1 << 20, 1 << 20};
    for (int i = 0; i < 3; i++) {
        if (reflections_compact(fs_system(), *state, targets[i], &result, &err) != 0)
            fail_msg("%s", err.text);
        assert_int_equal(result.tasks, 85);
        open_set(*state, &after);
        assert_int_equal(after.segment_count, result.segments_after);
        assert_int_equal(after.duplicate_tasks, 0);
        assert_same_sets(&before, &after);
        reflection_set_close(&after);
        if (i == 0)
            assert_true(result.segments_before == 8 && result.segments_after > 1);
        else
            assert_int_equal(result.segments_after, 1);
    }
    reflection_set_close(&before);
}

// Every operation of a compaction fails once: whatever happened, the set stays the same, and the
// next run succeeds.
static void compact_loses_nothing_at_any_failure(void **state)
{
    struct error err;
    struct reflection_set before, after;
    struct reflections_compacted result;
    int failures = 0;
    for (bool struck = true; struck; failures++) {
        char *directory = mem_printf("%s/%d", (char *)*state, failures);
        make_scattered(directory, 3);
        open_set(directory, &before);
        struct fs_fault fault = {
            .inner = fs_system(), .write_budget_bytes = UINT64_MAX, .fail_operation = failures + 1};
        struct fs fs = fs_with_faults(&fault);
        int rc = reflections_compact(&fs, directory, 18000, &result, &err);
        struck = fault.fail_operation == 0;
        assert_true(struck || rc == 0);
        open_set(directory, &after);
        assert_same_sets(&before, &after);
        reflection_set_close(&after);
        if (reflections_compact(fs_system(), directory, 1 << 20, &result, &err) != 0)
            fail_msg("%s", err.text);
        open_set(directory, &after);
        assert_int_equal(after.segment_count, 1);
        assert_same_sets(&before, &after);
        reflection_set_close(&after);
        reflection_set_close(&before);
        free(directory);
    }
    assert_true(failures > 30);
}

// A crash: from some operation on nothing more happens.
struct crash {
    int64_t operations_left;
};

static int crashing_remove(void *state, const char *path)
{
    struct crash *crash = state;
    if (crash->operations_left-- <= 0)
        return -5;
    return fs_system()->ops->remove(fs_system()->state, path);
}

static void crash_while_removing_changes_nothing(void **state)
{
    struct error err;
    struct reflection_set before, after;
    struct reflections_compacted result;
    make_scattered(*state, 8);
    open_set(*state, &before);
    for (int64_t n = 0; n < 5; n++) {
        struct fs_ops ops = *fs_system()->ops;
        struct crash crash = {.operations_left = n};
        struct fs fs = {.ops = &ops, .state = &crash};
        ops.remove = crashing_remove;
        assert_int_equal(reflections_compact(&fs, *state, 18000, &result, &err), -1);
        assert_non_null(strstr(err.text, "cannot remove the folded segment"));
        open_set(*state, &after);
        assert_same_sets(&before, &after);
        reflection_set_close(&after);
    }
    reflection_set_close(&before);
}

static void full_disk_leaves_the_segments_as_they_were(void **state)
{
    struct error err;
    struct reflection_set before, after;
    struct reflections_compacted result;
    make_scattered(*state, 8);
    open_set(*state, &before);
    for (uint64_t budget = 0; budget < 40000; budget += 9000) {
        struct fs_fault fault = {.inner = fs_system(), .write_budget_bytes = budget};
        struct fs fs = fs_with_faults(&fault);
        assert_int_equal(reflections_compact(&fs, *state, 18000, &result, &err), -1);
        open_set(*state, &after);
        assert_int_equal(after.segment_count, 8);
        assert_same_sets(&before, &after);
        reflection_set_close(&after);
    }
    reflection_set_close(&before);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_SCRATCH(audit_finds_missing_and_unknown_tasks),
        WITH_SCRATCH(audit_of_nothing_misses_everything),
        WITH_SCRATCH(export_writes_every_pair_as_json),
        WITH_SCRATCH(a_summary_adds_up),
        WITH_SCRATCH(compact_keeps_every_task_and_pair),
        WITH_SCRATCH(compact_loses_nothing_at_any_failure),
        WITH_SCRATCH(crash_while_removing_changes_nothing),
        WITH_SCRATCH(full_disk_leaves_the_segments_as_they_were),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
