// SPDX-License-Identifier: Apache-2.0
// Attention on tensor cores: bf16 rows at multiples of 16 bytes, which the case table of
// tests/kernels never has. Inputs are bf16 for ref too, so that what differs is the rounding of the
// weights p (and of ds) to bf16, a relative 2^-9 each, and that of the stored results, another
// 2^-9: errors stay below 2^-8 of the largest result, doubled for the sums' own rounding.
#include <cuda_runtime.h>

extern "C" {
#include "tests/kernels/harness.h"

#include "base/mem.h"
#include "base/random.h"
}

#include <math.h>
#include <stdio.h>

struct shape {
    size_t lengths[3];
    size_t heads, kv_heads, head_width, window;
};

static const struct shape shapes[] = {
    {{1, 0, 0}, 1, 1, 64, 0},      {{70, 3, 65}, 5, 1, 64, 0},   {{130, 64, 1}, 4, 2, 32, 40},
    {{65, 17, 161}, 2, 2, 128, 0}, {{33, 90, 2}, 2, 1, 256, 0},  {{200, 1, 77}, 2, 1, 80, 64},
    {{129, 40, 2}, 7, 1, 8, 1},    {{150, 0, 5}, 1, 1, 256, 33},
};

enum { SHAPES = sizeof shapes / sizeof shapes[0], RESULTS = 4 };

struct buffers {
    struct tensor qkv, grad_out, out, grad_qkv;
    float *log_sum_exp;
    int32_t *offsets;
    size_t tokens, stride, longest, out_count, qkv_count;
};

static struct tensor random_bf16(uint64_t stream, size_t count)
{
    struct tensor tensor = {devices_memory(count * 2), DTYPE_BF16};
    for (size_t i = 0; i < count; i++)
        ((uint16_t *)tensor.data)[i] = bf16_from_f32((float)random_normal(7, stream, i));
    return tensor;
}

static struct buffers buffers_create(const struct shape *shape)
{
    struct buffers b = {};
    b.offsets = (int32_t *)devices_memory(4 * sizeof *b.offsets);
    b.offsets[0] = 0;
    for (int i = 0; i < 3; i++) {
        b.offsets[i + 1] = b.offsets[i] + (int32_t)shape->lengths[i];
        b.longest = shape->lengths[i] > b.longest ? shape->lengths[i] : b.longest;
    }
    b.tokens = (size_t)b.offsets[3];
    b.stride = (shape->heads + 2 * shape->kv_heads) * shape->head_width;
    b.out_count = b.tokens * shape->heads * shape->head_width;
    b.qkv_count = b.tokens * b.stride;
    b.qkv = random_bf16(1, b.qkv_count);
    b.grad_out = random_bf16(2, b.out_count);
    b.out = random_bf16(3, b.out_count);
    b.grad_qkv = random_bf16(4, b.qkv_count);
    b.log_sum_exp = (float *)devices_memory(b.tokens * shape->heads * sizeof(float));
    return b;
}

static void buffers_release(struct buffers *b)
{
    devices_free(b->qkv.data);
    devices_free(b->grad_out.data);
    devices_free(b->out.data);
    devices_free(b->grad_qkv.data);
    devices_free(b->log_sum_exp);
    devices_free(b->offsets);
}

static struct tensor part(struct tensor qkv, const struct shape *shape, size_t first_head)
{
    return {(uint16_t *)qkv.data + first_head * shape->head_width, qkv.dtype};
}

static void run(struct device *device, const struct shape *shape, struct buffers *b)
{
    const size_t keys = shape->heads, values = shape->heads + shape->kv_heads;
    const struct sequences sequences = {b->offsets, 3, b->longest};
    const struct attention_forward forward = {b->out,
                                              b->log_sum_exp,
                                              part(b->qkv, shape, 0),
                                              part(b->qkv, shape, keys),
                                              part(b->qkv, shape, values),
                                              b->stride,
                                              sequences,
                                              b->tokens,
                                              shape->heads,
                                              shape->kv_heads,
                                              shape->head_width,
                                              1 / sqrtf((float)shape->head_width),
                                              shape->window};
    device->ops->attention_forward(device, &forward);
    const struct attention_backward backward = {part(b->grad_qkv, shape, 0),
                                                part(b->grad_qkv, shape, keys),
                                                part(b->grad_qkv, shape, values),
                                                b->grad_out,
                                                b->out,
                                                b->log_sum_exp,
                                                forward.q,
                                                forward.k,
                                                forward.v,
                                                b->stride,
                                                sequences,
                                                b->tokens,
                                                shape->heads,
                                                shape->kv_heads,
                                                shape->head_width,
                                                forward.scale,
                                                shape->window};
    device->ops->attention_backward(device, &backward);
}

static void assert_near(const char *what, struct tensor got, struct tensor expected, size_t count)
{
    float *x = (float *)mem_calloc(count + 1, sizeof *x),
          *y = (float *)mem_calloc(count + 1, sizeof *y);
    float largest = 0;
    convert_to_f32(x, got.data, got.dtype, count);
    convert_to_f32(y, expected.data, expected.dtype, count);
    for (size_t i = 0; i < count; i++)
        largest = fmaxf(largest, fabsf(y[i]));
    assert_close(what, x, y, count, 0x1p-7 * largest, 0);
    free(x);
    free(y);
}

static void tiles_agree_with_ref(void **state)
{
    struct devices *devices = (struct devices *)*state;
    for (int s = 0; s < SHAPES; s++) {
        struct buffers expected = buffers_create(&shapes[s]), got = buffers_create(&shapes[s]);
        struct error err;
        run(devices->ref, &shapes[s], &expected);
        run(devices->cpu[0], &shapes[s], &got);
        if (device_sync(devices->cpu[0], &err))
            fail_msg("shape %d: %s", s, err.text);
        assert_near("out", got.out, expected.out, got.out_count);
        assert_close("log_sum_exp", got.log_sum_exp, expected.log_sum_exp,
                     got.tokens * shapes[s].heads, 1e-5, 1e-5);
        assert_near("gradients", got.grad_qkv, expected.grad_qkv, got.qkv_count);
        buffers_release(&expected);
        buffers_release(&got);
    }
}

// A sequence's bits do not depend on what is packed beside it.
static void sequence_alone_is_the_same_bits(void **state)
{
    struct devices *devices = (struct devices *)*state;
    struct shape packed = shapes[3], alone = {{65, 0, 0}, 2, 2, 128, 0};
    struct buffers many = buffers_create(&packed), one = buffers_create(&alone);
    run(devices->cpu[0], &packed, &many);
    run(devices->cpu[0], &alone, &one);
    assert_memory_equal(many.out.data, one.out.data, one.out_count * 2);
    assert_memory_equal(many.grad_qkv.data, one.grad_qkv.data, one.qkv_count * 2);
    buffers_release(&many);
    buffers_release(&one);
}

// --- a paged cache ---
// Sequences of 551, 331 and 33 positions: all share their first block, the first two eight more,
// beyond the first piece of 256 positions. Sequence 0 has two tokens, the others one.

enum { B = KV_BLOCK_TOKENS, TOKENS = 4, SEQUENCES = 3, TABLE = 18, BLOCKS = 23, PIECE_BLOCKS = 8 };

struct cached_shape {
    size_t heads, kv_heads, head_width, window;
};

static const struct cached_shape cached_shapes[] = {
    {6, 2, 64, 0},    {5, 1, 128, 0}, {8, 1, 128, 300}, {7, 1, 80, 33},
    {2, 1, 256, 270}, {20, 1, 32, 0}, {1, 1, 8, 0},
};

static const int32_t sequences[TOKENS] = {0, 0, 1, 2}, positions[TOKENS] = {549, 550, 330, 32};
static const int32_t order[TOKENS] = {0, 1, 2, 3};

// Who reads together.
struct reading {
    size_t tokens, groups, segments, group_tokens;
    struct attention_group group[TOKENS];
    struct attention_segment segment[2 * TOKENS];
};

static const struct reading together = {
    4,
    1,
    5,
    4,
    {{0, 4, 0, 5}},
    {{0, 4, 0, 1}, {0, 3, 1, 9}, {0, 2, 9, 18}, {2, 1, 9, 11}, {3, 1, 1, 2}}};
static const struct reading apart = {4,
                                     3,
                                     3,
                                     2,
                                     {{0, 2, 0, 1}, {2, 1, 1, 1}, {3, 1, 2, 1}},
                                     {{0, 2, 0, 18}, {2, 1, 0, 11}, {3, 1, 0, 2}}};
static const struct reading alone = {1, 1, 1, 1, {{0, 1, 0, 1}}, {{0, 1, 0, 18}}};

static int32_t block_of(size_t sequence, size_t i)
{
    const size_t shared[] = {TABLE, 9, 1}, own[] = {0, 18 - 9, 20 - 1};
    return (int32_t)((i < shared[sequence] ? i : i + own[sequence]) * 7 % BLOCKS);
}

struct cached {
    struct tensor q, k, v, out;
    size_t row, out_count;
};

static struct cached cached_create(const struct cached_shape *shape)
{
    const size_t row = shape->heads * shape->head_width;
    const size_t cache = BLOCKS * B * shape->kv_heads * shape->head_width;
    return {random_bf16(11, TOKENS * row),
            random_bf16(12, cache),
            random_bf16(13, cache),
            random_bf16(14, TOKENS * row),
            row,
            TOKENS * row};
}

static void cached_release(struct cached *c)
{
    devices_free(c->q.data);
    devices_free(c->k.data);
    devices_free(c->v.data);
    devices_free(c->out.data);
}

static struct tensor from_token(const struct cached *c, struct tensor t, size_t first)
{
    return {(uint16_t *)t.data + first * c->row, t.dtype};
}

// The tokens from `first` on, with tables of `stride` blocks.
static void run_cached(struct device *device, const struct cached_shape *shape, struct cached *c,
                       const struct reading *reading, size_t first, size_t stride)
{
    struct test_memory memory = {};
    int32_t *tables = memory_ints(&memory, SEQUENCES * stride, 1);
    for (size_t s = 0; s < SEQUENCES; s++)
        for (size_t i = 0; i <= (size_t)positions[s == 0 ? 1 : s + 1] / B; i++)
            tables[s * stride + i] = block_of(s, i);
    const struct attention_plan plan = {
        (int32_t *)memory_of(&memory, order, TOKENS, sizeof *order),
        (struct attention_group *)memory_of(&memory, reading->group, reading->groups,
                                            sizeof *reading->group),
        (struct attention_segment *)memory_of(&memory, reading->segment, reading->segments,
                                              sizeof *reading->segment),
        reading->groups, reading->group_tokens};
    const struct attention_cached call = {
        from_token(c, c->out, first),
        from_token(c, c->q, first),
        c->row,
        c->k,
        c->v,
        {tables, stride},
        (int32_t *)memory_of(&memory, sequences + first, reading->tokens, 4),
        (int32_t *)memory_of(&memory, positions + first, reading->tokens, 4),
        plan,
        reading->tokens,
        shape->heads,
        shape->kv_heads,
        shape->head_width,
        1 / sqrtf((float)shape->head_width),
        shape->window};
    struct error err;
    device->ops->attention_cached(device, &call);
    if (device_sync(device, &err))
        fail_msg("%s", err.text);
    memory_release(&memory);
}

enum { CACHED_SHAPES = sizeof cached_shapes / sizeof cached_shapes[0] };

static void shared_blocks_agree_with_ref(void **state)
{
    struct devices *devices = (struct devices *)*state;
    for (size_t s = 0; s < CACHED_SHAPES; s++) {
        struct cached expected = cached_create(&cached_shapes[s]);
        struct cached got = cached_create(&cached_shapes[s]);
        run_cached(devices->ref, &cached_shapes[s], &expected, &together, 0, TABLE);
        run_cached(devices->cpu[0], &cached_shapes[s], &got, &together, 0, TABLE);
        assert_near("out", got.out, expected.out, got.out_count);
        cached_release(&expected);
        cached_release(&got);
    }
}

static void plan_does_not_change_the_bits(void **state)
{
    struct devices *devices = (struct devices *)*state;
    for (size_t s = 0; s < CACHED_SHAPES; s++) {
        const struct cached_shape *shape = &cached_shapes[s];
        struct cached one = cached_create(shape), other = cached_create(shape);
        run_cached(devices->cpu[0], shape, &one, &together, 0, TABLE);
        run_cached(devices->cpu[0], shape, &other, &apart, 0, TABLE);
        assert_memory_equal(one.out.data, other.out.data, one.out_count * 2);
        for (size_t t = 0; t < TOKENS; t++) {
            struct reading own = alone;
            own.segment[0].end_block = positions[t] / B + 1;
            run_cached(devices->cpu[0], shape, &other, &own, t, TABLE);
        }
        assert_memory_equal(one.out.data, other.out.data, one.out_count * 2);
        cached_release(&one);
        cached_release(&other);
    }
}

// Tables so long that the scratch cannot hold partial results of all their pieces: one block of
// threads walks over all of a tile's and merges them itself.
static void walking_does_not_change_the_bits(void **state)
{
    struct devices *devices = (struct devices *)*state;
    for (size_t s = 0; s < CACHED_SHAPES; s++) {
        const struct cached_shape *shape = &cached_shapes[s];
        struct cached one = cached_create(shape), other = cached_create(shape);
        const size_t piece_bytes = TOKENS * shape->heads * (shape->head_width + 2) * sizeof(float);
        const size_t stride = PIECE_BLOCKS * ((64u << 20) / piece_bytes + 1);
        run_cached(devices->cpu[0], shape, &one, &together, 0, TABLE);
        run_cached(devices->cpu[0], shape, &other, &together, 0, stride);
        assert_memory_equal(one.out.data, other.out.data, one.out_count * 2);
        run_cached(devices->cpu[0], shape, &other, &apart, 0, stride);
        assert_memory_equal(one.out.data, other.out.data, one.out_count * 2);
        cached_release(&one);
        cached_release(&other);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tiles_agree_with_ref),
        cmocka_unit_test(sequence_alone_is_the_same_bits),
        cmocka_unit_test(shared_blocks_agree_with_ref),
        cmocka_unit_test(plan_does_not_change_the_bits),
        cmocka_unit_test(walking_does_not_change_the_bits),
    };
    return cmocka_run_group_tests(tests, devices_create, devices_destroy);
}
