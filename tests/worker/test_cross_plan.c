// SPDX-License-Identifier: Apache-2.0
#include "worker/reflect/cross_plan.h"

#include "base/mem.h"
#include "base/random.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MOST 200

struct group {
    struct draft drafts[MOST];
    struct draft_list list;
    struct arena arena;
    struct cross_plan plan;
};

static void add(struct group *group, uint32_t document, enum reflection_step step,
                const char *question, const char *answer)
{
    struct draft *draft = &group->drafts[group->list.count];
    *draft = (struct draft){.document = document,
                            .step = step,
                            .question = question,
                            .question_bytes = strlen(question),
                            .answer = answer,
                            .answer_bytes = strlen(answer)};
    draft_list_add(&group->list, draft);
}

static void plan(struct group *group, size_t batch, size_t anchors, size_t batches)
{
    const struct cross_limits limits = {batch, anchors, batches};
    cross_plan_make(&group->list, &limits, &group->arena, &group->plan);
}

static void release(struct group *group)
{
    draft_list_release(&group->list);
    arena_release(&group->arena);
    free(group);
}

// Three documents; the Salt Bride is in two of them, the Mournival in one pair of each, the goose
// in one document only.
static struct group *make_group(void)
{
    struct group *group = mem_calloc(1, sizeof *group);
    add(group, 0, STEP_DIRECT, "Who saw the Salt Bride?", "Nan.");                   // 0
    add(group, 0, STEP_DIRECT, "What is a goose?", "A bird.");                       // 1
    add(group, 0, STEP_ENTITY, "Who?", "Salt Bride");                                // 2
    add(group, 1, STEP_VERIFY, "Where did the SALT BRIDE sink?", "Near Mournival."); // 3
    add(group, 1, STEP_DIRECT, "Who loved?", "The Salt-Bride.");                     // 4
    add(group, 1, STEP_ENTITY, "Where?", "Mournival");                               // 5
    add(group, 2, STEP_INDIRECT, "Who kept Mournival?", "Tamsin.");                  // 6
    add(group, 2, STEP_DIRECT, "When?", "In 1871.");                                 // 7
    add(group, 2, STEP_ENTITY, "What bird?", "goose");                               // 8
    return group;
}

static void assert_drafts(const struct group *group, struct draft **drafts, size_t count,
                          const size_t *expected, size_t expected_count)
{
    assert_int_equal(count, expected_count);
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(drafts[i] - group->drafts, expected[i]);
    }
}

#define ASSERT_BATCH(position, anchors_, pairs_)                                                   \
    do {                                                                                           \
        const struct cross_batch *b = &group->plan.batches[position];                              \
        const size_t a[] = anchors_, p[] = pairs_;                                                 \
        assert_drafts(group, b->anchors, b->anchor_count, a, sizeof a / sizeof *a);                \
        assert_drafts(group, b->pairs, b->pair_count, p, sizeof p / sizeof *p);                    \
    } while (0)
#define LIST(...)                                                                                  \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }

static void shared_names_choose_anchors_and_order_pairs(void **state)
{
    (void)state;
    struct group *group = make_group();
    plan(group, 2, 0, 0);
    // Mournival stands in two pairs (3, 6), Salt Bride in three (0, 3, 4): so Mournival ranks
    // first.
    assert_int_equal(group->plan.count, 6);
    ASSERT_BATCH(0, LIST(0), LIST(3, 6));
    ASSERT_BATCH(1, LIST(0), LIST(4, 7));
    ASSERT_BATCH(2, LIST(3, 4), LIST(6, 0));
    ASSERT_BATCH(3, LIST(3, 4), LIST(1, 7));
    ASSERT_BATCH(4, LIST(6), LIST(3, 0));
    ASSERT_BATCH(5, LIST(6), LIST(4, 1));
    release(group);
}

static void limits_keep_what_tells_most(void **state)
{
    (void)state;
    struct group *group = make_group();
    plan(group, 3, 2, 1);
    assert_int_equal(group->plan.count, 2);
    ASSERT_BATCH(0, LIST(3), LIST(6, 0, 1));
    ASSERT_BATCH(1, LIST(6), LIST(3, 0, 4));
    release(group);
}

static void without_shared_names_every_pair_is_an_anchor(void **state)
{
    (void)state;
    struct group *group = mem_calloc(1, sizeof *group);
    add(group, 4, STEP_DIRECT, "A?", "One.");
    add(group, 4, STEP_DIRECT, "B?", "Two.");
    add(group, 7, STEP_DIRECT, "C?", "Three.");
    add(group, 7, STEP_ENTITY, "D?", "Three");
    plan(group, 20, 0, 0);
    assert_int_equal(group->plan.count, 2);
    ASSERT_BATCH(0, LIST(0, 1), LIST(2));
    ASSERT_BATCH(1, LIST(2), LIST(0, 1));
    release(group);
}

static void one_document_is_compared_with_nothing(void **state)
{
    (void)state;
    struct group *group = mem_calloc(1, sizeof *group);
    plan(group, 2, 0, 0);
    assert_int_equal(group->plan.count, 0);
    add(group, 1, STEP_DIRECT, "A?", "One.");
    add(group, 1, STEP_DIRECT, "B?", "One.");
    add(group, 1, STEP_ENTITY, "C?", "One");
    plan(group, 2, 0, 0);
    assert_int_equal(group->plan.count, 0);
    release(group);
}

// Every anchor meets every pair of another document exactly once, and none of its own.
static void comparisons_are_complete(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 50; seed++) {
        struct group *group = mem_calloc(1, sizeof *group);
        static const char *const words[] = {"ash", "beech", "cedar", "dogwood", "elm", "fir"};
        for (uint64_t i = 0; i < 60; i++) {
            const uint64_t draw = random_u64(seed, 1, i);
            add(group, (uint32_t)(draw % 5), draw / 8 % 4 ? STEP_DIRECT : STEP_ENTITY,
                words[draw / 64 % 6], words[draw / 512 % 6]);
        }
        plan(group, 1 + seed % 9, 0, 0);
        size_t met[MOST][MOST] = {{0}};
        bool anchor[MOST] = {false};
        for (size_t b = 0; b < group->plan.count; b++) {
            const struct cross_batch *batch = &group->plan.batches[b];
            assert_true(batch->pair_count <= 1 + seed % 9 && batch->pair_count > 0);
            for (size_t a = 0; a < batch->anchor_count; a++) {
                for (size_t p = 0; p < batch->pair_count; p++) {
                    met[batch->anchors[a] - group->drafts][batch->pairs[p] - group->drafts]++;
                    anchor[batch->anchors[a] - group->drafts] = true;
                }
            }
        }
        for (size_t a = 0; a < 60; a++) {
            for (size_t p = 0; p < 60; p++) {
                const struct draft *left = &group->drafts[a], *right = &group->drafts[p];
                const bool meets =
                    anchor[a] && left->document != right->document && right->step != STEP_ENTITY;
                assert_int_equal(met[a][p], meets);
            }
            assert_false(anchor[a] && group->drafts[a].step == STEP_ENTITY);
        }
        release(group);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shared_names_choose_anchors_and_order_pairs),
        cmocka_unit_test(limits_keep_what_tells_most),
        cmocka_unit_test(without_shared_names_every_pair_is_an_anchor),
        cmocka_unit_test(one_document_is_compared_with_nothing),
        cmocka_unit_test(comparisons_are_complete),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
