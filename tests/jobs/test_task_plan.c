// SPDX-License-Identifier: Apache-2.0
#include "base/mem.h"
#include "jobs/task_plan.h"
#include "tests/datasets/corpus_fixture.h"
#include "worker/reflect/cloze.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static const struct fixture_text texts[] = {
    {"Oak", "The oak of Tarrow fell in 1802.\n\nIt took 9 men to move it to Skarv."},
    {"Elm", "The elm of Tarrow fell in 1803."},
    {"Ash", "The ash of Ventry still stood in 1911.\n\nBoys of Ventry counted 412 rings."},
    {"Yew", "The yew is older than the church of Lasp."},
    {"Fir", "Firs came to Lasp with Ruth Amory in 1770."},
};
#define TEXTS (sizeof(texts) / sizeof(texts[0]))
static const struct corpus_part whole = {1, 1};

static struct generator *open_cloze(void)
{
    const struct cloze_options options = CLOZE_DEFAULTS;
    return cloze_create(&options);
}

static void make_plan(const struct fixture_text *from, size_t count, struct corpus_part part,
                      uint64_t seed, struct task_plan *out)
{
    struct corpus *corpus = corpus_from_texts(from, count);
    struct generator *generator = open_cloze();
    const struct task_plan_options options = {.part = part, .seed = seed, .chunk_step = STEP_CLOZE};
    task_plan_create(corpus, generator, &options, out);
    generator_destroy(generator);
    corpus_close(corpus);
}

static bool plan_has(const struct task_plan *plan, struct digest id)
{
    for (size_t t = 0; t < plan->count; t++) {
        if (digest_equal(plan->tasks[t].id, id))
            return true;
    }
    return false;
}

static void part_is_parsed_strictly(void **state)
{
    static const char *const wrong[] = {"",    "1",     "0/3",   "4/3",      "1/0",
                                        "a/b", "1/3 ",  "1/3/4", "-1/3",     "1/-3",
                                        "1.5", "1/3.0", "2//3",  "1/9999999"};
    struct corpus_part part;
    struct error err;
    (void)state;
    assert_int_equal(corpus_part_parse("2/3", &part, &err), 0);
    assert_int_equal(part.part, 2);
    assert_int_equal(part.parts, 3);
    assert_int_equal(corpus_part_parse(NULL, &part, &err), 0);
    assert_int_equal(part.parts, 1);
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        if (corpus_part_parse(wrong[i], &part, &err) == 0)
            fail_msg("'%s' was accepted", wrong[i]);
    }
}

static void parts_share_the_whole_and_overlap_nowhere(void **state)
{
    struct task_plan all, parts[3];
    size_t count = 0;
    (void)state;
    make_plan(texts, TEXTS, whole, 1, &all);
    assert_int_equal(all.count, 7);
    for (int p = 0; p < 3; p++) {
        make_plan(texts, TEXTS, (struct corpus_part){p + 1, 3}, 1, &parts[p]);
        assert_true(parts[p].count > 0);
        count += parts[p].count;
        for (size_t t = 0; t < parts[p].count; t++)
            assert_true(plan_has(&all, parts[p].tasks[t].id));
    }
    assert_int_equal(count, all.count);
    for (size_t t = 0; t < parts[0].count; t++) {
        assert_false(plan_has(&parts[1], parts[0].tasks[t].id));
        assert_false(plan_has(&parts[2], parts[0].tasks[t].id));
    }
    for (int p = 0; p < 3; p++)
        task_plan_release(&parts[p]);
    task_plan_release(&all);
}

static void ids_follow_the_text_and_not_the_place(void **state)
{
    const struct fixture_text turned[] = {texts[4], texts[2], texts[0], texts[3], texts[1]};
    struct task_plan plan, other;
    (void)state;
    make_plan(texts, TEXTS, whole, 1, &plan);
    make_plan(turned, TEXTS, whole, 1, &other);
    assert_int_equal(plan.count, other.count);
    for (size_t t = 0; t < plan.count; t++)
        assert_true(plan_has(&other, plan.tasks[t].id));
    task_plan_release(&plan);
    task_plan_release(&other);
}

static void ids_change_with_all_that_the_generator_reads(void **state)
{
    struct fixture_text changed[TEXTS];
    struct task_plan plan, other;
    (void)state;
    make_plan(texts, TEXTS, whole, 1, &plan);
    for (size_t i = 0; i < TEXTS; i++)
        changed[i] = texts[i];
    changed[0].title = "The Oak"; // the questions name it
    changed[2].text = "The ash of Ventry still stood in 1911.\n\nBoys of Ventry counted 413 rings.";
    make_plan(changed, TEXTS, whole, 1, &other);
    size_t kept = 0;
    for (size_t t = 0; t < plan.count; t++)
        kept += plan_has(&other, plan.tasks[t].id);
    assert_int_equal(kept, 3); // elm, yew and fir; both chunks of ash, as one of them changed
    task_plan_release(&other);

    make_plan(texts, TEXTS, whole, 2, &other);
    for (size_t t = 0; t < plan.count; t++)
        assert_false(plan_has(&other, plan.tasks[t].id));
    assert_false(digest_equal(plan.digest, other.digest));
    task_plan_release(&other);
    task_plan_release(&plan);
}

// Makes nothing; its tasks depend on the text of their chunks alone.
static struct digest text_digest(struct generator *generator, const struct corpus *corpus,
                                 size_t chunk)
{
    (void)generator;
    return corpus->chunks[chunk].digest;
}

static struct digest texts_digest(struct generator *generator, const struct corpus *corpus,
                                  const uint32_t *chunks, size_t count)
{
    struct digest_builder builder;
    (void)generator;
    digest_begin(&builder);
    for (size_t i = 0; i < count; i++)
        digest_field(&builder, corpus->chunks[chunks[i]].digest.bytes, sizeof(struct digest));
    return digest_end(&builder);
}

static const struct generator_ops text_ops = {.input_digest = text_digest,
                                              .group_input_digest = texts_digest};
static struct generator text_generator = {.ops = &text_ops, .name = "text", .capacity = 4};

// Chunks by document: 0, 1 | 2 | 3, 4 | 5 | 6; chunks 1 and 5 have the same text.
static const struct fixture_text grouped[] = {
    {"Oak", "The oak of Tarrow fell in 1802.\n\nIt was of Lasp."},
    {"Elm", "The elm of Tarrow fell in 1803."},
    {"Ash", "The ash of Ventry stood in 1911, and much longer than this.\n\nBoys counted."},
    {"Yew", "It was of Lasp."},
    {"Fir", "Firs came to Lasp with Ruth Amory in 1770."},
};

static void plan_grouped(struct corpus_part part, const uint32_t *offsets, const uint32_t *chunks,
                         size_t count, struct task_plan *out)
{
    struct corpus *corpus = corpus_from_texts(grouped, sizeof(grouped) / sizeof(grouped[0]));
    const struct task_plan_options options = {
        .part = part, .groups = {offsets, chunks, count}, .chunk_step = STEP_DIRECT};
    assert_int_equal(corpus->chunk_count, 7);
    task_plan_create(corpus, &text_generator, &options, out);
    corpus_close(corpus);
}

static void groups_follow_the_chunks_and_name_their_tasks(void **state)
{
    static const uint32_t offsets[] = {0, 3, 5, 7, 8}, chunks[] = {0, 2, 3, 5, 6, 3, 4, 6};
    struct task_plan plan;
    (void)state;
    plan_grouped(whole, offsets, chunks, 4, &plan);
    assert_int_equal(plan.chunk_tasks, 6); // chunk 1 stands for chunk 5
    assert_int_equal(plan.repeated, 1);
    assert_int_equal(plan.count, 6 + 2); // one document, or one chunk, is no group
    const struct planned_task *first = &plan.tasks[6], *second = &plan.tasks[7];
    assert_int_equal(first->member_count, 3);
    assert_int_equal(first->members[0], 0);
    assert_int_equal(first->members[1], 2);
    assert_int_equal(first->members[2], 3);
    assert_int_equal(second->member_count, 2);
    assert_int_equal(second->members[0], 1);
    assert_int_equal(plan.tasks[second->members[0]].chunk, 1);
    assert_int_equal(plan.tasks[second->members[1]].chunk, 6);
    for (size_t t = 0; t < plan.count; t++) {
        for (size_t u = 0; u < t; u++)
            assert_false(digest_equal(plan.tasks[t].id, plan.tasks[u].id));
    }
    task_plan_release(&plan);
}

// Chunks 1 and 5 are one text of two documents: alone they join nothing, and two groups that
// differ in them only are one task.
static void equal_texts_make_no_group_and_no_second_one(void **state)
{
    static const uint32_t offsets[] = {0, 2, 4, 6}, chunks[] = {1, 5, 1, 6, 5, 6};
    struct task_plan plan;
    (void)state;
    plan_grouped(whole, offsets, chunks, 3, &plan);
    assert_int_equal(plan.count, plan.chunk_tasks + 1);
    assert_int_equal(plan.tasks[6].member_count, 2);
    task_plan_release(&plan);
}

// Between them the parts have the chunks once; a group is in a part with the chunks it has there.
static void groups_stay_inside_their_part(void **state)
{
    static const uint32_t offsets[] = {0, 7}, chunks[] = {0, 1, 2, 3, 4, 5, 6};
    struct task_plan plan;
    size_t members = 0, tasks = 0;
    (void)state;
    for (int p = 1; p <= 2; p++) {
        plan_grouped((struct corpus_part){p, 2}, offsets, chunks, 1, &plan);
        tasks += plan.chunk_tasks;
        for (size_t t = plan.chunk_tasks; t < plan.count; t++) {
            members += plan.tasks[t].member_count;
            for (size_t i = 0; i < plan.tasks[t].member_count; i++)
                assert_true(plan.tasks[t].members[i] < plan.chunk_tasks);
        }
        task_plan_release(&plan);
    }
    assert_true(members > 0 && members <= tasks);
}

static void a_generator_without_groups_gets_none(void **state)
{
    static const uint32_t offsets[] = {0, 2}, chunks[] = {0, 2};
    struct corpus *corpus = corpus_from_texts(texts, TEXTS);
    struct generator *generator = open_cloze();
    const struct task_plan_options options = {
        .part = whole, .groups = {offsets, chunks, 1}, .chunk_step = STEP_CLOZE};
    struct task_plan plan;
    (void)state;
    task_plan_create(corpus, generator, &options, &plan);
    assert_int_equal(plan.count, plan.chunk_tasks);
    task_plan_release(&plan);
    generator_destroy(generator);
    corpus_close(corpus);
}

static void groups_and_long_tasks_have_priority(void **state)
{
    static const uint32_t offsets[] = {0, 2}, chunks[] = {4, 6};
    struct corpus *corpus = corpus_from_texts(grouped, sizeof(grouped) / sizeof(grouped[0]));
    const struct task_plan_options options = {
        .part = whole, .groups = {offsets, chunks, 1}, .chunk_step = STEP_DIRECT};
    struct task_plan plan;
    (void)state;
    task_plan_create(corpus, &text_generator, &options, &plan);
    uint32_t *priorities = task_plan_priorities(&plan, corpus);
    for (size_t t = 0; t < plan.chunk_tasks; t++) {
        const uint32_t tokens = corpus->chunks[plan.tasks[t].chunk].tokens;
        assert_true(priorities[plan.chunk_tasks] > priorities[t]);
        for (size_t u = 0; u < plan.chunk_tasks; u++) {
            if (2 * corpus->chunks[plan.tasks[u].chunk].tokens <= tokens)
                assert_true(priorities[t] > priorities[u]);
        }
    }
    free(priorities);
    task_plan_release(&plan);
    corpus_close(corpus);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(part_is_parsed_strictly),
        cmocka_unit_test(parts_share_the_whole_and_overlap_nowhere),
        cmocka_unit_test(ids_follow_the_text_and_not_the_place),
        cmocka_unit_test(ids_change_with_all_that_the_generator_reads),
        cmocka_unit_test(groups_follow_the_chunks_and_name_their_tasks),
        cmocka_unit_test(equal_texts_make_no_group_and_no_second_one),
        cmocka_unit_test(groups_stay_inside_their_part),
        cmocka_unit_test(a_generator_without_groups_gets_none),
        cmocka_unit_test(groups_and_long_tasks_have_priority),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
