// SPDX-License-Identifier: Apache-2.0
#include "worker/model/reading_plan.h"

#include "base/random.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

enum { TABLE = 6, SEQUENCES = 40, TOKENS = 300, B = KV_BLOCK_TOKENS };

struct made {
    int32_t sequences[TOKENS], positions[TOKENS], tables[SEQUENCES * TABLE];
    struct step_tokens step;
};

// Block d of a sequence belongs to a random branch of a tree with `fan` branches everywhere.
static void make(struct made *out, uint64_t seed, size_t sequences, uint64_t fan)
{
    size_t count = 0;
    for (size_t s = 0; s < sequences; s++) {
        int32_t at = 0, tokens = 1 + (int32_t)(random_u64(seed, 1, s) % 9);
        for (size_t d = 0; d < TABLE; d++) {
            at = at * (int32_t)fan + (int32_t)(random_u64(seed, 2 + d, s) % fan);
            out->tables[s * TABLE + d] = at * TABLE + (int32_t)d;
        }
        int32_t first = (int32_t)(random_u64(seed, 20, s) % (TABLE * B - 10));
        for (int32_t t = 0; t < tokens && count < TOKENS; t++) {
            out->sequences[count] = (int32_t)s;
            out->positions[count++] = first + t;
        }
    }
    out->step = (struct step_tokens){.sequences = out->sequences,
                                     .positions = out->positions,
                                     .tokens = count,
                                     .tables = out->tables,
                                     .sequence_count = sequences};
}

// Each token in one group; its segments give the blocks of its own table in order, without gaps,
// as far as its position.
static void check(const struct made *made, const struct reading_plan *plan, size_t limit)
{
    bool seen[TOKENS] = {false};
    size_t at = 0;
    for (size_t g = 0; g < plan->group_count; g++) {
        const struct attention_group *group = &plan->groups[g];
        assert_int_equal(group->first, at);
        assert_true(group->tokens >= 1 && (size_t)group->tokens <= limit);
        assert_true((size_t)group->tokens <= plan->group_tokens);
        for (int32_t i = 0; i < group->tokens; i++, at++) {
            int32_t token = plan->order[at], next = 0;
            assert_false(seen[token]);
            seen[token] = true;
            const int32_t *table = made->tables + made->sequences[token] * TABLE;
            for (int32_t s = 0; s < group->segments; s++) {
                const struct attention_segment *segment = &plan->segments[group->first_segment + s];
                if ((size_t)segment->first > at || (size_t)(segment->first + segment->tokens) <= at)
                    continue;
                const int32_t *first =
                    made->tables + made->sequences[plan->order[segment->first]] * TABLE;
                assert_int_equal(segment->first_block, next);
                next = segment->end_block;
                for (int32_t b = segment->first_block; b < next && b <= made->positions[token] / B;
                     b++)
                    assert_int_equal(first[b], table[b]);
            }
            assert_true(next > made->positions[token] / B);
        }
    }
    assert_int_equal(at, made->step.tokens);
}

static void every_token_reads_its_blocks_in_order(void **state)
{
    (void)state;
    struct made made;
    struct reading_plan *plan = reading_plan_create(TOKENS);
    for (uint64_t seed = 0; seed < 300; seed++) {
        static const size_t limits[] = {0, 1, 3, 16, 1000};
        make(&made, seed, 1 + seed % SEQUENCES, 1 + seed % 3);
        for (size_t i = 0; i < 5; i++) {
            size_t limit = limits[i] < 1 ? 1 : limits[i] > 32 ? 32 : limits[i];
            reading_plan_make(plan, &made.step, TABLE, limits[i]);
            check(&made, plan, limit);
        }
    }
    reading_plan_destroy(plan);
}

// Thirty-two requests on one document: its blocks are one segment.
static void shared_blocks_are_read_once(void **state)
{
    (void)state;
    struct made made;
    struct reading_plan *plan = reading_plan_create(TOKENS);
    for (int32_t s = 0; s < 32; s++) {
        for (int32_t d = 0; d < TABLE; d++)
            made.tables[s * TABLE + d] = d < 5 ? d : 100 + s;
        made.sequences[s] = s;
        made.positions[s] = 5 * B + s % 7;
    }
    made.step = (struct step_tokens){.sequences = made.sequences,
                                     .positions = made.positions,
                                     .tokens = 32,
                                     .tables = made.tables,
                                     .sequence_count = 32};
    reading_plan_make(plan, &made.step, TABLE, 32);
    assert_int_equal(plan->group_count, 1);
    assert_int_equal(plan->segment_count, 33);
    assert_int_equal(plan->segments[0].tokens, 32);
    assert_int_equal(plan->segments[0].first_block, 0);
    assert_int_equal(plan->segments[0].end_block, 5);
    check(&made, plan, 32);
    reading_plan_destroy(plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_token_reads_its_blocks_in_order),
        cmocka_unit_test(shared_blocks_are_read_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
