// SPDX-License-Identifier: Apache-2.0
// Tolerances as in test_attention.c. Where products are of bfloat16, queries are exact in it, and
// rounding moves weights and their sum by 2^-9 of each. Three sequences share their first blocks,
// as many as fit below the shortest; every position is written through the backend, whose blocks
// have an order of their own.
#include "harness.h"

#include <math.h>
#include <string.h>

struct shape {
    size_t positions; // of the longest sequence
    size_t heads, kv_heads, head_width, window;
    enum dtype cache;
};

static const struct shape shapes[] = {
    {1, 1, 1, 8, 0, DTYPE_F32},        {200, 14, 2, 64, 0, DTYPE_F32},
    {130, 7, 1, 80, 0, DTYPE_BF16},    {90, 4, 4, 33, 0, DTYPE_F32},
    {300, 4, 2, 128, 70, DTYPE_F32},   {65, 2, 1, 30, 1, DTYPE_BF16},
    {100, 2, 2, 256, 1000, DTYPE_F32}, {170, 14, 2, 64, 0, DTYPE_BF16},
    {96, 30, 1, 16, 40, DTYPE_BF16},
};

enum { SHAPES = sizeof shapes / sizeof shapes[0], SEQUENCES = 3, TOKENS = 11, GAP = 3, B = 32 };

struct cache {
    struct shape shape;
    size_t blocks, table, shared, row, count;
    int32_t *tables;      // [SEQUENCES, table]
    float *keys, *values; // [SEQUENCES, positions, row]; those of shared positions are equal
    float *rows;          // [TOKENS] of q, `stride` apart
    size_t stride, width;
    int32_t *sequences, *positions; // [TOKENS], sequences ascending
};

static size_t last_of(const struct cache *c, size_t sequence)
{
    return c->shape.positions - 1 - sequence * (c->shape.positions - 1) / 5;
}

static struct cache cache_random(struct test_memory *memory, const struct shape *shape)
{
    struct cache c = {.shape = *shape, .row = shape->kv_heads * shape->head_width};
    c.table = (shape->positions + B - 1) / B + 1;
    c.shared = (last_of(&c, SEQUENCES - 1) + 1) / B / 2;
    c.blocks = c.table * SEQUENCES;
    c.blocks += c.blocks % 7 == 0; // so that tables, whose steps are 7, do not collide
    c.count = c.blocks * B * c.row;
    c.width = shape->heads * shape->head_width;
    c.stride = c.width + GAP;
    c.tables = memory_ints(memory, c.table * SEQUENCES, 1);
    c.keys = memory_random(memory, SEQUENCES * shape->positions * c.row);
    c.values = memory_random(memory, SEQUENCES * shape->positions * c.row);
    c.rows = memory_random(memory, TOKENS * c.stride);
    for (size_t i = 0; i < TOKENS * c.stride; i++)
        c.rows[i] = bf16_to_f32(bf16_from_f32(c.rows[i]));
    c.sequences = memory_ints(memory, TOKENS, SEQUENCES);
    c.positions = memory_ints(memory, TOKENS, 1);
    for (size_t s = 0; s < SEQUENCES; s++) {
        for (size_t i = 0; i < c.table; i++) // scattered, the shared ones those of sequence 0
            c.tables[s * c.table + i] =
                (int32_t)((i * SEQUENCES + (i < c.shared ? 0 : s)) * 7 % c.blocks);
        size_t shared = c.shared * B * c.row, at = s * shape->positions * c.row;
        memcpy(c.keys + at, c.keys, shared * sizeof *c.keys);
        memcpy(c.values + at, c.values, shared * sizeof *c.values);
    }
    for (size_t t = 0; t < TOKENS; t++) { // every sequence its last positions, backwards in between
        c.sequences[t] = (int32_t)(t * SEQUENCES / TOKENS);
        size_t last = last_of(&c, (size_t)c.sequences[t]), back = t * 13 % 37;
        c.positions[t] = (int32_t)(last - (back < last ? back : last));
    }
    return c;
}

static void fill(struct device *device, struct test_memory *memory, const struct cache *c,
                 struct tensor *k, struct tensor *v)
{
    *k = memory_tensor(memory, c->shape.cache, c->count);
    *v = memory_tensor(memory, c->shape.cache, c->count);
    for (size_t s = 0; s < SEQUENCES; s++) {
        size_t count = last_of(c, s) + 1, at = s * c->shape.positions * c->row;
        int32_t *places = memory_ints(memory, count, 1);
        for (size_t p = 0; p < count; p++)
            places[p] = c->tables[s * c->table + p / B] * B + (int32_t)(p % B);
        device->ops->kv_write(device, &(struct kv_write){.k_cache = *k,
                                                         .v_cache = *v,
                                                         .k = f32(c->keys + at),
                                                         .v = f32(c->values + at),
                                                         .stride = c->row,
                                                         .places = places,
                                                         .tokens = count,
                                                         .kv_heads = c->shape.kv_heads,
                                                         .head_width = c->shape.head_width});
    }
}

struct plan {
    int32_t *order;                     // [TOKENS]
    struct attention_group *groups;     // [TOKENS]
    struct attention_segment *segments; // [TOKENS + 1]
    struct attention_plan plan;
};

static struct plan plan_create(struct test_memory *memory)
{
    static const struct attention_segment segments[TOKENS + 1];
    static const struct attention_group groups[TOKENS];
    return (struct plan){
        .order = memory_ints(memory, TOKENS, 1),
        .groups = memory_of(memory, groups, TOKENS, sizeof *groups),
        .segments = memory_of(memory, segments, TOKENS + 1, sizeof *segments),
    };
}

static int32_t blocks_of(const struct cache *c, size_t first, size_t tokens)
{
    int32_t end = 0;
    for (size_t t = first; t < first + tokens; t++)
        end = c->positions[t] / B + 1 > end ? c->positions[t] / B + 1 : end;
    return end;
}

// All tokens one group: the shared blocks together, then each sequence the rest of its own.
static void plan_together(struct plan *out, const struct cache *c, size_t first, size_t tokens)
{
    struct attention_group *group = &out->groups[0];
    *group = (struct attention_group){.tokens = (int32_t)tokens};
    for (size_t t = 0; t < tokens; t++)
        out->order[t] = (int32_t)t;
    if (c->shared > 0)
        out->segments[group->segments++] =
            (struct attention_segment){0, (int32_t)tokens, 0, (int32_t)c->shared};
    for (size_t t = 0, next; t < tokens; t = next) {
        for (next = t; next < tokens && c->sequences[first + next] == c->sequences[first + t];)
            next++;
        out->segments[group->segments++] = (struct attention_segment){
            (int32_t)t, (int32_t)(next - t), (int32_t)c->shared, blocks_of(c, first + t, next - t)};
    }
    out->plan = (struct attention_plan){out->order, out->groups, out->segments, 1, tokens};
}

static void plan_apart(struct plan *out, const struct cache *c, size_t first, size_t tokens)
{
    for (size_t t = 0; t < tokens; t++) {
        int32_t at = (int32_t)t;
        out->order[t] = at;
        out->groups[t] = (struct attention_group){at, 1, at, 1};
        out->segments[t] = (struct attention_segment){at, 1, 0, blocks_of(c, first + t, 1)};
    }
    out->plan = (struct attention_plan){out->order, out->groups, out->segments, tokens, 1};
}

static void attend(struct device *device, const struct cache *c, struct tensor k, struct tensor v,
                   float *out, size_t first, size_t tokens, bool together)
{
    struct test_memory memory = {0};
    struct plan plan = plan_create(&memory);
    (together ? plan_together : plan_apart)(&plan, c, first, tokens);
    device->ops->attention_cached(
        device, &(struct attention_cached){.out = f32(out + first * c->width),
                                           .q = f32(c->rows + first * c->stride),
                                           .stride = c->stride,
                                           .k_cache = k,
                                           .v_cache = v,
                                           .tables = {c->tables, c->table},
                                           .sequences = c->sequences + first,
                                           .positions = c->positions + first,
                                           .plan = plan.plan,
                                           .tokens = tokens,
                                           .heads = c->shape.heads,
                                           .kv_heads = c->shape.kv_heads,
                                           .head_width = c->shape.head_width,
                                           .scale = 1 / sqrtf((float)c->shape.head_width),
                                           .window = c->shape.window});
    memory_release(&memory);
}

static void every_shape_agrees_with_ref(void **state)
{
    struct devices *devices = *state;
    for (size_t s = 0; s < SHAPES; s++) {
        struct test_memory memory = {.stream = s};
        struct cache cache = cache_random(&memory, &shapes[s]);
        struct tensor k, v;
        float *expected = memory_floats(&memory, TOKENS * cache.width);
        fill(devices->ref, &memory, &cache, &k, &v);
        attend(devices->ref, &cache, k, v, expected, 0, TOKENS, true);
        struct cache positive = cache;
        float *bound = memory_floats(&memory, TOKENS * cache.width); // of absolute values
        positive.values =
            memory_copy(&memory, cache.values, SEQUENCES * shapes[s].positions * cache.row);
        for (size_t at = 0; at < SEQUENCES * shapes[s].positions * cache.row; at++)
            positive.values[at] = fabsf(positive.values[at]);
        fill(devices->ref, &memory, &positive, &k, &v);
        attend(devices->ref, &positive, k, v, bound, 0, TOKENS, true);
        for (size_t i = 0; i < devices->count; i++) {
            float *out = memory_floats(&memory, TOKENS * cache.width);
            fill(devices->cpu[i], &memory, &cache, &k, &v);
            attend(devices->cpu[i], &cache, k, v, out, 0, TOKENS, true);
            if (shapes[s].cache == DTYPE_BF16 && multiplies_bf16(devices->cpu[i]))
                assert_within("out", out, expected, bound, TOKENS * cache.width, 0x1p-8);
            else
                assert_close("out", out, expected, TOKENS * cache.width, 2e-5, 0);
        }
        memory_release(&memory);
    }
}

// Whatever the plan, and whatever else is in the call.
static void token_is_the_same_bits_in_every_batch(void **state)
{
    struct devices *devices = *state;
    for (size_t s = 0; s < SHAPES; s++)
        for (size_t i = 0; i <= devices->count; i++) {
            struct device *device = i < devices->count ? devices->cpu[i] : devices->ref;
            struct test_memory memory = {.stream = s};
            struct cache cache = cache_random(&memory, &shapes[s]);
            struct tensor k, v;
            size_t count = TOKENS * cache.width;
            float *together = memory_floats(&memory, count);
            float *apart = memory_floats(&memory, count), *alone = memory_floats(&memory, count);
            fill(device, &memory, &cache, &k, &v);
            attend(device, &cache, k, v, together, 0, TOKENS, true);
            attend(device, &cache, k, v, apart, 0, TOKENS, false);
            for (size_t t = 0; t < TOKENS; t++)
                attend(device, &cache, k, v, alone, t, 1, true);
            assert_memory_equal(apart, together, count * sizeof *apart);
            assert_memory_equal(alone, together, count * sizeof *alone);
            memory_release(&memory);
        }
}

// What is written later, or was never written, changes nothing that came before.
static void later_positions_are_not_seen(void **state)
{
    struct devices *devices = *state;
    static const struct shape shape = {70, 6, 2, 48, 0, DTYPE_BF16};
    for (size_t i = 0; i < devices->count; i++) {
        struct test_memory memory = {.stream = 5};
        struct cache cache = cache_random(&memory, &shape);
        struct tensor k, v, k_other, v_other;
        float *out = memory_floats(&memory, TOKENS * cache.width);
        float *other = memory_floats(&memory, TOKENS * cache.width);
        for (size_t t = 0; t < TOKENS; t++) // into the middle of the second block
            cache.positions[t] = cache.positions[t] > 40 ? 40 : cache.positions[t];
        fill(devices->cpu[i], &memory, &cache, &k, &v);
        for (size_t s = 0; s < SEQUENCES; s++)
            for (size_t at = 41 * cache.row; at < shape.positions * cache.row; at++) {
                cache.keys[s * shape.positions * cache.row + at] = 100;
                cache.values[s * shape.positions * cache.row + at] = -100;
            }
        fill(devices->cpu[i], &memory, &cache, &k_other, &v_other);
        attend(devices->cpu[i], &cache, k, v, out, 0, TOKENS, true);
        attend(devices->cpu[i], &cache, k_other, v_other, other, 0, TOKENS, true);
        assert_memory_equal(out, other, TOKENS * cache.width * sizeof *out);
        memory_release(&memory);
    }
}

// Token after token through the cache gives what attention over the whole sequence gives.
static void cache_agrees_with_whole_sequence(void **state)
{
    struct devices *devices = *state;
    static const struct shape small = {TOKENS, 4, 2, 24, 5, DTYPE_F32};
    for (size_t i = 0; i < devices->count; i++) {
        struct test_memory memory = {0};
        struct cache c = cache_random(&memory, &small);
        int32_t *offsets = memory_ints(&memory, 2, 1);
        offsets[1] = TOKENS;
        size_t stride = c.width + 2 * c.row;
        float *packed = memory_floats(&memory, TOKENS * stride);
        float *expected = memory_floats(&memory, TOKENS * c.width);
        float *out = memory_floats(&memory, TOKENS * c.width);
        for (size_t t = 0; t < TOKENS; t++) {
            c.sequences[t] = 0;
            c.positions[t] = (int32_t)t;
            memcpy(packed + t * stride, c.rows + t * c.stride, c.width * sizeof *packed);
            memcpy(packed + t * stride + c.width, c.keys + t * c.row, c.row * sizeof *packed);
            memcpy(packed + t * stride + c.width + c.row, c.values + t * c.row,
                   c.row * sizeof *packed);
        }
        devices->cpu[i]->ops->attention_forward(
            devices->cpu[i],
            &(struct attention_forward){.out = f32(expected),
                                        .q = f32(packed),
                                        .k = f32(packed + c.width),
                                        .v = f32(packed + c.width + c.row),
                                        .stride = stride,
                                        .sequences = {offsets, 1, TOKENS},
                                        .tokens = TOKENS,
                                        .heads = small.heads,
                                        .kv_heads = small.kv_heads,
                                        .head_width = small.head_width,
                                        .scale = 1 / sqrtf((float)small.head_width),
                                        .window = small.window});
        struct tensor k, v;
        fill(devices->cpu[i], &memory, &c, &k, &v);
        for (size_t t = 0; t < TOKENS; t++)
            attend(devices->cpu[i], &c, k, v, out, t, 1, true);
        assert_close("out", out, expected, TOKENS * c.width, 1e-5, 0);
        memory_release(&memory);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_shape_agrees_with_ref),
        cmocka_unit_test(token_is_the_same_bits_in_every_batch),
        cmocka_unit_test(later_positions_are_not_seen),
        cmocka_unit_test(cache_agrees_with_whole_sequence),
    };
    return cmocka_run_group_tests(tests, devices_create, devices_destroy);
}
