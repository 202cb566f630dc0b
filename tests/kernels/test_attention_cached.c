// SPDX-License-Identifier: Apache-2.0
// Tolerances as in test_attention.c.
#include "harness.h"

#include <math.h>
#include <string.h>

struct shape {
    size_t slots, capacity, heads, kv_heads, head_width, window;
    enum dtype cache;
};

static const struct shape shapes[] = {
    {1, 1, 1, 1, 8, 0, DTYPE_F32},       {3, 200, 14, 2, 64, 0, DTYPE_F32},
    {2, 130, 7, 1, 80, 0, DTYPE_BF16},   {4, 90, 4, 4, 33, 0, DTYPE_F16},
    {2, 300, 4, 2, 128, 70, DTYPE_F32},  {3, 65, 2, 1, 31, 1, DTYPE_BF16},
    {2, 100, 2, 2, 256, 1000, DTYPE_F32}};

enum { SHAPES = sizeof shapes / sizeof shapes[0], TOKENS = 9, GAP = 3 };

struct cache {
    struct shape shape;
    struct tensor k, v;
    float *rows; // [TOKENS] of q, k and v, `stride` apart
    size_t stride, k_at, v_at, row, count;
    int32_t *slots, *positions;
};

static struct cache cache_random(struct test_memory *memory, const struct shape *shape)
{
    struct cache c = {.shape = *shape, .row = shape->kv_heads * shape->head_width};
    c.count = shape->slots * shape->capacity * c.row;
    c.k = memory_tensor(memory, shape->cache, c.count);
    c.v = memory_tensor(memory, shape->cache, c.count);
    c.k_at = shape->heads * shape->head_width;
    c.v_at = c.k_at + c.row;
    c.stride = c.v_at + c.row + GAP;
    c.rows = memory_random(memory, TOKENS * c.stride);
    c.slots = memory_ints(memory, TOKENS, (int32_t)shape->slots);
    c.positions = memory_ints(memory, TOKENS, (int32_t)shape->capacity);
    return c;
}

static void attend(struct device *device, const struct cache *c, float *out, size_t first,
                   size_t tokens)
{
    size_t width = c->k_at;
    device->ops->attention_cached(
        device, &(struct attention_cached){.out = f32(out + first * width),
                                           .q = f32(c->rows + first * c->stride),
                                           .stride = c->stride,
                                           .k_cache = c->k,
                                           .v_cache = c->v,
                                           .slots = c->slots + first,
                                           .positions = c->positions + first,
                                           .tokens = tokens,
                                           .capacity = c->shape.capacity,
                                           .heads = c->shape.heads,
                                           .kv_heads = c->shape.kv_heads,
                                           .head_width = c->shape.head_width,
                                           .scale = 1 / sqrtf((float)c->shape.head_width),
                                           .window = c->shape.window});
}

static void every_shape_agrees_with_ref(void **state)
{
    struct devices *devices = *state;
    for (size_t s = 0; s < SHAPES; s++) {
        struct test_memory memory = {.stream = s};
        struct cache cache = cache_random(&memory, &shapes[s]);
        float *expected = memory_floats(&memory, TOKENS * cache.k_at);
        attend(devices->ref, &cache, expected, 0, TOKENS);
        for (size_t i = 0; i < devices->count; i++) {
            float *out = memory_floats(&memory, TOKENS * cache.k_at);
            attend(devices->cpu[i], &cache, out, 0, TOKENS);
            assert_close("out", out, expected, TOKENS * cache.k_at, 2e-5, 0);
        }
        memory_release(&memory);
    }
}

static void token_is_the_same_bits_in_every_batch(void **state)
{
    struct devices *devices = *state;
    for (size_t s = 0; s < SHAPES; s++)
        for (size_t i = 0; i < devices->count; i++) {
            struct test_memory memory = {.stream = s};
            struct cache cache = cache_random(&memory, &shapes[s]);
            float *together = memory_floats(&memory, TOKENS * cache.k_at);
            float *alone = memory_floats(&memory, TOKENS * cache.k_at);
            attend(devices->cpu[i], &cache, together, 0, TOKENS);
            for (size_t t = 0; t < TOKENS; t++)
                attend(devices->cpu[i], &cache, alone, t, 1);
            assert_memory_equal(alone, together, TOKENS * cache.k_at * sizeof *alone);
            memory_release(&memory);
        }
}

// A prompt's tokens share readings of the cache, and the blocks of some end before those of others.
static void prompt_is_the_same_bits_token_by_token(void **state)
{
    struct devices *devices = *state;
    for (size_t s = 1; s < SHAPES; s++)
        for (size_t i = 0; i < devices->count; i++) {
            struct test_memory memory = {.stream = s};
            struct cache cache = cache_random(&memory, &shapes[s]);
            for (int32_t t = 0; t < TOKENS; t++) {
                cache.slots[t] = 0;
                cache.positions[t] = 58 + t % 7; // to the first of the next block, and again
            }
            float *together = memory_floats(&memory, TOKENS * cache.k_at);
            float *alone = memory_floats(&memory, TOKENS * cache.k_at);
            attend(devices->cpu[i], &cache, together, 0, TOKENS);
            for (size_t t = 0; t < TOKENS; t++)
                attend(devices->cpu[i], &cache, alone, t, 1);
            assert_memory_equal(alone, together, TOKENS * cache.k_at * sizeof *alone);
            memory_release(&memory);
        }
}

static void write(struct device *device, const struct cache *c)
{
    device->ops->kv_write(device, &(struct kv_write){.k_cache = c->k,
                                                     .v_cache = c->v,
                                                     .k = f32(c->rows + c->k_at),
                                                     .v = f32(c->rows + c->v_at),
                                                     .stride = c->stride,
                                                     .slots = c->slots,
                                                     .positions = c->positions,
                                                     .tokens = TOKENS,
                                                     .capacity = c->shape.capacity,
                                                     .kv_heads = c->shape.kv_heads,
                                                     .head_width = c->shape.head_width});
}

static void written_rows_are_those_of_ref_and_no_others(void **state)
{
    struct devices *devices = *state;
    for (size_t s = 1; s < SHAPES; s++) // the first has one place for nine tokens
        for (size_t i = 0; i < devices->count; i++) {
            struct test_memory memory = {.stream = s}, other = {.stream = s};
            struct cache expected = cache_random(&memory, &shapes[s]);
            struct cache got = cache_random(&other, &shapes[s]);
            for (int32_t t = 0; t < TOKENS; t++)
                expected.positions[t] = got.positions[t] = t * 7; // no place twice
            write(devices->ref, &expected);
            write(devices->cpu[i], &got);
            size_t bytes = got.count * dtype_bytes(got.k.dtype);
            assert_memory_equal(got.k.data, expected.k.data, bytes);
            assert_memory_equal(got.v.data, expected.v.data, bytes);
            memory_release(&memory);
            memory_release(&other);
        }
}

// Token after token through the cache gives what attention over the whole sequence gives.
static void cache_agrees_with_whole_sequence(void **state)
{
    struct devices *devices = *state;
    static const struct shape small = {1, TOKENS, 4, 2, 24, 5, DTYPE_F32};
    for (size_t i = 0; i < devices->count; i++) {
        struct test_memory memory = {0};
        struct cache c = cache_random(&memory, &small);
        const int32_t offsets[] = {0, TOKENS};
        float *expected = memory_floats(&memory, TOKENS * c.k_at);
        float *out = memory_floats(&memory, TOKENS * c.k_at);
        for (int32_t t = 0; t < TOKENS; t++) {
            c.slots[t] = 0;
            c.positions[t] = t;
        }
        devices->cpu[i]->ops->attention_forward(
            devices->cpu[i],
            &(struct attention_forward){.out = f32(expected),
                                        .q = f32(c.rows),
                                        .k = f32(c.rows + c.k_at),
                                        .v = f32(c.rows + c.v_at),
                                        .stride = c.stride,
                                        .sequences = {offsets, 1, TOKENS},
                                        .tokens = TOKENS,
                                        .heads = small.heads,
                                        .kv_heads = small.kv_heads,
                                        .head_width = small.head_width,
                                        .scale = 1 / sqrtf((float)small.head_width),
                                        .window = small.window});
        write(devices->cpu[i], &c);
        for (size_t t = 0; t < TOKENS; t++)
            attend(devices->cpu[i], &c, out, t, 1);
        assert_close("out", out, expected, TOKENS * c.k_at, 1e-5, 0);
        memory_release(&memory);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_shape_agrees_with_ref),
        cmocka_unit_test(token_is_the_same_bits_in_every_batch),
        cmocka_unit_test(prompt_is_the_same_bits_token_by_token),
        cmocka_unit_test(written_rows_are_those_of_ref_and_no_others),
        cmocka_unit_test(cache_agrees_with_whole_sequence),
    };
    return cmocka_run_group_tests(tests, devices_create, devices_destroy);
}
