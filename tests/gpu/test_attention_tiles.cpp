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
    {{1, 0, 0}, 1, 1, 64, 0},      {{70, 3, 65}, 2, 1, 64, 0},  {{130, 64, 1}, 4, 2, 32, 40},
    {{65, 17, 128}, 2, 2, 128, 0}, {{33, 90, 2}, 2, 1, 256, 0}, {{200, 1, 77}, 2, 1, 80, 64},
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
// Sequences of 100, 70 and 33 positions share their first block; sequence 0 has two tokens, the
// others one. The plan reads what is shared together.

enum { B = KV_BLOCK_TOKENS, TOKENS = 4, TABLE = 4, BLOCKS = 12 };

struct cached_shape {
    size_t heads, kv_heads, head_width, window;
};

static const struct cached_shape cached_shapes[] = {
    {14, 2, 64, 0}, {40, 8, 128, 0}, {4, 1, 256, 40}, {36, 1, 32, 0}};

static const int32_t tables[3 * TABLE] = {5, 3, 9, 1, 5, 7, 2, 0, 5, 11, 0, 0};
static const int32_t sequences[TOKENS] = {0, 0, 1, 2}, positions[TOKENS] = {98, 99, 69, 32};
static const int32_t order[TOKENS] = {0, 1, 2, 3};
static const struct attention_group together[] = {{0, 4, 0, 4}};
static const struct attention_segment shared_segments[] = {
    {0, 4, 0, 1}, {0, 2, 1, 4}, {2, 1, 1, 3}, {3, 1, 1, 2}};
static const struct attention_group apart[] = {{0, 2, 0, 1}, {2, 1, 1, 1}, {3, 1, 2, 1}};
static const struct attention_segment own_segments[] = {{0, 2, 0, 4}, {2, 1, 0, 3}, {3, 1, 0, 2}};

struct cached {
    struct tensor q, k, v, out;
    size_t out_count;
};

static struct cached cached_create(const struct cached_shape *shape)
{
    const size_t row = shape->heads * shape->head_width;
    const size_t cache = BLOCKS * B * shape->kv_heads * shape->head_width;
    return {random_bf16(11, TOKENS * row), random_bf16(12, cache), random_bf16(13, cache),
            random_bf16(14, TOKENS * row), TOKENS * row};
}

static void cached_release(struct cached *c)
{
    devices_free(c->q.data);
    devices_free(c->k.data);
    devices_free(c->v.data);
    devices_free(c->out.data);
}

static void run_cached(struct device *device, const struct cached_shape *shape, struct cached *c,
                       bool apart_from_others)
{
    struct test_memory memory = {};
    const struct attention_group *groups = apart_from_others ? apart : together;
    const struct attention_segment *segments = apart_from_others ? own_segments : shared_segments;
    const size_t group_count = apart_from_others ? 3 : 1;
    const struct attention_plan plan = {
        (int32_t *)memory_of(&memory, order, TOKENS, sizeof *order),
        (struct attention_group *)memory_of(&memory, groups, group_count, sizeof *groups),
        (struct attention_segment *)memory_of(&memory, segments, apart_from_others ? 3 : 4,
                                              sizeof *segments),
        group_count, (size_t)(apart_from_others ? 2 : 4)};
    const struct attention_cached call = {
        c->out,
        c->q,
        shape->heads * shape->head_width,
        c->k,
        c->v,
        {(int32_t *)memory_of(&memory, tables, 3 * TABLE, 4), TABLE},
        (int32_t *)memory_of(&memory, sequences, TOKENS, 4),
        (int32_t *)memory_of(&memory, positions, TOKENS, 4),
        plan,
        TOKENS,
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

static void shared_blocks_agree_with_ref(void **state)
{
    struct devices *devices = (struct devices *)*state;
    for (size_t s = 0; s < sizeof cached_shapes / sizeof cached_shapes[0]; s++) {
        struct cached expected = cached_create(&cached_shapes[s]);
        struct cached got = cached_create(&cached_shapes[s]);
        run_cached(devices->ref, &cached_shapes[s], &expected, false);
        run_cached(devices->cpu[0], &cached_shapes[s], &got, false);
        assert_near("out", got.out, expected.out, got.out_count);
        cached_release(&expected);
        cached_release(&got);
    }
}

static void plan_does_not_change_the_bits(void **state)
{
    struct devices *devices = (struct devices *)*state;
    for (size_t s = 0; s < sizeof cached_shapes / sizeof cached_shapes[0]; s++) {
        struct cached one = cached_create(&cached_shapes[s]);
        struct cached other = cached_create(&cached_shapes[s]);
        run_cached(devices->cpu[0], &cached_shapes[s], &one, false);
        run_cached(devices->cpu[0], &cached_shapes[s], &other, true);
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
    };
    return cmocka_run_group_tests(tests, devices_create, devices_destroy);
}
