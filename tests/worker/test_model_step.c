// SPDX-License-Identifier: Apache-2.0
#include "tests/worker/model_fixture.h"

#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

// Sequence s has the blocks s and s + SLOTS.
enum { LENGTH = 61, SLOTS = 3, CAPACITY = 64, MAX_TOKENS = 80, TABLE = 2 };

static const int32_t tables[SLOTS * TABLE] = {0, 3, 1, 4, 2, 5};

static const struct kv_cache_size cache_size = {
    .blocks = SLOTS * TABLE, .capacity = CAPACITY, .sequences = SLOTS, .max_tokens = MAX_TOKENS};

struct rig {
    struct device *device;
    struct model *model;
    struct kv_cache *cache;
    struct fixture_batch batch; // one sequence of LENGTH tokens
    size_t vocabulary;
    float *expected; // logits of the whole sequence at once, [LENGTH, vocabulary]
    float *got;
};

static void run(struct rig *rig, const struct step_tokens *step)
{
    struct error err;
    if (model_step(rig->model, rig->cache, step, rig->got, &err))
        fail_msg("%s", err.text);
}

// Tokens first..first + count of the sequence in one slot; all their logits are wanted.
static void feed(struct rig *rig, int32_t slot, size_t first, size_t count)
{
    int32_t slots[LENGTH], wanted[LENGTH];
    for (size_t i = 0; i < count; i++) {
        slots[i] = slot;
        wanted[i] = (int32_t)i;
    }
    run(rig, &(struct step_tokens){
                 .ids = rig->batch.ids + first,
                 .sequences = slots,
                 .positions = rig->batch.positions + first,
                 .tokens = count,
                 .tables = tables,
                 .sequence_count = SLOTS,
                 .wanted = wanted,
                 .wanted_count = count,
             });
}

static void setup_typed(struct rig *rig, struct model_config config, enum dtype dtype)
{
    static const int lengths[] = {LENGTH, -1};
    struct error err;
    *rig = (struct rig){.device = fixture_device(), .vocabulary = (size_t)config.vocabulary};
    rig->model = fixture_model(rig->device, &config, dtype, 21);
    fixture_batch_fill(&rig->batch, lengths, config.vocabulary, 4);
    if (kv_cache_create(rig->model, &cache_size, &rig->cache, &err))
        fail_msg("%s", err.text);
    rig->expected = mem_calloc(LENGTH * rig->vocabulary, sizeof(float));
    rig->got = mem_calloc(MAX_TOKENS * rig->vocabulary, sizeof(float));
    feed(rig, 0, 0, LENGTH);
    memcpy(rig->expected, rig->got, LENGTH * rig->vocabulary * sizeof(float));
}

static void setup(struct rig *rig, struct model_config config)
{
    setup_typed(rig, config, fixture_dtype());
}

static void teardown(struct rig *rig)
{
    free(rig->expected);
    free(rig->got);
    kv_cache_destroy(rig->cache);
    model_destroy(rig->model);
    device_destroy(rig->device);
}

static void expect_rows(const struct rig *rig, size_t at, size_t first, size_t count)
{
    assert_memory_equal(rig->got + at * rig->vocabulary, rig->expected + first * rig->vocabulary,
                        count * rig->vocabulary * sizeof(float));
}

// Every way in which layers mix tokens.
static struct model_config (*const mixers[])(void) = {fixture_config, fixture_config_untied,
                                                      fixture_config_gemma3, fixture_config_lfm2};

enum { MIXERS = sizeof mixers / sizeof *mixers };

static void token_by_token_equals_the_whole_prompt(void **state)
{
    (void)state;
    for (size_t m = 0; m < MIXERS; m++) {
        struct rig rig;
        setup(&rig, mixers[m]());
        for (size_t i = 0; i < LENGTH; i++) {
            feed(&rig, 2, i, 1);
            expect_rows(&rig, 0, i, 1);
        }
        teardown(&rig);
    }
}

static void pieces_of_a_prompt_equal_the_whole(void **state)
{
    (void)state;
    for (size_t m = 0; m < MIXERS; m++) {
        struct rig rig;
        setup(&rig, mixers[m]());
        static const size_t pieces[] = {5, 1, 7, 20, 28};
        for (size_t i = 0, at = 0; at < LENGTH; at += pieces[i++]) {
            feed(&rig, 1, at, pieces[i]);
            expect_rows(&rig, 0, at, pieces[i]);
        }
        teardown(&rig);
    }
}

static void generation_agrees_with_training(void **state)
{
    (void)state;
    for (size_t m = 0; m < MIXERS; m++) {
        struct rig rig;
        struct workspace *workspace;
        struct error err;
        setup_typed(&rig, mixers[m](), DTYPE_F32);
        assert_int_equal(workspace_create(rig.model, LENGTH, false, &workspace, &err), 0);
        assert_int_equal(model_logits(rig.model, workspace, &rig.batch.batch, rig.got, &err), 0);
        for (size_t i = 0; i < LENGTH * rig.vocabulary; i++)
            assert_true(fabsf(rig.got[i] - rig.expected[i]) <= 1e-4f);
        workspace_destroy(workspace);
        teardown(&rig);
    }
}

// Slot 0 begins the sequence while slot 1 continues it and slot 2 holds something else.
static void neighbours_in_a_step_change_nothing(void **state)
{
    (void)state;
    for (size_t m = 0; m < MIXERS; m++) {
        struct rig rig;
        setup(&rig, mixers[m]());
        feed(&rig, 1, 0, 39);
        int32_t ids[16], slots[16], positions[16];
        size_t count = 0;
        for (int i = 0; i < 4; i++, count++) {
            ids[count] = rig.batch.ids[i];
            slots[count] = 0;
            positions[count] = i;
        }
        for (int i = 0; i < 6; i++, count++) {
            ids[count] = (i * 5 + 1) % 37;
            slots[count] = 2;
            positions[count] = i;
        }
        ids[count] = rig.batch.ids[39];
        slots[count] = 1;
        positions[count++] = 39;
        int32_t wanted[] = {3, 10};
        run(&rig, &(struct step_tokens){.ids = ids,
                                        .sequences = slots,
                                        .positions = positions,
                                        .tokens = count,
                                        .tables = tables,
                                        .sequence_count = SLOTS,
                                        .wanted = wanted,
                                        .wanted_count = 2});
        expect_rows(&rig, 0, 3, 1);
        expect_rows(&rig, 1, 39, 1);
        teardown(&rig);
    }
}

static void slot_is_reused_without_a_trace(void **state)
{
    (void)state;
    for (size_t m = 0; m < MIXERS; m++) {
        struct rig rig;
        setup(&rig, mixers[m]());
        feed(&rig, 2, 0, LENGTH);
        feed(&rig, 2, 0, 3); // a new request: positions begin again
        expect_rows(&rig, 0, 0, 3);
        teardown(&rig);
    }
}

static void step_without_wanted_rows_still_fills_the_cache(void **state)
{
    (void)state;
    struct rig rig;
    setup(&rig, fixture_config());
    int32_t slots[LENGTH] = {0};
    run(&rig, &(struct step_tokens){.ids = rig.batch.ids,
                                    .sequences = slots,
                                    .positions = rig.batch.positions,
                                    .tokens = LENGTH - 1,
                                    .tables = tables,
                                    .sequence_count = SLOTS});
    feed(&rig, 0, LENGTH - 1, 1);
    expect_rows(&rig, 0, LENGTH - 1, 1);
    teardown(&rig);
}

static void greedy_step_gives_the_largest_logit(void **state)
{
    (void)state;
    struct rig rig;
    struct error err;
    setup(&rig, fixture_config());
    int32_t slots[LENGTH] = {0}, wanted[] = {4, 12, 0}, chosen[3];
    struct step_tokens step = {.ids = rig.batch.ids,
                               .sequences = slots,
                               .positions = rig.batch.positions,
                               .tokens = LENGTH,
                               .tables = tables,
                               .sequence_count = SLOTS,
                               .wanted = wanted,
                               .wanted_count = 3};
    assert_int_equal(model_step_greedy(rig.model, rig.cache, &step, chosen, &err), 0);
    for (size_t i = 0; i < 3; i++) {
        const float *row = rig.expected + (size_t)wanted[i] * rig.vocabulary;
        for (size_t v = 0; v < rig.vocabulary; v++)
            assert_true(row[v] <= row[chosen[i]]);
    }
    teardown(&rig);
}

// A vocabulary so large that a slice of logits has seven rows.
static void greedy_step_works_in_slices(void **state)
{
    (void)state;
    enum { TOKENS = 9 };
    static const int lengths[] = {TOKENS, -1};
    struct error err;
    struct model_config config = fixture_config();
    config.layers = 1;
    config.hidden = config.heads = config.head_width = config.ffn = 2;
    config.kv_heads = 1;
    config.vocabulary = (1 << 21) + 1;
    struct device *device = fixture_device();
    struct model *model = fixture_model(device, &config, DTYPE_F32, 2);
    struct kv_cache *cache;
    struct fixture_batch batch;
    const struct kv_cache_size two = {
        .blocks = 2, .capacity = TOKENS, .sequences = 2, .max_tokens = TOKENS};
    static const int32_t one_block[] = {1, 0};
    fixture_batch_fill(&batch, lengths, config.vocabulary, 6);
    assert_int_equal(kv_cache_create(model, &two, &cache, &err), 0);
    int32_t slots[2][TOKENS], wanted[TOKENS], chosen[TOKENS];
    for (int i = 0; i < TOKENS; i++) {
        slots[0][i] = 0;
        slots[1][i] = 1;
        wanted[i] = i;
    }
    struct step_tokens step = {.ids = batch.ids,
                               .sequences = slots[0],
                               .positions = batch.positions,
                               .tokens = TOKENS,
                               .tables = one_block,
                               .sequence_count = 2,
                               .wanted = wanted,
                               .wanted_count = TOKENS};
    assert_int_equal(model_step_greedy(model, cache, &step, chosen, &err), 0);
    for (int i = 0; i < TOKENS; i++) {
        int32_t alone = -1;
        step = (struct step_tokens){.ids = batch.ids + i,
                                    .sequences = slots[1],
                                    .positions = batch.positions + i,
                                    .tokens = 1,
                                    .tables = one_block,
                                    .sequence_count = 2,
                                    .wanted = wanted,
                                    .wanted_count = 1};
        assert_int_equal(model_step_greedy(model, cache, &step, &alone, &err), 0);
        assert_int_equal(alone, chosen[i]);
    }
    kv_cache_destroy(cache);
    model_destroy(model);
    device_destroy(device);
}

static void packed_weights_give_the_same_tokens(void **state)
{
    (void)state;
    for (size_t m = 0; m < MIXERS; m++) {
        struct rig rig;
        setup(&rig, mixers[m]());
        model_pack(rig.model);
        model_pack(rig.model);
        model_unpack(rig.model);
        feed(&rig, 1, 0, LENGTH);
        for (size_t i = 0; i < LENGTH * rig.vocabulary; i++)
            assert_true(fabsf(rig.got[i] - rig.expected[i]) <= 1e-4f);
        model_unpack(rig.model);
        teardown(&rig);
    }
}

static void expect_rejected(struct rig *rig, struct step_tokens step, const char *part)
{
    struct error err = {{0}};
    assert_int_equal(model_step(rig->model, rig->cache, &step, rig->got, &err), -1);
    if (!strstr(err.text, part))
        fail_msg("'%s' does not say '%s'", err.text, part);
}

static void tokens_outside_the_cache_are_rejected(void **state)
{
    (void)state;
    struct rig rig;
    struct error err;
    struct kv_cache *cache;
    struct kv_cache_size size = cache_size;
    setup(&rig, fixture_config());
    int32_t ids[2] = {0}, sequences[2] = {0}, positions[2] = {0, 1}, wanted = 0;
    int32_t own_tables[SLOTS * TABLE];
    memcpy(own_tables, tables, sizeof tables);
    struct step_tokens good = {.ids = ids,
                               .sequences = sequences,
                               .positions = positions,
                               .tokens = 2,
                               .tables = own_tables,
                               .sequence_count = SLOTS,
                               .wanted = &wanted,
                               .wanted_count = 1};
    run(&rig, &good);
    ids[0] = 37;
    expect_rejected(&rig, good, "token 0 is 37");
    ids[0] = 0;
    sequences[1] = SLOTS;
    expect_rejected(&rig, good, "token 1 of sequence 3 of 3");
    sequences[1] = 0;
    positions[1] = 2;
    expect_rejected(&rig, good, "token 1 at position 2 follows position 0");
    positions[1] = 1;
    positions[0] = CAPACITY;
    expect_rejected(&rig, good, "at position 64 of 64");
    positions[0] = 0;
    own_tables[0] = SLOTS * TABLE;
    expect_rejected(&rig, good, "block 0 of sequence 0 is 6 of 6");
    own_tables[0] = 0;
    wanted = 2;
    expect_rejected(&rig, good, "wanted row 2");
    wanted = 0;
    good.tokens = MAX_TOKENS + 1;
    expect_rejected(&rig, good, "81 tokens, at most 80");
    good.sequence_count = SLOTS + 1;
    good.tokens = 1;
    expect_rejected(&rig, good, "4 sequences, at most 3");
    size.capacity = 65;
    assert_int_equal(kv_cache_create(rig.model, &size, &cache, &err), -1);
    assert_non_null(strstr(err.text, "the model has 64"));
    size = cache_size;
    size.blocks = 0;
    assert_int_equal(kv_cache_create(rig.model, &size, &cache, &err), -1);
    size = cache_size;
    size.sequences = 0;
    assert_int_equal(kv_cache_create(rig.model, &size, &cache, &err), -1);
    teardown(&rig);
}

// The state of a convolution knows the latest positions only.
static void convolutions_go_on_where_they_ended(void **state)
{
    (void)state;
    struct rig rig;
    setup(&rig, fixture_config_lfm2());
    int32_t ids[2] = {1, 2}, sequences[2] = {1, 1}, positions[2] = {0, 1};
    struct step_tokens step = {.ids = ids,
                               .sequences = sequences,
                               .positions = positions,
                               .tokens = 2,
                               .tables = tables,
                               .sequence_count = SLOTS};
    run(&rig, &step);
    positions[0] = 3;
    positions[1] = 4;
    expect_rejected(&rig, step, "token 0 at position 3; its block goes on at 2");
    positions[0] = 32;
    positions[1] = 33;
    expect_rejected(&rig, step, "token 0 at position 32; the block before it is not full");
    positions[0] = 2;
    positions[1] = 3;
    run(&rig, &step);
    teardown(&rig);
}

// Three sequences begin with the same block, which one of them computed; and one step reads it for
// all of them.
static void sequences_share_a_block(void **state)
{
    (void)state;
    static const int32_t shared[SLOTS * TABLE] = {0, 3, 0, 4, 0, 5};
    for (size_t m = 0; m < MIXERS; m++) {
        struct rig rig;
        setup(&rig, mixers[m]());
        int32_t ids[9], sequences[9], positions[9], wanted[] = {2, 5, 8};
        for (int32_t t = 0; t < 9; t++) {
            sequences[t] = t / 3;
            positions[t] = 32 + t % 3;
            ids[t] = rig.batch.ids[positions[t]];
        }
        run(&rig, &(struct step_tokens){.ids = ids,
                                        .sequences = sequences,
                                        .positions = positions,
                                        .tokens = 9,
                                        .tables = shared,
                                        .sequence_count = SLOTS,
                                        .wanted = wanted,
                                        .wanted_count = 3});
        for (size_t i = 0; i < 3; i++)
            expect_rows(&rig, i, 34, 1);
        teardown(&rig);
    }
}

// Tokens 0..39 of one sequence; the other takes block 0 as it is and a copy of eight tokens of
// block 1.
static void copied_block_goes_on_by_itself(void **state)
{
    (void)state;
    static const int32_t shared[SLOTS * TABLE] = {0, 3, 0, 4, 0, 5};
    for (size_t m = 0; m + 1 < MIXERS; m++) { // the last has convolutions
        struct rig rig;
        setup(&rig, mixers[m]());
        kv_cache_copy_block(rig.cache, 3, 5);
        int32_t id = rig.batch.ids[40], sequence = 2, position = 40, wanted = 0;
        run(&rig, &(struct step_tokens){.ids = &id,
                                        .sequences = &sequence,
                                        .positions = &position,
                                        .tokens = 1,
                                        .tables = shared,
                                        .sequence_count = SLOTS,
                                        .wanted = &wanted,
                                        .wanted_count = 1});
        expect_rows(&rig, 0, 40, 1);
        teardown(&rig);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(token_by_token_equals_the_whole_prompt),
        cmocka_unit_test(pieces_of_a_prompt_equal_the_whole),
        cmocka_unit_test(generation_agrees_with_training),
        cmocka_unit_test(neighbours_in_a_step_change_nothing),
        cmocka_unit_test(slot_is_reused_without_a_trace),
        cmocka_unit_test(step_without_wanted_rows_still_fills_the_cache),
        cmocka_unit_test(greedy_step_gives_the_largest_logit),
        cmocka_unit_test(greedy_step_works_in_slices),
        cmocka_unit_test(packed_weights_give_the_same_tokens),
        cmocka_unit_test(tokens_outside_the_cache_are_rejected),
        cmocka_unit_test(convolutions_go_on_where_they_ended),
        cmocka_unit_test(sequences_share_a_block),
        cmocka_unit_test(copied_block_goes_on_by_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
