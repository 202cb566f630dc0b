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
    assert_int_equal(set.longest, 8);
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
        struct step_cursor cursor = {0};
        size_t per_epoch = plan_steps_per_epoch(&plan, &set);
        assert_int_equal(plan_steps(&plan, &set), 3 * per_epoch);
        for (size_t epoch = 0; epoch < 3; epoch++) {
            bool *seen = mem_calloc(set.count, sizeof(*seen));
            size_t total = 0;
            for (size_t s = 0; s < per_epoch; s++) {
                size_t n;
                const uint32_t *step =
                    step_cursor_sequences(&cursor, &plan, &set, epoch * per_epoch + s, &n);
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
        step_cursor_release(&cursor);
        assert_null(cursor.order);
        sequence_set_release(&set);
    }
}

// The sequences of one step, asked of a new cursor.
static size_t step_alone(const struct step_plan *plan, const struct sequence_set *set, size_t step,
                         uint32_t *out)
{
    struct step_cursor cursor = {0};
    size_t n;
    const uint32_t *sequences = step_cursor_sequences(&cursor, plan, set, step, &n);
    memcpy(out, sequences, n * sizeof(*out));
    step_cursor_release(&cursor);
    return n;
}

static void order_follows_seed_and_epoch(void **state)
{
    (void)state;
    struct sequence_set set = make_set(1000);
    struct step_plan plan = {.seed = 5, .per_step = 1000, .epochs = 2};
    struct step_plan other = {.seed = 6, .per_step = 1000, .epochs = 2};
    uint32_t a[1000], b[1000];
    step_alone(&plan, &set, 0, a);
    step_alone(&plan, &set, 0, b);
    assert_memory_equal(a, b, sizeof(a));
    step_alone(&plan, &set, 1, b);
    assert_true(memcmp(a, b, sizeof(a)) != 0);
    step_alone(&other, &set, 0, b);
    assert_true(memcmp(a, b, sizeof(a)) != 0);
    sequence_set_release(&set);
}

static void a_cursor_may_jump(void **state)
{
    (void)state;
    struct sequence_set set = make_set(33);
    struct step_plan plan = {.seed = 5, .per_step = 4, .epochs = 4};
    struct step_cursor cursor = {0};
    for (uint64_t i = 0; i < 200; i++) {
        size_t step = random_u64(1, 0, i) % plan_steps(&plan, &set), n;
        uint32_t expected[4];
        const uint32_t *found = step_cursor_sequences(&cursor, &plan, &set, step, &n);
        assert_int_equal(n, step_alone(&plan, &set, step, expected));
        assert_memory_equal(found, expected, n * sizeof(*found));
    }
    step_cursor_release(&cursor);
    sequence_set_release(&set);
}

// Permuting 640,000 sequences anew in each of thousands of steps would take minutes.
static void steps_of_an_epoch_share_its_order(void **state)
{
    (void)state;
    struct sequence_set set = make_set(1000);
    struct step_plan plan = {.seed = 5, .per_step = 96, .epochs = 1};
    struct step_cursor cursor = {0};
    size_t n;
    const uint32_t *first = step_cursor_sequences(&cursor, &plan, &set, 0, &n);
    for (size_t step = 1; step < plan_steps(&plan, &set); step++)
        assert_true(step_cursor_sequences(&cursor, &plan, &set, step, &n) == first + step * 96);
    step_cursor_release(&cursor);
    sequence_set_release(&set);
}

static void ranks_divide_a_step_without_changing_it(void **state)
{
    (void)state;
    struct sequence_set set = make_set(1000);
    struct step_plan plan = {.seed = 5, .per_step = 96, .epochs = 1};
    struct step_cursor cursor = {0};
    struct step_layout layout = {0};
    for (size_t s = 0; s < plan_steps(&plan, &set); s++) {
        size_t n;
        const uint32_t *step = step_cursor_sequences(&cursor, &plan, &set, s, &n);
        for (int ranks = 1; ranks <= 7; ranks++) {
            bool seen[1000] = {false};
            size_t total = 0, targets = 0, lightest = SIZE_MAX, heaviest = 0;
            for (int rank = 0; rank < ranks; rank++) {
                step_layout_make(&layout, &set, step, n, DIVIDE_SEQUENCES, rank, ranks, 200);
                for (size_t k = 0; k < layout.count; k++) {
                    assert_false(seen[layout.sequences[k]]);
                    seen[layout.sequences[k]] = true;
                }
                size_t tokens = sequences_tokens(&set, layout.sequences, layout.count);
                total += layout.count;
                targets += sequences_target_tokens(&set, layout.sequences, layout.count);
                lightest = tokens < lightest ? tokens : lightest;
                heaviest = tokens > heaviest ? tokens : heaviest;
            }
            for (size_t k = 0; k < n; k++)
                assert_true(seen[step[k]]);
            assert_int_equal(total, n);
            assert_int_equal(targets, sequences_target_tokens(&set, step, n));
            assert_true(heaviest - lightest <= MAX_TOKENS);
        }
    }
    step_layout_release(&layout);
    step_cursor_release(&cursor);
    sequence_set_release(&set);
}

// One number for what a micro-batch holds, in its order.
static uint64_t micro_batch_digest(const struct sequence_set *set, const struct step_layout *layout,
                                   uint32_t bin)
{
    struct packed_batch batch = {0};
    packed_batch_fill(&batch, set, layout, bin);
    const struct digest digest = digest_bytes(batch.ids, batch.tokens * sizeof(*batch.ids));
    uint64_t number;
    memcpy(&number, digest.bytes, sizeof(number));
    packed_batch_release(&batch);
    return number;
}

static void micro_batches_are_the_same_for_any_number_of_ranks(void **state)
{
    (void)state;
    struct sequence_set set = make_set(300);
    struct step_layout one = {0}, layout = {0};
    uint32_t all[300];
    for (uint32_t i = 0; i < 300; i++)
        all[i] = i;
    step_layout_make(&one, &set, all, 300, DIVIDE_MICRO_BATCHES, 0, 1, 200);
    assert_int_equal(one.count, 300);
    assert_int_equal(one.total_bins, one.bin_count);
    uint64_t sum = 0; // of the digests: ranks may take them in any order
    for (uint32_t b = 0; b < one.bin_count; b++)
        sum += micro_batch_digest(&set, &one, b);
    for (int ranks = 1; ranks <= 7; ranks++) {
        uint64_t other = 0;
        size_t bins = 0, most = 0;
        for (int rank = 0; rank < ranks; rank++) {
            step_layout_make(&layout, &set, all, 300, DIVIDE_MICRO_BATCHES, rank, ranks, 200);
            for (uint32_t b = 0; b < layout.bin_count; b++)
                other += micro_batch_digest(&set, &layout, b);
            bins += layout.bin_count;
            most = layout.bin_count > most ? layout.bin_count : most;
            assert_int_equal(layout.total_bins, one.bin_count);
        }
        assert_int_equal(bins, one.bin_count);
        assert_int_equal(layout.most_bins, most);
        assert_true(other == sum);
    }
    step_layout_release(&one);
    step_layout_release(&layout);
    sequence_set_release(&set);
}

static void every_rank_knows_how_many_micro_batches_the_others_have(void **state)
{
    (void)state;
    struct sequence_set set = make_set(97);
    struct step_layout layout = {0};
    uint32_t all[97];
    for (uint32_t i = 0; i < 97; i++)
        all[i] = i;
    size_t total = 0, most = 0;
    for (int rank = 0; rank < 5; rank++) {
        step_layout_make(&layout, &set, all, 97, DIVIDE_SEQUENCES, rank, 5, MAX_TOKENS);
        total += layout.bin_count;
        most = layout.bin_count > most ? layout.bin_count : most;
    }
    for (int rank = 0; rank < 5; rank++) {
        step_layout_make(&layout, &set, all, 97, DIVIDE_SEQUENCES, rank, 5, MAX_TOKENS);
        assert_int_equal(layout.total_bins, total);
        assert_int_equal(layout.most_bins, most);
    }
    step_layout_release(&layout);
    sequence_set_release(&set);
}

static void layout_does_not_depend_on_the_order_given(void **state)
{
    (void)state;
    struct sequence_set set = make_set(100);
    struct step_layout a = {0}, b = {0};
    uint32_t forward[100], backward[100];
    for (uint32_t i = 0; i < 100; i++) {
        forward[i] = i;
        backward[i] = 99 - i;
    }
    step_layout_make(&a, &set, forward, 100, DIVIDE_SEQUENCES, 1, 3, MAX_TOKENS);
    step_layout_make(&b, &set, backward, 100, DIVIDE_SEQUENCES, 1, 3, MAX_TOKENS);
    assert_int_equal(a.count, b.count);
    assert_int_equal(a.bin_count, b.bin_count);
    assert_memory_equal(a.sequences, b.sequences, a.count * sizeof(*a.sequences));
    assert_memory_equal(a.bins, b.bins, a.count * sizeof(*a.bins));
    step_layout_release(&a);
    step_layout_release(&b);
    sequence_set_release(&set);
}

static void ranks_beyond_the_sequences_get_nothing(void **state)
{
    (void)state;
    struct sequence_set set = make_set(3);
    struct step_layout layout = {0};
    const uint32_t sequences[3] = {0, 1, 2};
    size_t total = 0;
    for (int rank = 0; rank < 8; rank++) {
        step_layout_make(&layout, &set, sequences, 3, DIVIDE_SEQUENCES, rank, 8, MAX_TOKENS);
        assert_int_equal(layout.count, rank < 3);
        assert_int_equal(layout.bin_count, rank < 3);
        total += layout.count;
    }
    assert_int_equal(total, 3);
    step_layout_release(&layout);
    sequence_set_release(&set);
}

// A packed batch against the sequences that it should hold, token by token.
static size_t check_batch(const struct packed_batch *batch, const struct sequence_set *set,
                          const struct step_layout *layout, uint32_t bin)
{
    size_t token = 0, held = 0, targets = 0;
    for (size_t i = 0; i < layout->count; i++) {
        if (layout->bins[i] != bin)
            continue;
        uint32_t s = layout->sequences[i];
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

static uint32_t *all_of(const struct sequence_set *set)
{
    uint32_t *sequences = mem_calloc(set->count, sizeof(*sequences));
    for (uint32_t s = 0; s < set->count; s++)
        sequences[s] = s;
    return sequences;
}

static void micro_batches_hold_every_sequence_once(void **state)
{
    (void)state;
    const size_t limits[] = {MAX_TOKENS, 100, 1000, 1000000};
    struct packed_batch batch = {0};
    struct step_layout layout = {0};
    for (size_t i = 0; i < SIZES * 4; i++) {
        size_t limit = limits[i % 4], targets = 0, held = 0;
        struct sequence_set set = make_set(sizes[i / 4]);
        uint32_t *sequences = all_of(&set);
        step_layout_make(&layout, &set, sequences, set.count, DIVIDE_SEQUENCES, 0, 1, limit);
        assert_int_equal(layout.count, set.count);
        for (uint32_t bin = 0; bin < layout.bin_count; bin++) {
            packed_batch_fill(&batch, &set, &layout, bin);
            assert_true(batch.sequences > 0 && batch.tokens <= limit);
            targets += check_batch(&batch, &set, &layout, bin);
            held += batch.sequences;
        }
        assert_int_equal(targets, sequences_target_tokens(&set, sequences, set.count));
        assert_int_equal(held, set.count);
        free(sequences);
        sequence_set_release(&set);
    }
    packed_batch_release(&batch);
    step_layout_release(&layout);
}

// Best fit decreasing needs at most 11/9 of the fewest possible batches and one more (Johnson
// 1973), and there are at least tokens / limit.
static void packing_is_tight(void **state)
{
    (void)state;
    struct step_layout layout = {0};
    for (size_t i = 0; i < SIZES; i++) {
        struct sequence_set set = make_set(sizes[i]);
        uint32_t *sequences = all_of(&set);
        const size_t tokens = (size_t)set.offsets[set.count];
        step_layout_make(&layout, &set, sequences, set.count, DIVIDE_SEQUENCES, 0, 1, 500);
        assert_true(layout.bin_count >= (tokens + 499) / 500);
        assert_true(layout.bin_count <= (tokens + 499) / 500 * 11 / 9 + 1);
        free(sequences);
        sequence_set_release(&set);
    }
    step_layout_release(&layout);
}

static void packing_fills_gaps_exactly(void **state)
{
    (void)state;
    struct sequence_set set = {0};
    struct step_layout layout = {0};
    int32_t ids[20] = {0};
    // 33 times lengths 14, 4 and 2: 33 batches of 20, each full.
    const size_t lengths[] = {14, 4, 2};
    for (uint32_t s = 0; s < 99; s++)
        sequence_set_add(&set, ids, lengths[s % 3], 1, 2, 20);
    uint32_t *sequences = all_of(&set);
    step_layout_make(&layout, &set, sequences, 99, DIVIDE_SEQUENCES, 0, 1, 20);
    assert_int_equal(layout.bin_count, 33);
    step_layout_make(&layout, &set, sequences, 99, DIVIDE_SEQUENCES, 0, 1, 660);
    assert_int_equal(layout.bin_count, 1);
    step_layout_release(&layout);
    free(sequences);
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
        cmocka_unit_test(a_cursor_may_jump),
        cmocka_unit_test(steps_of_an_epoch_share_its_order),
        cmocka_unit_test(ranks_divide_a_step_without_changing_it),
        cmocka_unit_test(micro_batches_are_the_same_for_any_number_of_ranks),
        cmocka_unit_test(every_rank_knows_how_many_micro_batches_the_others_have),
        cmocka_unit_test(layout_does_not_depend_on_the_order_given),
        cmocka_unit_test(ranks_beyond_the_sequences_get_nothing),
        cmocka_unit_test(micro_batches_hold_every_sequence_once),
        cmocka_unit_test(packing_is_tight),
        cmocka_unit_test(packing_fills_gaps_exactly),
        cmocka_unit_test(digest_sees_every_part),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
