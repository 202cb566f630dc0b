// SPDX-License-Identifier: Apache-2.0
// Tolerance: a score of width d errs by d u sum |q k| scale, about 2 d u for normal data at scale
// 1/sqrt(d); a weight's relative error is twice that plus the exponential's 4 u; sums over keys
// average it. 2e-5 covers d = 128 with a factor of four.
#include "harness.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { SEQUENCES = 4 };

struct shape {
    int32_t lengths[SEQUENCES];
    size_t heads, kv_heads, head_width, window;
};

static const struct shape shapes[] = {
    {{1}, 1, 1, 8, 0},          {{31, 0, 33}, 4, 4, 64, 0},  {{5, 1, 70, 2}, 7, 1, 64, 0},
    {{33, 97}, 4, 2, 80, 0},    {{64, 1}, 2, 2, 128, 0},     {{50, 130}, 2, 1, 32, 17},
    {{90, 3}, 3, 1, 24, 1},     {{40, 120, 9}, 2, 2, 8, 64}, {{0, 0}, 2, 1, 8, 0},
    {{150}, 2, 1, 256, 100000},
};

enum { SHAPES = sizeof shapes / sizeof shapes[0] };

// One buffer of rows [q | k | v | two elements between], as a fused projection writes it.
struct batch {
    struct shape shape;
    struct sequences sequences;
    size_t tokens, stride, k_at, v_at;
    size_t out_count, rows_count;
    float *qkv, *grad_out;
};

static struct batch batch_random(struct test_memory *memory, const struct shape *shape)
{
    struct batch batch = {.shape = *shape};
    int32_t *offsets = memory_ints(memory, SEQUENCES + 1, 1);
    for (size_t i = 0; i < SEQUENCES; i++) {
        offsets[i + 1] = offsets[i] + shape->lengths[i];
        if ((size_t)shape->lengths[i] > batch.sequences.longest)
            batch.sequences.longest = (size_t)shape->lengths[i];
    }
    batch.sequences.offsets = offsets;
    batch.sequences.count = SEQUENCES;
    batch.tokens = (size_t)offsets[SEQUENCES];
    batch.k_at = shape->heads * shape->head_width;
    batch.v_at = batch.k_at + shape->kv_heads * shape->head_width;
    batch.stride = batch.v_at + shape->kv_heads * shape->head_width + 2;
    batch.rows_count = batch.tokens * batch.stride;
    batch.out_count = batch.tokens * batch.k_at;
    batch.qkv = memory_random(memory, batch.rows_count);
    batch.grad_out = memory_random(memory, batch.out_count);
    return batch;
}

struct result {
    float *out, *log_sum_exp, *grad;
};

static void forward(struct device *device, const struct batch *b, float *out, float *log_sum_exp)
{
    device->ops->attention_forward(
        device, &(struct attention_forward){.out = f32(out),
                                            .log_sum_exp = log_sum_exp,
                                            .q = f32(b->qkv),
                                            .k = f32(b->qkv + b->k_at),
                                            .v = f32(b->qkv + b->v_at),
                                            .stride = b->stride,
                                            .sequences = b->sequences,
                                            .tokens = b->tokens,
                                            .heads = b->shape.heads,
                                            .kv_heads = b->shape.kv_heads,
                                            .head_width = b->shape.head_width,
                                            .scale = 1 / sqrtf((float)b->shape.head_width),
                                            .window = b->shape.window});
}

static void backward(struct device *device, const struct batch *b, const struct result *result)
{
    device->ops->attention_backward(
        device, &(struct attention_backward){.grad_q = f32(result->grad),
                                             .grad_k = f32(result->grad + b->k_at),
                                             .grad_v = f32(result->grad + b->v_at),
                                             .grad_out = f32(b->grad_out),
                                             .out = f32(result->out),
                                             .log_sum_exp = result->log_sum_exp,
                                             .q = f32(b->qkv),
                                             .k = f32(b->qkv + b->k_at),
                                             .v = f32(b->qkv + b->v_at),
                                             .stride = b->stride,
                                             .sequences = b->sequences,
                                             .tokens = b->tokens,
                                             .heads = b->shape.heads,
                                             .kv_heads = b->shape.kv_heads,
                                             .head_width = b->shape.head_width,
                                             .scale = 1 / sqrtf((float)b->shape.head_width),
                                             .window = b->shape.window});
}

static struct result run(struct test_memory *memory, struct device *device, const struct batch *b)
{
    struct result result = {.out = memory_floats(memory, b->out_count),
                            .log_sum_exp = memory_floats(memory, b->tokens * b->shape.heads),
                            .grad = memory_floats(memory, b->rows_count)};
    forward(device, b, result.out, result.log_sum_exp);
    backward(device, b, &result);
    return result;
}

static void every_shape_agrees_with_ref(void **state)
{
    struct devices *devices = *state;
    for (size_t s = 0; s < SHAPES; s++) {
        struct test_memory memory = {.stream = s};
        struct batch batch = batch_random(&memory, &shapes[s]);
        struct result expected = run(&memory, devices->ref, &batch);
        for (size_t i = 0; i < devices->count; i++) {
            struct result got = run(&memory, devices->cpu[i], &batch);
            assert_close("out", got.out, expected.out, batch.out_count, 2e-5, 0);
            assert_close("log_sum_exp", got.log_sum_exp, expected.log_sum_exp,
                         batch.tokens * batch.shape.heads, 2e-5, 1e-6);
            // The gap at the end of each row stays NaN in both.
            assert_close("grad", got.grad, expected.grad, batch.rows_count, 1e-4, 2e-5);
        }
        memory_release(&memory);
    }
}

static void log_sum_exp_is_optional(void **state)
{
    struct devices *devices = *state;
    struct test_memory memory = {0};
    struct batch batch = batch_random(&memory, &shapes[1]);
    for (size_t i = 0; i < devices->count; i++) {
        struct result kept = run(&memory, devices->cpu[i], &batch);
        float *out = memory_floats(&memory, batch.out_count);
        forward(devices->cpu[i], &batch, out, NULL);
        assert_memory_equal(out, kept.out, batch.out_count * sizeof *out);
    }
    memory_release(&memory);
}

// A sequence's results, forward and backward, are the same bits alone and packed with others.
static void sequence_alone_is_the_same_bits_as_packed(void **state)
{
    struct devices *devices = *state;
    const struct shape packed = {{31, 50, 77, 3}, 4, 2, 64, 20};
    for (size_t i = 0; i < devices->count; i++)
        for (size_t s = 0; s < SEQUENCES; s++) {
            struct test_memory memory = {0};
            struct batch batch = batch_random(&memory, &packed);
            struct batch alone = batch;
            size_t begin = (size_t)batch.sequences.offsets[s];
            int32_t *offsets = memory_ints(&memory, 2, 1);
            offsets[1] = packed.lengths[s];
            alone.sequences = (struct sequences){offsets, 1, (size_t)packed.lengths[s]};
            alone.tokens = (size_t)packed.lengths[s];
            alone.rows_count = alone.tokens * batch.stride;
            alone.out_count = alone.tokens * batch.k_at;
            alone.qkv = batch.qkv + begin * batch.stride;
            alone.grad_out = batch.grad_out + begin * batch.k_at;
            struct result whole = run(&memory, devices->cpu[i], &batch);
            struct result one = run(&memory, devices->cpu[i], &alone);
            assert_memory_equal(one.out, whole.out + begin * batch.k_at,
                                alone.out_count * sizeof(float));
            assert_memory_equal(one.grad, whole.grad + begin * batch.stride,
                                alone.rows_count * sizeof(float));
            memory_release(&memory);
        }
}

// A token sees nothing after it: a prefix gives the same bits as the whole sequence.
static void prefix_is_the_same_bits_as_whole(void **state)
{
    struct devices *devices = *state;
    const struct shape shape = {{100}, 2, 1, 64, 0};
    struct test_memory memory = {0};
    struct batch batch = batch_random(&memory, &shape);
    for (size_t i = 0; i < devices->count; i++) {
        float *whole = memory_floats(&memory, batch.out_count);
        forward(devices->cpu[i], &batch, whole, NULL);
        for (int32_t length = 1; length <= 100; length += 9) {
            int32_t *offsets = memory_ints(&memory, 2, 1);
            offsets[1] = length;
            struct batch prefix = batch;
            prefix.sequences = (struct sequences){offsets, 1, (size_t)length};
            prefix.tokens = (size_t)length;
            float *out = memory_floats(&memory, (size_t)length * batch.k_at);
            forward(devices->cpu[i], &prefix, out, NULL);
            assert_memory_equal(out, whole, (size_t)length * batch.k_at * sizeof *out);
        }
    }
    memory_release(&memory);
}

struct differentiated {
    struct device *device;
    struct batch *batch;
    float *out;
};

static double attention_loss(void *context)
{
    struct differentiated *d = context;
    forward(d->device, d->batch, d->out, NULL);
    return weighted_sum(d->out, d->batch->grad_out, d->batch->out_count);
}

static void gradients_are_those_of_differences(void **state)
{
    struct devices *devices = *state;
    static const struct shape small[] = {{{5, 1, 3}, 4, 2, 6, 0}, {{7}, 3, 1, 4, 3}};
    for (size_t s = 0; s < 2; s++) {
        struct test_memory memory = {.stream = s};
        struct batch batch = batch_random(&memory, &small[s]);
        struct result result = run(&memory, devices->ref, &batch);
        struct differentiated d = {devices->ref, &batch, memory_floats(&memory, batch.out_count)};
        for (size_t t = 0; t < batch.tokens; t++) {
            size_t at = t * batch.stride;
            assert_gradient("qkv", attention_loss, &d, batch.qkv + at, batch.stride - 2,
                            result.grad + at, 1e-3);
        }
        memory_release(&memory);
    }
}

// Scores of +-10^4 must neither overflow nor lose the largest.
static void huge_scores_choose_one_key(void **state)
{
    struct devices *devices = *state;
    const struct shape shape = {{40}, 1, 1, 8, 0};
    struct test_memory memory = {0};
    struct batch batch = batch_random(&memory, &shape);
    for (size_t t = 0; t < batch.tokens; t++)
        for (size_t i = 0; i < 16; i++)
            batch.qkv[t * batch.stride + i] *= 100;
    struct result expected = run(&memory, devices->ref, &batch);
    for (size_t i = 0; i < devices->count; i++) {
        struct result got = run(&memory, devices->cpu[i], &batch);
        assert_close("out", got.out, expected.out, batch.out_count, 0.02, 0);
        for (size_t j = 0; j < batch.tokens; j++)
            assert_true(isfinite(got.log_sum_exp[j]));
    }
    memory_release(&memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_shape_agrees_with_ref),
        cmocka_unit_test(log_sum_exp_is_optional),
        cmocka_unit_test(sequence_alone_is_the_same_bits_as_packed),
        cmocka_unit_test(prefix_is_the_same_bits_as_whole),
        cmocka_unit_test(gradients_are_those_of_differences),
        cmocka_unit_test(huge_scores_choose_one_key),
    };
    return cmocka_run_group_tests(tests, devices_create, devices_destroy);
}
