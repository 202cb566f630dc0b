// SPDX-License-Identifier: Apache-2.0
#include "base/random.h"
#include "datasets/reflections_index.h"
#include "tests/datasets/reflections_helper.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static char *begin_attempt(const char *directory)
{
    char *attempt;
    struct error err;
    if (reflections_begin_attempt(fs_system(), directory, &attempt, &err) != 0)
        fail_msg("%s", err.text);
    return attempt;
}

static void commit(const char *attempt, const char *name, uint32_t first, uint32_t end,
                   uint32_t variant)
{
    struct error err;
    if (example_commit(attempt, name, first, end, variant, &err) != 0)
        fail_msg("%s", err.text);
}

static void refresh(struct reflections_index *index)
{
    struct error err;
    if (reflections_index_refresh(index, &err) != 0)
        fail_msg("%s", err.text);
}

static bool has(const struct reflections_index *index, uint32_t number, uint32_t variant)
{
    struct indexed_task found;
    return reflections_index_find(index, example_task_id(number), &found) &&
           is_example(found.task, found.pairs, number, variant);
}

static void what_is_committed_later_is_found_after_a_refresh(void **state)
{
    struct indexed_task found, again;
    struct reflections_index *index = reflections_index_create(fs_system(), *state);
    refresh(index);
    assert_int_equal(reflections_index_tasks(index), 0);
    assert_false(reflections_index_find(index, example_task_id(1), &found));
    char *attempt = begin_attempt(*state);
    commit(attempt, "b", 0, 40, 1);
    assert_false(reflections_index_find(index, example_task_id(1), &found));
    refresh(index);
    for (uint32_t number = 0; number < 40; number++)
        assert_true(has(index, number, 1));
    assert_true(reflections_index_find(index, example_task_id(39), &found));
    commit(attempt, "a", 40, 200, 1); // before what is known, and enough for the table to grow
    commit(attempt, "c", 200, 233, 1);
    refresh(index);
    refresh(index); // nothing new
    for (uint32_t number = 0; number < 233; number++)
        assert_true(has(index, number, 1));
    assert_int_equal(reflections_index_tasks(index), 233);
    assert_int_equal(reflections_index_rows(index), 233);
    assert_true(reflections_index_find(index, example_task_id(39), &again));
    assert_true(found.task == again.task && found.pairs == again.pairs);
    size_t count;
    const char *const *segments = reflections_index_segments(index, &count);
    assert_int_equal(count, 3);
    assert_non_null(strstr(segments[0], "attempt-0001/a.h5"));
    assert_non_null(strstr(segments[2], "attempt-0001/c.h5"));
    reflections_index_destroy(index);
    reflections_index_destroy(NULL);
    free(attempt);
}

static void the_execution_of_the_earlier_segment_counts_whenever_it_came(void **state)
{
    struct reflections_index *index = reflections_index_create(fs_system(), *state);
    char *first = begin_attempt(*state), *second = begin_attempt(*state);
    commit(second, "a", 0, 30, 2);
    refresh(index);
    assert_true(has(index, 3, 2));
    commit(second, "b", 20, 40, 3);
    refresh(index);
    assert_true(has(index, 21, 2));
    assert_true(has(index, 31, 3));
    commit(first, "z", 10, 30, 1);
    refresh(index);
    assert_true(has(index, 9, 2));
    assert_true(has(index, 11, 1));
    assert_true(has(index, 21, 1));
    assert_int_equal(reflections_index_tasks(index), 40);
    assert_int_equal(reflections_index_rows(index), 70);
    reflections_index_destroy(index);
    free(first);
    free(second);
}

static void a_row_that_sets_aside_gives_way(void **state)
{
    struct error err;
    struct indexed_task found;
    const struct reflection_task aside = {
        .task_id = example_task_id(3), .outcome = TASK_SET_ASIDE, .reason = "nobody could"};
    struct reflections_index *index = reflections_index_create(fs_system(), *state);
    struct segment_writer *writer = segment_writer_create();
    char *attempt = begin_attempt(*state);
    assert_int_equal(segment_writer_add(writer, &aside, NULL, 0, &err), 0);
    assert_int_equal(segment_writer_commit(writer, fs_system(), attempt, "a", &err), 0);
    refresh(index);
    assert_true(reflections_index_find(index, aside.task_id, &found));
    assert_int_equal(found.task->outcome, TASK_SET_ASIDE);
    commit(attempt, "b", 3, 4, 0);
    refresh(index);
    assert_true(has(index, 3, 0));
    segment_writer_destroy(writer);
    reflections_index_destroy(index);
    free(attempt);
}

static void a_damaged_segment_is_named_and_tried_again(void **state)
{
    struct error err = {{0}};
    struct strbuf file = {0};
    struct reflections_index *index = reflections_index_create(fs_system(), *state);
    char *attempt = begin_attempt(*state), *path = fs_join(attempt, "b.h5");
    commit(attempt, "a", 0, 10, 1);
    commit(attempt, "b", 10, 20, 1);
    commit(attempt, "c", 20, 30, 1);
    assert_int_equal(fs_read(fs_system(), path, &file, &err), 0);
    file.bytes[file.length / 2] ^= 1;
    assert_int_equal(fs_write_text(fs_system(), path, file.bytes, file.length, &err), 0);
    assert_int_equal(reflections_index_refresh(index, &err), -1);
    assert_non_null(strstr(err.text, "b.h5"));
    assert_true(has(index, 5, 1));
    file.bytes[file.length / 2] ^= 1;
    assert_int_equal(fs_write_text(fs_system(), path, file.bytes, file.length, &err), 0);
    refresh(index);
    assert_int_equal(reflections_index_tasks(index), 30);
    assert_int_equal(reflections_index_rows(index), 30);
    strbuf_release(&file);
    reflections_index_destroy(index);
    free(attempt);
    free(path);
}

// Segments in random order, refreshed now and then: always what a set opened at that moment has.
static void it_always_agrees_with_the_set(void **state)
{
    struct reflections_index *index = reflections_index_create(fs_system(), *state);
    char *attempts[3] = {begin_attempt(*state), begin_attempt(*state), begin_attempt(*state)};
    for (uint64_t round = 0; round < 60; round++) {
        char name[16];
        snprintf(name, sizeof(name), "%02u-%02u", (unsigned)(random_u64(5, 0, round) % 50),
                 (unsigned)round);
        const uint32_t first = random_u64(5, 1, round) % 150;
        commit(attempts[random_u64(5, 2, round) % 3], name, first, first + 12, (uint32_t)round);
        if (round % 7 != 3)
            continue;
        struct reflection_set set;
        struct error err;
        assert_int_equal(reflection_set_open(fs_system(), *state, &set, &err), 0);
        refresh(index);
        assert_int_equal(reflections_index_tasks(index), set.task_count);
        const struct reflection *pairs = set.pairs;
        for (size_t t = 0; t < set.task_count; t++) {
            struct indexed_task found;
            assert_true(reflections_index_find(index, set.tasks[t].task_id, &found));
            assert_true(task_equal(found.task, &set.tasks[t]));
            for (uint32_t i = 0; i < set.tasks[t].pairs; i++)
                assert_true(pair_equal(&found.pairs[i], &pairs[i]));
            pairs += set.tasks[t].pairs;
        }
        reflection_set_close(&set);
    }
    reflections_index_destroy(index);
    for (int i = 0; i < 3; i++)
        free(attempts[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_SCRATCH(what_is_committed_later_is_found_after_a_refresh),
        WITH_SCRATCH(the_execution_of_the_earlier_segment_counts_whenever_it_came),
        WITH_SCRATCH(a_row_that_sets_aside_gives_way),
        WITH_SCRATCH(a_damaged_segment_is_named_and_tried_again),
        WITH_SCRATCH(it_always_agrees_with_the_set),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
