// SPDX-License-Identifier: Apache-2.0
// A model is divided without gaps at the same cuts for any number of ranks, and a state survives
// every division of it.
#include "worker/train/state.h"

#include "base/mem.h"
#include "tests/worker/model_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

static const uint64_t sizes[] = {
    1, 4095, 4096, 4097, 9360, 1 << 22, (1 << 22) + 1, 494032768, 1 << 30, 4294967297, 14770033664};

static void units_cover_the_model_once(void **state)
{
    (void)state;
    for (size_t s = 0; s < sizeof(sizes) / sizeof(*sizes); s++) {
        uint64_t cut = 0;
        for (int ranks = 1; ranks <= 9; ranks++) {
            const struct shards shards = shards_make(sizes[s], 0, ranks);
            uint64_t at = 0;
            for (size_t b = 0; b < shards.buckets; b++) {
                assert_int_equal(shards_bucket(&shards, b).begin, at);
                for (int r = 0; r < ranks; r++) {
                    const struct range unit = shards_unit(&shards, b, r);
                    assert_true(unit.begin == at && unit.end >= at);
                    assert_true(range_count(unit) <= shards.unit);
                    at = unit.end;
                }
                assert_int_equal(shards_bucket(&shards, b).end, at);
            }
            assert_int_equal(at, sizes[s]);
            assert_int_equal(shards.unit % shards.cut, 0);
            assert_int_equal(shards.cut % SHARD_CUT_LEAST, 0);
            assert_true(ranks == 1 || shards.cut == cut); // of the model alone
            // What fills up the last bucket is at most a cut of every unit.
            assert_true(shards_padded_elements(&shards) - sizes[s] <=
                        shards.buckets * (uint64_t)ranks * shards.cut);
            cut = shards.cut;
        }
    }
}

static struct state_place place_in(const struct state *state, unsigned char *block)
{
    return (struct state_place){block, block + state->remainder_bytes};
}

static void fill(unsigned char *bytes, size_t count, uint32_t seed)
{
    for (size_t i = 0; i < count; i++)
        bytes[i] = (unsigned char)((seed = seed * 1664525u + 1013904223u) >> 24);
}

// Sets what fills up arrays to 0: it is not copied.
static void clear_gaps(const struct state *state, unsigned char *block)
{
    struct state whole = *state;
    unsigned char *copy = mem_calloc(state->bytes, 1);
    struct device *device;
    struct error err;
    if (device_create(&(struct device_options){.backend = "ref"}, &device, &err))
        fail_msg("%s", err.text);
    state_copy_in(device, &whole, place_in(&whole, copy), state, block);
    memcpy(block, copy, state->bytes);
    device_destroy(device);
    free(copy);
}

static void a_state_divided_and_joined_is_the_same(void **state)
{
    (void)state;
    struct model_config config = fixture_config_untied();
    config.vocabulary = 777;
    struct layout layout;
    struct device *device;
    struct error err;
    layout_create(&config, &layout);
    if (device_create(&(struct device_options){.backend = "ref"}, &device, &err))
        fail_msg("%s", err.text);
    for (int weights = 0; weights < 2; weights++)
        for (int moments = MOMENTS_F32; moments <= MOMENTS_8BIT; moments++) {
            const struct state_form form = {weights ? DTYPE_BF16 : DTYPE_F32,
                                            (enum moment_kind)moments};
            struct state whole;
            state_plan(&layout, form, (struct range){0, layout.elements}, &whole);
            unsigned char *block = mem_alloc(whole.bytes), *joined = mem_calloc(whole.bytes, 1);
            fill(block, whole.bytes, 7);
            clear_gaps(&whole, block);
            for (uint64_t at = 0; at < layout.elements; at += 3 * 4096) {
                const uint64_t left = layout.elements - at;
                const uint64_t end = at + (left < 3 * 4096 ? left : 3 * 4096);
                struct state part;
                state_plan(&layout, form, (struct range){at, end}, &part);
                unsigned char *own = mem_calloc(part.bytes + 1, 1);
                state_copy_in(device, &part, place_in(&part, own), &whole, block);
                state_copy_in(device, &whole, place_in(&whole, joined), &part, own);
                free(own);
                state_release(&part);
            }
            assert_memory_equal(block, joined, whole.bytes);
            state_release(&whole);
            free(block);
            free(joined);
        }
    device_destroy(device);
    layout_release(&layout);
}

static void small_moments_are_those_of_large_matrices(void **state)
{
    (void)state;
    struct model_config config = fixture_config_untied();
    config.vocabulary = 777; // [777, 33]: embedding and head are large
    struct layout layout;
    layout_create(&config, &layout);
    struct state whole;
    state_plan(&layout, (struct state_form){DTYPE_F32, MOMENTS_8BIT},
               (struct range){0, layout.elements}, &whole);
    uint64_t coded = 0, at = 0;
    for (size_t i = 0; i < whole.run_count; i++) {
        assert_int_equal(whole.runs[i].range.begin, at);
        at = whole.runs[i].range.end;
        coded += whole.runs[i].moments == MOMENTS_8BIT ? range_count(whole.runs[i].range) : 0;
    }
    assert_int_equal(at, layout.elements);
    assert_int_equal(coded, layout_find(&layout, PARAM_HEAD, -1)->count);
    state_release(&whole);
    layout_release(&layout);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(units_cover_the_model_once),
        cmocka_unit_test(a_state_divided_and_joined_is_the_same),
        cmocka_unit_test(small_moments_are_those_of_large_matrices),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
