// SPDX-License-Identifier: Apache-2.0
// The set of a step comes from the seed alone; ranks and micro-batches only lay it out.
#include "base/mem.h"
#include "base/random.h"
#include "datasets/packing.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MAX_TOKENS 64

static const size_t sizes[] = {1, 31, 33, 1000};
#define SIZES (sizeof(sizes) / sizeof(sizes[0]))

// Sequences of 2 to MAX_TOKENS tokens; every token of the set is different.
static struct sequence_set make_set(size_t count)
{
    struct sequence_set set = {0};
    int32_t ids[MAX_TOKENS], next = 0;
    for (size_t s = 0; s < count; s++) {
        size_t length = 2 + random_u64(3, 0, s) % (MAX_TOKENS - 1);
        size_t begin = 1 + random_u64(3, 1, s) % (length - 1);
        size_t end = begin + 1 + random_u64(3, 2, s) % (length - begin);
        for (size_t t = 0; t < length; t++)
            ids[t] = next++;
        assert_int_equal(sequence_set_add(&set, ids, length, begin, end, MAX_TOKENS), 0);
    }
    return set;
}

static size_t length_of(const struct sequence_set *set, uint32_t s)
{
    return (size_t)(set->offsets[s + 1] - set->offsets[s]);
}

static void too_long_sequences_are_counted_not_cut(void **state)
{
    (void)state;
    struct sequence_set set = {0};
    const int32_t ids[9] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    assert_int_equal(sequence_set_add(&set, ids, 8, 1, 8, 8), 0);
    assert_int_equal(sequence_set_add(&set, ids, 9, 1, 9, 8), 1);
    assert_int_equal(sequence_set_add(&set, ids, 9, 1, 9, 5), 1);
    assert_int_equal(sequence_set_add(&set, ids, 6, 1, 6, 5), 1);
    assert_int_equal(set.count, 1);
    assert_int_equal(set.too_long, 3);
    assert_int_equal(set.longest_refused, 9);
    assert_int_equal(set.offsets[1], 8);
    sequence_set_release(&set);
    assert_null(set.ids);
}

static void every_sequence_comes_once_per_epoch(void **state)
{
    (void)state;
    const size_t batches[] = {1, 7, 33, 5000};
    for (size_t i = 0; i < SIZES * 4; i++) {
        struct sequence_set set = make_set(sizes[i / 4]);
        struct step_plan plan = {.seed = 5, .per_step = batches[i % 4], .epochs = 3};
        size_t per_epoch = plan_steps_per_epoch(&plan, &set);
        uint32_t *step = mem_calloc(plan.per_step, sizeof(*step));
        assert_int_equal(plan_steps(&plan, &set), 3 * per_epoch);
        for (size_t epoch = 0; epoch < 3; epoch++) {
            bool *seen = mem_calloc(set.count, sizeof(*seen));
            size_t total = 0;
            for (size_t s = 0; s < per_epoch; s++) {
                size_t n = plan_step_sequences(&plan, &set, epoch * per_epoch + s, step);
                assert_true(n > 0 && (n == plan.per_step || s + 1 == per_epoch));
                for (size_t k = 0; k < n; k++) {
                    assert_true(step[k] < set.count && !seen[step[k]]);
                    seen[step[k]] = true;
                }
                total += n;
            }
            assert_int_equal(total, set.count);
            free(seen);
        }
        free(step);
        sequence_set_release(&set);
    }
}

static void order_follows_seed_and_epoch(void **state)
{
    (void)state;
    struct sequence_set set = make_set(1000);
    struct step_plan plan = {.seed = 5, .per_step = 1000, .epochs = 2};
    struct step_plan other = {.seed = 6, .per_step = 1000, .epochs = 2};
    uint32_t a[1000], b[1000];
    plan_step_sequences(&plan, &set, 0, a);
    plan_step_sequences(&plan, &set, 0, b);
    assert_memory_equal(a, b, sizeof(a));
    plan_step_sequences(&plan, &set, 1, b);
    assert_true(memcmp(a, b, sizeof(a)) != 0);
    plan_step_sequences(&other, &set, 0, b);
    assert_true(memcmp(a, b, sizeof(a)) != 0);
    sequence_set_release(&set);
}

static void ranks_divide_a_step_without_changing_it(void **state)
{
    (void)state;
    struct sequence_set set = make_set(1000);
    struct step_plan plan = {.seed = 5, .per_step = 96, .epochs = 1};
    uint32_t step[96], part[96];
    for (size_t s = 0; s < plan_steps(&plan, &set); s++) {
        size_t n = plan_step_sequences(&plan, &set, s, step);
        size_t targets = sequences_target_tokens(&set, step, n);
        for (int ranks = 1; ranks <= 7; ranks++) {
            bool seen[1000] = {false};
            size_t total = 0, total_targets = 0, lightest = SIZE_MAX, heaviest = 0;
            for (int rank = 0; rank < ranks; rank++) {
                memcpy(part, step, sizeof(step));
                size_t kept = sequences_for_rank(&set, part, n, rank, ranks), tokens = 0;
                for (size_t k = 0; k < kept; k++) {
                    assert_false(seen[part[k]]);
                    seen[part[k]] = true;
                    tokens += length_of(&set, part[k]);
                }
                total += kept;
                total_targets += sequences_target_tokens(&set, part, kept);
                lightest = tokens < lightest ? tokens : lightest;
                heaviest = tokens > heaviest ? tokens : heaviest;
            }
            for (size_t k = 0; k < n; k++)
                assert_true(seen[step[k]]);
            assert_int_equal(total, n);
            assert_int_equal(total_targets, targets);
            assert_true(heaviest - lightest <= MAX_TOKENS);
        }
    }
    sequence_set_release(&set);
}

static void layout_does_not_depend_on_the_order_given(void **state)
{
    (void)state;
    struct sequence_set set = make_set(100);
    uint32_t forward[100], backward[100];
    for (uint32_t i = 0; i < 100; i++) {
        forward[i] = i;
        backward[i] = 99 - i;
    }
    size_t a = sequences_for_rank(&set, forward, 100, 1, 3);
    size_t b = sequences_for_rank(&set, backward, 100, 1, 3);
    assert_int_equal(a, b);
    assert_memory_equal(forward, backward, a * sizeof(*forward));
    sequence_set_release(&set);
}

static void ranks_beyond_the_sequences_get_nothing(void **state)
{
    (void)state;
    struct sequence_set set = make_set(3);
    size_t total = 0;
    for (int rank = 0; rank < 8; rank++) {
        uint32_t sequences[3] = {0, 1, 2};
        size_t kept = sequences_for_rank(&set, sequences, 3, rank, 8);
        assert_true(kept <= 1);
        total += kept;
    }
    assert_int_equal(total, 3);
    assert_int_equal(sequences_for_rank(&set, NULL, 0, 0, 2), 0);
    assert_int_equal(pack_sequences(&set, NULL, 0, 10, NULL), 0);
    sequence_set_release(&set);
}

// A packed batch against the sequences that it should hold, token by token.
static size_t check_batch(const struct packed_batch *batch, const struct sequence_set *set,
                          const uint32_t *sequences, const uint32_t *bins, size_t count,
                          uint32_t bin)
{
    size_t token = 0, held = 0, targets = 0;
    for (size_t i = 0; i < count; i++) {
        if (bins[i] != bin)
            continue;
        uint32_t s = sequences[i];
        assert_int_equal(batch->offsets[held++], token);
        for (size_t t = 0; t < length_of(set, s); t++, token++) {
            const int32_t *ids = set->ids + set->offsets[s];
            bool target = t + 1 >= set->target_begin[s] && t + 1 < set->target_end[s];
            assert_int_equal(batch->ids[token], ids[t]);
            assert_int_equal(batch->positions[token], t);
            assert_int_equal(batch->targets[token], target ? ids[t + 1] : -1);
            targets += target;
        }
        assert_int_equal(batch->targets[token - 1], -1); // never predicts the next sequence
    }
    assert_int_equal(batch->sequences, held);
    assert_int_equal(batch->tokens, token);
    assert_int_equal(batch->offsets[held], token);
    return targets;
}

static void micro_batches_hold_every_sequence_once(void **state)
{
    (void)state;
    const size_t limits[] = {MAX_TOKENS, 100, 1000, 1000000};
    struct packed_batch batch = {0};
    for (size_t i = 0; i < SIZES * 4; i++) {
        size_t count = sizes[i / 4], limit = limits[i % 4];
        struct sequence_set set = make_set(count);
        uint32_t *sequences = mem_calloc(count, sizeof(*sequences));
        uint32_t *bins = mem_calloc(count, sizeof(*bins));
        for (uint32_t s = 0; s < count; s++)
            sequences[s] = s;
        size_t expected = sequences_target_tokens(&set, sequences, count);
        count = sequences_for_rank(&set, sequences, count, 0, 1);
        assert_int_equal(count, set.count);
        size_t batches = pack_sequences(&set, sequences, count, limit, bins);
        size_t targets = 0, held = 0;
        for (uint32_t bin = 0; bin < batches; bin++) {
            packed_batch_fill(&batch, &set, sequences, bins, count, bin);
            assert_true(batch.sequences > 0 && batch.tokens <= limit);
            targets += check_batch(&batch, &set, sequences, bins, count, bin);
            held += batch.sequences;
        }
        assert_int_equal(targets, expected);
        assert_int_equal(held, count);
        free(sequences);
        free(bins);
        sequence_set_release(&set);
    }
    packed_batch_release(&batch);
}

static void packing_fills_gaps_exactly(void **state)
{
    (void)state;
    struct sequence_set set = {0};
    int32_t ids[20] = {0};
    uint32_t sequences[99], bins[99];
    // 33 times lengths 14, 4 and 2: 33 batches of 20, each full.
    const size_t lengths[] = {14, 4, 2};
    for (uint32_t s = 0; s < 99; s++) {
        sequence_set_add(&set, ids, lengths[s % 3], 1, 2, 20);
        sequences[s] = s;
    }
    sequences_for_rank(&set, sequences, 99, 0, 1);
    assert_int_equal(pack_sequences(&set, sequences, 99, 20, bins), 33);
    assert_int_equal(pack_sequences(&set, sequences, 99, 660, bins), 1);
    sequence_set_release(&set);
}

static void digest_sees_every_part(void **state)
{
    (void)state;
    struct sequence_set set = make_set(33), same = make_set(33), empty = {0};
    struct digest digest = sequence_set_digest(&set);
    assert_true(digest_equal(digest, sequence_set_digest(&same)));
    assert_false(digest_equal(digest, sequence_set_digest(&empty)));
    same.ids[7]++;
    assert_false(digest_equal(digest, sequence_set_digest(&same)));
    same.ids[7]--;
    same.offsets[7]++;
    assert_false(digest_equal(digest, sequence_set_digest(&same)));
    same.offsets[7]--;
    same.target_begin[7]++;
    assert_false(digest_equal(digest, sequence_set_digest(&same)));
    same.target_begin[7]--;
    same.target_end[32]++;
    assert_false(digest_equal(digest, sequence_set_digest(&same)));
    sequence_set_release(&set);
    sequence_set_release(&same);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(too_long_sequences_are_counted_not_cut),
        cmocka_unit_test(every_sequence_comes_once_per_epoch),
        cmocka_unit_test(order_follows_seed_and_epoch),
        cmocka_unit_test(ranks_divide_a_step_without_changing_it),
        cmocka_unit_test(layout_does_not_depend_on_the_order_given),
        cmocka_unit_test(ranks_beyond_the_sequences_get_nothing),
        cmocka_unit_test(micro_batches_hold_every_sequence_once),
        cmocka_unit_test(packing_fills_gaps_exactly),
        cmocka_unit_test(digest_sees_every_part),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
