// SPDX-License-Identifier: Apache-2.0
#include "tests/datasets/reflections_helper.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void writer_refuses_what_a_reader_would_reject(void **state)
{
    struct error err;
    struct segment_writer *writer = segment_writer_create();
    for (int what = 0; what < 18; what++) {
        struct example example;
        example_fill(&example, 11 + 12, 0); // with everything
        struct reflection *pair = &example.pairs[1];
        size_t count = example.task.pairs;
        switch (what) {
        case 0:
            count--;
            break;
        case 1:
            example.task.outcome = TASK_EMPTY;
            break;
        case 2:
            example.task.pairs = 0, count = 0;
            break; // done without pairs
        case 3:
            pair->ordinal = example.pairs[0].ordinal;
            break;
        case 4:
            pair->question = "\xff", pair->question_bytes = 1;
            break;
        case 5:
            pair->answer = "\xed\xa0\x80", pair->answer_bytes = 3;
            break;
        case 6:
            example.sources[1].begin = example.sources[1].end + 1;
            break;
        case 7:
            pair->record_id.bytes[15] ^= 1;
            break;
        case 8:
            pair->task_id.bytes[0] ^= 1;
            break;
        case 9:
            pair->step = (enum reflection_step)REFLECTION_STEPS;
            break;
        case 10:
            example.task.reason = "\x80";
            break;
        case 11:
            pair->source_count = 0;
            break;
        case 12:
            example.parents[0] = pair->record_id;
            break;
        case 13:
            example.drops[0].reason = "";
            break;
        case 14:
            example.drops[2] = example.drops[0];
            break;
        case 15:
            example.usage[1].step = example.usage[0].step;
            break;
        case 16:
            example.usage[0].cached_tokens = example.usage[0].prompt_tokens + 1;
            break;
        case 17:
            example.drops[1].step = (enum reflection_step)REFLECTION_STEPS;
            break;
        }
        err.text[0] = 0;
        if (segment_writer_add(writer, &example.task, example.pairs, count, &err) == 0)
            fail_msg("case %d was accepted", what);
        assert_true(err.text[0] != 0);
        assert_int_equal(segment_writer_tasks(writer), 0);
    }
    assert_int_equal(example_add(writer, 4, 0, &err), 0);
    segment_writer_destroy(writer);
    segment_writer_destroy(NULL);
    (void)state;
}

static void identities_depend_on_every_field(void **state)
{
    (void)state;
    struct digest contents[2] = {digest_bytes("a", 1), digest_bytes("b", 1)};
    struct digest swapped[2] = {contents[1], contents[0]};
    const struct task_identity base = {.kind = "group", .contents = contents, .content_count = 2};
    struct digest seen[10];
    size_t count = 0;
    seen[count++] = task_identity_digest(&base);
    struct task_identity other = base;
    other.contents = swapped;
    assert_true(digest_equal(seen[0], task_identity_digest(&other)));
    for (int what = 0; what < 7; what++) {
        other = base;
        switch (what) {
        case 0:
            other.kind = "chunk";
            break;
        case 1:
            other.content_count = 1;
            break;
        case 2:
            other.step = STEP_CROSS;
            break;
        case 3:
            other.prompts.bytes[3] = 1;
            break;
        case 4:
            other.generator.bytes[3] = 1;
            break;
        case 5:
            other.sampling.bytes[3] = 1;
            break;
        case 6:
            other.seed = 1;
            break;
        }
        seen[count] = task_identity_digest(&other);
        for (size_t i = 0; i < count; i++)
            assert_false(digest_equal(seen[i], seen[count]));
        count++;
    }
    struct digest id = reflection_record_id(seen[0], STEP_DIRECT, 0);
    assert_false(digest_equal(id, reflection_record_id(seen[0], STEP_DIRECT, 1)));
    assert_false(digest_equal(id, reflection_record_id(seen[0], STEP_INDIRECT, 0)));
    assert_false(digest_equal(id, reflection_record_id(seen[1], STEP_DIRECT, 0)));
}

static void step_names_are_read_back(void **state)
{
    (void)state;
    struct error err;
    enum reflection_step step;
    for (int i = 0; i < REFLECTION_STEPS; i++) {
        assert_int_equal(reflection_step_parse(reflection_step_name(i), &step, &err), 0);
        assert_int_equal(step, i);
    }
    assert_int_equal(reflection_step_parse("1c", &step, &err), -1);
    assert_non_null(strstr(err.text, "'1c'"));
}

// Makes the next attempt and commits tasks first..end - 1 into it; returns its path.
static char *add_attempt(const char *directory, const char *name, uint32_t first, uint32_t end,
                         uint32_t variant)
{
    char *attempt;
    struct error err;
    if (reflections_begin_attempt(fs_system(), directory, &attempt, &err) != 0)
        fail_msg("%s", err.text);
    if (example_commit(attempt, name, first, end, variant, &err) != 0)
        fail_msg("%s", err.text);
    return attempt;
}

// Every task of the set is example(task) in variant_of(number); returns the number of pairs.
static void assert_set(const struct reflection_set *set, uint32_t count,
                       uint32_t (*variant_of)(uint32_t number))
{
    assert_int_equal(set->task_count, count);
    for (uint32_t number = 0; number < count; number++) {
        struct digest id = example_task_id(number);
        const struct reflection *pairs = set->pairs;
        size_t found = 0;
        for (size_t i = 0; i < set->task_count; i++) {
            assert_true(i == 0 ||
                        digest_compare(set->tasks[i - 1].task_id, set->tasks[i].task_id) < 0);
            if (digest_equal(set->tasks[i].task_id, id)) {
                assert_true(is_example(&set->tasks[i], pairs, number, variant_of(number)));
                found++;
            }
            pairs += set->tasks[i].pairs;
        }
        assert_int_equal(found, 1);
        assert_int_equal(pairs - set->pairs, set->pair_count);
    }
}

static uint32_t first_below_60(uint32_t number)
{
    return number < 60 ? 1 : 2;
}

static void earlier_attempt_counts_whole(void **state)
{
    struct error err;
    struct reflection_set set;
    free(add_attempt(*state, "a", 0, 60, 1));
    char *second = add_attempt(*state, "a", 40, 90, 2);
    assert_int_equal(example_commit(second, "b", 70, 100, 2, &err), 0);
    if (reflection_set_open(fs_system(), *state, &set, &err) != 0)
        fail_msg("%s", err.text);
    assert_int_equal(set.segment_count, 3);
    assert_int_equal(set.duplicate_tasks, 20 + 20);
    assert_non_null(strstr(set.segments[0], "attempt-0001/a.h5"));
    assert_non_null(strstr(set.segments[2], "attempt-0002/b.h5"));
    assert_set(&set, 100, first_below_60);
    reflection_set_close(&set);
    free(second);
}

static uint32_t always_first(uint32_t number)
{
    (void)number;
    return 1;
}

static void a_late_result_counts_before_the_row_that_set_it_aside(void **state)
{
    struct error err;
    struct reflection_set set;
    struct segment_writer *writer = segment_writer_create();
    const struct reflection_task aside = {.task_id = example_task_id(3),
                                          .outcome = TASK_SET_ASIDE,
                                          .reason = "no result within the lease"};
    char *attempt;
    assert_int_equal(reflections_begin_attempt(fs_system(), *state, &attempt, &err), 0);
    assert_int_equal(segment_writer_add(writer, &aside, NULL, 0, &err), 0);
    assert_int_equal(segment_writer_commit(writer, fs_system(), attempt, "a", &err), 0);
    segment_writer_destroy(writer);
    assert_int_equal(example_commit(attempt, "b", 0, 6, 1, &err), 0);
    free(attempt);
    assert_int_equal(reflection_set_open(fs_system(), *state, &set, &err), 0);
    assert_int_equal(set.duplicate_tasks, 1);
    assert_set(&set, 6, always_first);
    reflection_set_close(&set);
}

static void set_does_not_depend_on_who_did_what(void **state)
{
    struct error err;
    struct reflection_set one, many;
    char *a = fs_join(*state, "a"), *b = fs_join(*state, "b");
    free(add_attempt(a, "all", 0, 50, 1));
    char *attempt = add_attempt(b, "w2", 30, 50, 1);
    assert_int_equal(example_commit(attempt, "w1", 0, 17, 1, &err), 0);
    free(attempt);
    free(add_attempt(b, "w1", 17, 30, 1));
    assert_int_equal(reflection_set_open(fs_system(), a, &one, &err), 0);
    assert_int_equal(reflection_set_open(fs_system(), b, &many, &err), 0);
    assert_set(&one, 50, always_first);
    assert_int_equal(one.pair_count, many.pair_count);
    for (size_t i = 0; i < one.pair_count; i++)
        assert_true(pair_equal(&one.pairs[i], &many.pairs[i]));
    reflection_set_close(&one);
    reflection_set_close(&many);
    free(a);
    free(b);
}

static void attempts_are_ordered_by_number(void **state)
{
    struct error err;
    struct reflection_set set;
    const char *const names[] = {"attempt-10000", "attempt-9999"}; // as text the other way round
    for (int i = 0; i < 2; i++) {
        char *path = fs_join(*state, names[i]);
        assert_int_equal(fs_make_directories(fs_system(), path, &err), 0);
        assert_int_equal(example_commit(path, "a", 0, 9, i == 0 ? 2 : 1, &err), 0);
        free(path);
    }
    assert_int_equal(reflection_set_open(fs_system(), *state, &set, &err), 0);
    assert_set(&set, 9, always_first);
    reflection_set_close(&set);
    char *next;
    assert_int_equal(reflections_begin_attempt(fs_system(), *state, &next, &err), 0);
    assert_non_null(strstr(next, "attempt-10001"));
    free(next);
}

static void other_names_are_not_looked_at(void **state)
{
    struct error err;
    struct reflection_set set;
    char *attempt = add_attempt(*state, "a", 0, 9, 1);
    const char *const names[] = {"a.h5.tmp-12-0", "claim-0001", ".h5", "notes.txt"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        char *path = fs_join(attempt, names[i]);
        assert_int_equal(fs_write_text(fs_system(), path, "x", 1, &err), 0);
        free(path);
    }
    const char *const directories[] = {"attempt-2", "attempt-0000", "attempt-", "claims"};
    for (size_t i = 0; i < sizeof(directories) / sizeof(directories[0]); i++) {
        char *path = fs_join(*state, directories[i]);
        assert_int_equal(fs_make_directories(fs_system(), path, &err), 0);
        assert_int_equal(example_commit(path, "a", 9, 20, 1, &err), 0);
        free(path);
    }
    assert_int_equal(reflection_set_open(fs_system(), *state, &set, &err), 0);
    assert_set(&set, 9, always_first);
    reflection_set_close(&set);
    free(attempt);
}

static void damaged_segment_is_named_with_what_to_do(void **state)
{
    struct error err;
    struct reflection_set set;
    struct strbuf file = {0};
    char *attempt = add_attempt(*state, "a", 0, 9, 1);
    assert_int_equal(example_commit(attempt, "b", 9, 20, 1, &err), 0);
    char *path = fs_join(attempt, "b.h5");
    assert_int_equal(fs_read(fs_system(), path, &file, &err), 0);
    file.bytes[file.length / 2] ^= 1;
    assert_int_equal(fs_write_text(fs_system(), path, file.bytes, file.length, &err), 0);
    assert_int_equal(reflection_set_open(fs_system(), *state, &set, &err), -1);
    assert_non_null(strstr(err.text, path));
    assert_non_null(strstr(err.text, "generate again"));
    assert_null(set.memory);
    strbuf_release(&file);
    free(path);
    free(attempt);
}

static void empty_and_missing_directories(void **state)
{
    struct error err;
    struct reflection_set set;
    assert_int_equal(reflection_set_open(fs_system(), *state, &set, &err), 0);
    assert_int_equal(set.task_count, 0);
    assert_int_equal(set.pair_count, 0);
    reflection_set_close(&set);
    char *missing = fs_join(*state, "missing");
    assert_int_equal(reflection_set_open(fs_system(), missing, &set, &err), -1);
    assert_non_null(strstr(err.text, missing));
    free(missing);
}

// Another job takes the number between the listing and the mkdir.
static int racing_make_directory(void *state, const char *path)
{
    int *races = state;
    if (strstr(path, "/attempt-") && (*races)-- > 0)
        mkdir(path, 0777);
    return fs_system()->ops->make_directory(fs_system()->state, path);
}

static void racing_jobs_get_different_attempts(void **state)
{
    struct error err;
    struct fs_ops ops = *fs_system()->ops;
    int races = 2;
    struct fs fs = {.ops = &ops, .state = &races};
    ops.make_directory = racing_make_directory;
    char *first, *second;
    char *deep = fs_join(*state, "run/reflections");
    assert_int_equal(reflections_begin_attempt(&fs, deep, &first, &err), 0);
    assert_non_null(strstr(first, "run/reflections/attempt-0003"));
    assert_int_equal(reflections_begin_attempt(&fs, deep, &second, &err), 0);
    assert_non_null(strstr(second, "attempt-0004"));
    free(first);
    free(second);
    free(deep);
    struct fs_fault fault = {
        .inner = fs_system(), .write_budget_bytes = UINT64_MAX, .fail_operation = 1};
    fs = fs_with_faults(&fault);
    assert_int_equal(reflections_begin_attempt(&fs, *state, &first, &err), -1);
    assert_null(first);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(writer_refuses_what_a_reader_would_reject),
        cmocka_unit_test(identities_depend_on_every_field),
        cmocka_unit_test(step_names_are_read_back),
        WITH_SCRATCH(earlier_attempt_counts_whole),
        WITH_SCRATCH(a_late_result_counts_before_the_row_that_set_it_aside),
        WITH_SCRATCH(set_does_not_depend_on_who_did_what),
        WITH_SCRATCH(attempts_are_ordered_by_number),
        WITH_SCRATCH(other_names_are_not_looked_at),
        WITH_SCRATCH(damaged_segment_is_named_with_what_to_do),
        WITH_SCRATCH(empty_and_missing_directories),
        WITH_SCRATCH(racing_jobs_get_different_attempts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
