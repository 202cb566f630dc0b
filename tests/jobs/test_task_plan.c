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
    task_plan_create(corpus, part, STEP_CLOZE, generator, seed, out);
    generator_destroy(generator);
    corpus_close(corpus);
}

static bool plan_has(const struct task_plan *plan, struct digest id)
{
    for (size_t t = 0; t < plan->count; t++) {
        if (digest_equal(plan->ids[t], id))
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
            assert_true(plan_has(&all, parts[p].ids[t]));
    }
    assert_int_equal(count, all.count);
    for (size_t t = 0; t < parts[0].count; t++) {
        assert_false(plan_has(&parts[1], parts[0].ids[t]));
        assert_false(plan_has(&parts[2], parts[0].ids[t]));
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
        assert_true(plan_has(&other, plan.ids[t]));
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
        kept += plan_has(&other, plan.ids[t]);
    assert_int_equal(kept, 3); // elm, yew and fir; both chunks of ash, as one of them changed
    task_plan_release(&other);

    make_plan(texts, TEXTS, whole, 2, &other);
    for (size_t t = 0; t < plan.count; t++)
        assert_false(plan_has(&other, plan.ids[t]));
    assert_false(digest_equal(plan.digest, other.digest));
    task_plan_release(&other);
    task_plan_release(&plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(part_is_parsed_strictly),
        cmocka_unit_test(parts_share_the_whole_and_overlap_nowhere),
        cmocka_unit_test(ids_follow_the_text_and_not_the_place),
        cmocka_unit_test(ids_change_with_all_that_the_generator_reads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
