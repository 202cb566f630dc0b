// SPDX-License-Identifier: Apache-2.0
// Turning and keeping in one: what attention then reads is what two operations of ref would have
// left. The order of elements in a cache is the backend's own, so attention is what is compared.
#include "harness.h"

#include <math.h>
#include <string.h>

struct shape {
    size_t tokens, heads, kv_heads, head_width;
    enum dtype cache;
};

static const struct shape shapes[] = {{1, 1, 1, 2, DTYPE_F32},
                                      {33, 14, 2, 64, DTYPE_F32},
                                      {31, 3, 1, 30, DTYPE_BF16},
                                      {70, 4, 2, 128, DTYPE_BF16},
                                      {5, 2, 2, 256, DTYPE_F32}};

enum { SHAPES = sizeof shapes / sizeof shapes[0], GAP = 5, B = KV_BLOCK_TOKENS };

struct problem {
    struct shape shape;
    size_t stride, out_count, cache_count, table;
    float *x, *frequencies;
    int32_t *positions, *places, *nowhere, *tables, *sequences, *order;
    struct attention_group *groups;
    struct attention_segment *segments;
};

static struct problem problem_random(struct test_memory *memory, const struct shape *shape)
{
    struct problem p = {.shape = *shape};
    const size_t tokens = shape->tokens, d = shape->head_width;
    p.table = (tokens + B - 1) / B;
    p.stride = (shape->heads + 2 * shape->kv_heads) * d + GAP;
    p.out_count = tokens * shape->heads * d;
    p.cache_count = p.table * B * shape->kv_heads * d;
    p.x = memory_random(memory, tokens * p.stride);
    p.frequencies = memory_floats(memory, d / 2);
    for (size_t i = 0; i < d / 2; i++)
        p.frequencies[i] = powf(10000, -(float)i / (float)(d / 2));
    p.positions = memory_ints(memory, tokens, 1);
    p.places = memory_ints(memory, tokens, 1);
    p.nowhere = memory_ints(memory, tokens, 1);
    p.tables = memory_ints(memory, p.table, 1);
    p.sequences = memory_ints(memory, tokens, 1);
    p.order = memory_ints(memory, tokens, 1);
    for (size_t b = 0; b < p.table; b++)
        p.tables[b] = (int32_t)(p.table - 1 - b);
    for (size_t t = 0; t < tokens; t++) {
        p.positions[t] = p.order[t] = (int32_t)t;
        p.places[t] = p.tables[t / B] * B + (int32_t)(t % B);
        p.nowhere[t] = -1;
    }
    const struct attention_group group = {0, (int32_t)tokens, 0, 1};
    const struct attention_segment segment = {0, (int32_t)tokens, 0, (int32_t)p.table};
    p.groups = memory_of(memory, &group, 1, sizeof group);
    p.segments = memory_of(memory, &segment, 1, sizeof segment);
    return p;
}

static struct rope_kv_write call_of(const struct problem *p, float *x, struct tensor k,
                                    struct tensor v, const int32_t *places)
{
    const struct shape *s = &p->shape;
    const size_t keys = s->heads * s->head_width, values = keys + s->kv_heads * s->head_width;
    return (struct rope_kv_write){.rope = {.x = f32(x),
                                           .positions = p->positions,
                                           .inverse_frequency = p->frequencies,
                                           .magnitude = 1.1f,
                                           .tokens = s->tokens,
                                           .stride = p->stride,
                                           .heads = s->heads + s->kv_heads,
                                           .head_width = s->head_width},
                                  .write = {.k_cache = k,
                                            .v_cache = v,
                                            .k = f32(x + keys),
                                            .v = f32(x + values),
                                            .stride = p->stride,
                                            .places = places,
                                            .tokens = s->tokens,
                                            .kv_heads = s->kv_heads,
                                            .head_width = s->head_width}};
}

static float *attend(struct test_memory *memory, struct device *device, const struct problem *p,
                     float *x, struct tensor k, struct tensor v)
{
    float *out = memory_floats(memory, p->out_count);
    device->ops->attention_cached(
        device,
        &(struct attention_cached){.out = f32(out),
                                   .q = f32(x),
                                   .stride = p->stride,
                                   .k_cache = k,
                                   .v_cache = v,
                                   .tables = {p->tables, p->table},
                                   .sequences = p->sequences,
                                   .positions = p->positions,
                                   .plan = {p->order, p->groups, p->segments, 1, p->shape.tokens},
                                   .tokens = p->shape.tokens,
                                   .heads = p->shape.heads,
                                   .kv_heads = p->shape.kv_heads,
                                   .head_width = p->shape.head_width,
                                   .scale = 1 / sqrtf((float)p->shape.head_width)});
    return out;
}

static struct tensor empty_cache(struct test_memory *memory, const struct problem *p)
{
    struct tensor cache = memory_tensor(memory, p->shape.cache, p->cache_count);
    memset(cache.data, 0, p->cache_count * dtype_bytes(p->shape.cache));
    return cache;
}

static void attention_reads_what_two_operations_leave(void **state)
{
    struct devices *devices = *state;
    for (size_t s = 0; s < SHAPES; s++) {
        struct test_memory memory = {.stream = s};
        struct problem p = problem_random(&memory, &shapes[s]);
        const size_t count = p.shape.tokens * p.stride;
        struct tensor k = empty_cache(&memory, &p), v = empty_cache(&memory, &p);
        float *x = memory_copy(&memory, p.x, count);
        const struct rope_kv_write two = call_of(&p, x, k, v, p.places);
        devices->ref->ops->rope(devices->ref, &two.rope);
        devices->ref->ops->kv_write(devices->ref, &two.write);
        float *expected = attend(&memory, devices->ref, &p, x, k, v);
        for (size_t i = 0; i <= devices->count; i++) {
            struct device *device = i < devices->count ? devices->cpu[i] : devices->ref;
            struct tensor own_k = empty_cache(&memory, &p), own_v = empty_cache(&memory, &p);
            float *own = memory_copy(&memory, p.x, count);
            const struct rope_kv_write one = call_of(&p, own, own_k, own_v, p.places);
            device->ops->rope_kv_write(device, &one);
            float *got = attend(&memory, device, &p, own, own_k, own_v);
            assert_close("out", got, expected, p.out_count,
                         p.shape.cache == DTYPE_BF16 ? 0x1p-6 : 2e-5, 0);
            // Tokens without a place are kept nowhere.
            float *others = memory_random(&memory, count);
            const struct rope_kv_write away = call_of(&p, others, own_k, own_v, p.nowhere);
            device->ops->rope_kv_write(device, &away);
            device->ops->kv_write(device, &away.write);
            assert_memory_equal(attend(&memory, device, &p, own, own_k, own_v), got,
                                p.out_count * sizeof *got);
        }
        memory_release(&memory);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attention_reads_what_two_operations_leave),
    };
    return cmocka_run_group_tests(tests, devices_create, devices_destroy);
}
