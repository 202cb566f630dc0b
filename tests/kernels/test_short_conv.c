// SPDX-License-Identifier: Apache-2.0
// Tolerance: at most 8 products of three normal numbers are added, in another order or fused: 16
// roundings of sizes below 100 leave 1e-4 at worst and 1e-5 in practice. Sums over tokens grow with
// their root.
#include "harness.h"

#include <math.h>
#include <string.h>

struct shape {
    size_t width, taps;
    enum dtype weight;
    int lengths[6]; // of the sequences, ended by -1
};

static const struct shape shapes[] = {
    {1, 1, DTYPE_F32, {1, -1}},         {31, 3, DTYPE_F32, {33, -1}},
    {33, 3, DTYPE_BF16, {1, 0, 2, -1}}, {64, 4, DTYPE_F16, {5, 31, 1, 3, -1}},
    {1000, 3, DTYPE_F32, {7, 2, -1}},   {129, 8, DTYPE_BF16, {4, 20, 0, 9, -1}},
    {65, 2, DTYPE_F32, {-1}},           {20, 3, DTYPE_F32, {70, 33, 100, -1}},
};

enum { SHAPES = sizeof shapes / sizeof shapes[0] };

struct conv {
    struct shape shape;
    size_t tokens;
    struct sequences sequences;
    struct tensor weight;
    float *bcx, *grad_out, *grad_weight; // the last as it is before backward
};

static struct conv conv_random(struct test_memory *memory, const struct shape *shape)
{
    struct conv conv = {.shape = *shape};
    int32_t *offsets = memory_ints(memory, 6, 1);
    while (shape->lengths[conv.sequences.count] >= 0) {
        size_t length = (size_t)shape->lengths[conv.sequences.count++];
        conv.tokens += length;
        offsets[conv.sequences.count] = (int32_t)conv.tokens;
        if (length > conv.sequences.longest)
            conv.sequences.longest = length;
    }
    conv.sequences.offsets = offsets;
    conv.weight = memory_tensor(memory, shape->weight, shape->width * shape->taps);
    conv.bcx = memory_random(memory, conv.tokens * 3 * shape->width);
    conv.grad_out = memory_random(memory, conv.tokens * shape->width);
    conv.grad_weight = memory_random(memory, shape->width * shape->taps);
    return conv;
}

static void forward(struct device *device, const struct conv *c, float *out)
{
    device->ops->short_conv_forward(device, &(struct short_conv_forward){.out = f32(out),
                                                                         .bcx = f32(c->bcx),
                                                                         .weight = c->weight,
                                                                         .sequences = c->sequences,
                                                                         .tokens = c->tokens,
                                                                         .width = c->shape.width,
                                                                         .taps = c->shape.taps});
}

static void backward(struct device *device, const struct conv *c, float *grad_bcx,
                     float *grad_weight)
{
    device->ops->short_conv_backward(device,
                                     &(struct short_conv_backward){.grad_bcx = f32(grad_bcx),
                                                                   .grad_weight = f32(grad_weight),
                                                                   .grad_out = f32(c->grad_out),
                                                                   .bcx = f32(c->bcx),
                                                                   .weight = c->weight,
                                                                   .sequences = c->sequences,
                                                                   .tokens = c->tokens,
                                                                   .width = c->shape.width,
                                                                   .taps = c->shape.taps});
}

struct result {
    float *out, *grad_bcx, *grad_weight;
};

static struct result run(struct test_memory *memory, struct device *device, const struct conv *c)
{
    struct result result = {
        .out = memory_floats(memory, c->tokens * c->shape.width),
        .grad_bcx = memory_floats(memory, c->tokens * 3 * c->shape.width),
        .grad_weight = memory_copy(memory, c->grad_weight, c->shape.width * c->shape.taps)};
    forward(device, c, result.out);
    backward(device, c, result.grad_bcx, result.grad_weight);
    return result;
}

static void every_shape_agrees_with_ref(void **state)
{
    struct devices *devices = *state;
    for (size_t s = 0; s < SHAPES; s++) {
        struct test_memory memory = {.stream = s};
        struct conv conv = conv_random(&memory, &shapes[s]);
        struct result expected = run(&memory, devices->ref, &conv);
        size_t count = conv.tokens * conv.shape.width;
        for (size_t i = 0; i < devices->count; i++) {
            struct result got = run(&memory, devices->cpu[i], &conv);
            assert_close("out", got.out, expected.out, count, 1e-5, 2e-6);
            assert_close("grad_bcx", got.grad_bcx, expected.grad_bcx, 3 * count, 1e-5, 2e-6);
            assert_close("grad_weight", got.grad_weight, expected.grad_weight,
                         conv.shape.width * conv.shape.taps, 4e-6 * sqrt((double)conv.tokens + 1),
                         2e-6);
        }
        memory_release(&memory);
    }
}

static void threads_do_not_change_the_bits(void **state)
{
    struct devices *devices = *state;
    struct test_memory memory = {0};
    struct conv conv = conv_random(&memory, &shapes[5]);
    for (size_t i = 0; i < devices->count; i += 2) {
        struct result one = run(&memory, devices->cpu[i], &conv);
        struct result three = run(&memory, devices->cpu[i + 1], &conv);
        size_t count = conv.tokens * conv.shape.width;
        assert_memory_equal(one.out, three.out, count * sizeof(float));
        assert_memory_equal(one.grad_bcx, three.grad_bcx, 3 * count * sizeof(float));
        assert_memory_equal(one.grad_weight, three.grad_weight,
                            conv.shape.width * conv.shape.taps * sizeof(float));
    }
    memory_release(&memory);
}

static void a_known_sequence_convolves_as_by_hand(void **state)
{
    struct devices *devices = *state;
    struct test_memory memory = {0};
    // Two sequences of one channel; u = B x is 2, 3, 5 and 7.
    static const float bcx[] = {1, 1, 2, 3, 10, 1, 5, 100, 1, 7, 2, 1};
    static const float weight[] = {1, 20, 300};
    static const int32_t offsets[] = {0, 3, 4};
    static const float expected[] = {600, 9400, 156200, 4200};
    struct conv conv = {.shape = {.width = 1, .taps = 3},
                        .tokens = 4,
                        .sequences = {.offsets = memory_of(&memory, offsets, 3, sizeof *offsets),
                                      .count = 2,
                                      .longest = 3},
                        .weight = f32(memory_copy(&memory, weight, 3)),
                        .bcx = memory_copy(&memory, bcx, 12)};
    for (size_t i = 0; i <= devices->count; i++) {
        float *out = memory_floats(&memory, 4);
        forward(i < devices->count ? devices->cpu[i] : devices->ref, &conv, out);
        assert_memory_equal(out, expected, sizeof expected);
    }
    memory_release(&memory);
}

// tables: one block of each sequence after the other, from the last on.
static void cached(struct device *device, const struct conv *c, float *state, float *out,
                   struct block_tables tables, const int32_t *sequences, const int32_t *positions,
                   size_t first, size_t count)
{
    device->ops->short_conv_cached(
        device, &(struct short_conv_cached){.out = f32(out + first * c->shape.width),
                                            .bcx = f32(c->bcx + first * 3 * c->shape.width),
                                            .weight = c->weight,
                                            .state = f32(state),
                                            .tables = tables,
                                            .sequences = sequences + first,
                                            .positions = positions + first,
                                            .tokens = count,
                                            .width = c->shape.width,
                                            .taps = c->shape.taps});
}

// Each sequence has blocks of its own, which begin with rubbish; pieces of one, two and more
// tokens.
static void pieces_with_a_state_give_the_same_bits_as_the_whole(void **state)
{
    struct devices *devices = *state;
    for (size_t s = 0; s < SHAPES; s++)
        for (size_t i = 0; i <= devices->count; i++) {
            struct device *device = i < devices->count ? devices->cpu[i] : devices->ref;
            struct test_memory memory = {.stream = s};
            struct conv conv = conv_random(&memory, &shapes[s]);
            size_t width = conv.shape.width, count = conv.sequences.count;
            size_t per_sequence = conv.sequences.longest / KV_BLOCK_TOKENS + 1;
            float *expected = memory_floats(&memory, conv.tokens * width);
            forward(device, &conv, expected);
            int32_t *tables = memory_ints(&memory, count * per_sequence, 1);
            for (size_t b = 0; b < count * per_sequence; b++)
                tables[b] = (int32_t)(count * per_sequence - 1 - b);
            int32_t *sequences = memory_ints(&memory, conv.tokens, 1);
            int32_t *positions = memory_ints(&memory, conv.tokens, 1);
            for (size_t q = 0; q < count; q++)
                for (int32_t t = conv.sequences.offsets[q]; t < conv.sequences.offsets[q + 1];
                     t++) {
                    sequences[t] = (int32_t)q;
                    positions[t] = t - conv.sequences.offsets[q];
                }
            for (size_t piece = 1; piece <= conv.tokens; piece = piece * 2 + 1) {
                float *kept =
                    memory_floats(&memory, count * per_sequence * (conv.shape.taps - 1) * width);
                float *out = memory_floats(&memory, conv.tokens * width);
                for (size_t at = 0; at < conv.tokens; at += piece)
                    cached(device, &conv, kept, out, (struct block_tables){tables, per_sequence},
                           sequences, positions, at,
                           piece < conv.tokens - at ? piece : conv.tokens - at);
                assert_memory_equal(out, expected, conv.tokens * width * sizeof *out);
            }
            memory_release(&memory);
        }
}

struct differentiated {
    struct device *device;
    struct conv *conv;
    float *out;
};

static double conv_loss(void *context)
{
    struct differentiated *d = context;
    forward(d->device, d->conv, d->out);
    return weighted_sum(d->out, d->conv->grad_out, d->conv->tokens * d->conv->shape.width);
}

static void gradients_are_those_of_differences(void **state)
{
    struct devices *devices = *state;
    static const struct shape small = {5, 3, DTYPE_F32, {4, 1, 6, -1}};
    struct test_memory memory = {0};
    struct conv conv = conv_random(&memory, &small);
    memset(conv.grad_weight, 0, small.width * small.taps * sizeof(float));
    struct result result = run(&memory, devices->ref, &conv);
    struct differentiated d = {devices->ref, &conv,
                               memory_floats(&memory, conv.tokens * small.width)};
    assert_gradient("bcx", conv_loss, &d, conv.bcx, conv.tokens * 3 * small.width, result.grad_bcx,
                    1e-3);
    assert_gradient("weight", conv_loss, &d, conv.weight.data, small.width * small.taps,
                    result.grad_weight, 1e-3);
    memory_release(&memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_shape_agrees_with_ref),
        cmocka_unit_test(threads_do_not_change_the_bits),
        cmocka_unit_test(a_known_sequence_convolves_as_by_hand),
        cmocka_unit_test(pieces_with_a_state_give_the_same_bits_as_the_whole),
        cmocka_unit_test(gradients_are_those_of_differences),
    };
    return cmocka_run_group_tests(tests, devices_create, devices_destroy);
}
