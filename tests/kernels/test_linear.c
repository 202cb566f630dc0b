// SPDX-License-Identifier: Apache-2.0
// Tolerance: a chain of K fused steps errs by at most K u sum |a b| (Higham 2002, 3.1), plain C by
// 2 K u; that sum is what the reference gives for absolute values.
#include "harness.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

struct shape {
    size_t rows, out_width, in_width;
};

static const struct shape shapes[] = {
    {1, 1, 1},      {1, 31, 33},    {31, 33, 1},  {33, 31, 31},  {7, 64, 80},    {2, 5, 300},
    {0, 8, 8},      {3, 17, 0},     {48, 48, 48}, {130, 96, 64}, {25, 600, 300}, {61, 40, 513},
    {260, 33, 129}, {13, 1030, 70}, {600, 9, 7},  {5, 200, 300}, {8, 130, 70},   {16, 100, 40},
};

enum { SHAPES = sizeof shapes / sizeof shapes[0] };

static float *absolute(struct test_memory *memory, const float *x, size_t count)
{
    float *copy = memory_copy(memory, x, count);
    for (size_t i = 0; i < count; i++)
        copy[i] = fabsf(copy[i]);
    return copy;
}

static double chain_bound(size_t depth)
{
    return (2 * (double)depth + 4) * ROUNDOFF;
}

struct layer {
    float *x, *weight, *bias, *grad_out, *before_out, *before_x, *before_weight, *before_bias;
    size_t x_count, weight_count, out_count;
    struct shape shape;
};

static struct layer layer_random(struct test_memory *memory, struct shape shape)
{
    struct layer layer = {.shape = shape,
                          .x_count = shape.rows * shape.in_width,
                          .weight_count = shape.out_width * shape.in_width,
                          .out_count = shape.rows * shape.out_width};
    layer.x = memory_random(memory, layer.x_count);
    layer.weight = memory_random(memory, layer.weight_count);
    layer.bias = memory_random(memory, shape.out_width);
    layer.grad_out = memory_random(memory, layer.out_count);
    layer.before_out = memory_random(memory, layer.out_count);
    layer.before_x = memory_random(memory, layer.x_count);
    layer.before_weight = memory_random(memory, layer.weight_count);
    layer.before_bias = memory_random(memory, shape.out_width);
    return layer;
}

static struct layer layer_absolute(struct test_memory *memory, const struct layer *layer)
{
    struct layer copy = *layer;
    copy.x = absolute(memory, layer->x, layer->x_count);
    copy.weight = absolute(memory, layer->weight, layer->weight_count);
    copy.bias = absolute(memory, layer->bias, layer->shape.out_width);
    copy.grad_out = absolute(memory, layer->grad_out, layer->out_count);
    copy.before_out = absolute(memory, layer->before_out, layer->out_count);
    copy.before_x = absolute(memory, layer->before_x, layer->x_count);
    copy.before_weight = absolute(memory, layer->before_weight, layer->weight_count);
    copy.before_bias = absolute(memory, layer->before_bias, layer->shape.out_width);
    return copy;
}

static struct linear linear_of(const struct layer *layer, bool bias)
{
    return (struct linear){.weight = f32(layer->weight),
                           .bias = f32(bias ? layer->bias : NULL),
                           .out_width = layer->shape.out_width,
                           .in_width = layer->shape.in_width};
}

enum { ACCUMULATE = 1, BIAS = 2, PACKED = 4, WAYS = 8 };

static float *forward(struct test_memory *memory, struct device *device, const struct layer *layer,
                      int way)
{
    struct linear linear = linear_of(layer, way & BIAS);
    float *out = way & ACCUMULATE ? memory_copy(memory, layer->before_out, layer->out_count)
                                  : memory_floats(memory, layer->out_count);
    if (way & PACKED)
        device->ops->linear_pack(device, &linear);
    device->ops->linear_forward(device, &(struct linear_forward){.out = f32(out),
                                                                 .x = f32(layer->x),
                                                                 .linear = &linear,
                                                                 .rows = layer->shape.rows,
                                                                 .accumulate = way & ACCUMULATE});
    if (way & PACKED)
        device->ops->linear_unpack(device, &linear);
    assert_null(linear.packed);
    return out;
}

static void forward_agrees_with_ref(void **state)
{
    struct devices *devices = *state;
    for (size_t s = 0; s < SHAPES; s++)
        for (int way = 0; way < WAYS; way++) {
            struct test_memory memory = {.stream = s};
            struct layer layer = layer_random(&memory, shapes[s]);
            struct layer sizes = layer_absolute(&memory, &layer);
            float *expected = forward(&memory, devices->ref, &layer, way);
            float *bound = forward(&memory, devices->ref, &sizes, way);
            for (size_t i = 0; i < devices->count; i++) {
                float *out = forward(&memory, devices->cpu[i], &layer, way);
                assert_within("out", out, expected, bound, layer.out_count,
                              chain_bound(layer.shape.in_width));
            }
            memory_release(&memory);
        }
}

static float *backward_input(struct test_memory *memory, struct device *device,
                             const struct layer *layer, int way)
{
    struct linear linear = linear_of(layer, false);
    float *grad = way & ACCUMULATE ? memory_copy(memory, layer->before_x, layer->x_count)
                                   : memory_floats(memory, layer->x_count);
    device->ops->linear_backward_input(
        device, &(struct linear_backward_input){.grad_x = f32(grad),
                                                .grad_out = f32(layer->grad_out),
                                                .linear = &linear,
                                                .rows = layer->shape.rows,
                                                .accumulate = way & ACCUMULATE});
    return grad;
}

static void backward_input_agrees_with_ref(void **state)
{
    struct devices *devices = *state;
    for (size_t s = 0; s < SHAPES; s++)
        for (int way = 0; way <= ACCUMULATE; way++) {
            struct test_memory memory = {.stream = s};
            struct layer layer = layer_random(&memory, shapes[s]);
            struct layer sizes = layer_absolute(&memory, &layer);
            float *expected = backward_input(&memory, devices->ref, &layer, way);
            float *bound = backward_input(&memory, devices->ref, &sizes, way);
            for (size_t i = 0; i < devices->count; i++) {
                float *grad = backward_input(&memory, devices->cpu[i], &layer, way);
                assert_within("grad_x", grad, expected, bound, layer.x_count,
                              chain_bound(layer.shape.out_width));
            }
            memory_release(&memory);
        }
}

struct weight_grads {
    float *weight, *bias;
};

static struct weight_grads backward_weight(struct test_memory *memory, struct device *device,
                                           const struct layer *layer, bool bias)
{
    struct weight_grads grads = {
        .weight = memory_copy(memory, layer->before_weight, layer->weight_count),
        .bias = memory_copy(memory, layer->before_bias, layer->shape.out_width),
    };
    device->ops->linear_backward_weight(
        device, &(struct linear_backward_weight){.grad_weight = f32(grads.weight),
                                                 .grad_bias = f32(bias ? grads.bias : NULL),
                                                 .grad_out = f32(layer->grad_out),
                                                 .x = f32(layer->x),
                                                 .rows = layer->shape.rows,
                                                 .out_width = layer->shape.out_width,
                                                 .in_width = layer->shape.in_width});
    return grads;
}

static void backward_weight_adds_and_agrees_with_ref(void **state)
{
    struct devices *devices = *state;
    for (size_t s = 0; s < SHAPES; s++)
        for (int bias = 0; bias < 2; bias++) {
            struct test_memory memory = {.stream = s};
            struct layer layer = layer_random(&memory, shapes[s]);
            struct layer sizes = layer_absolute(&memory, &layer);
            struct weight_grads expected = backward_weight(&memory, devices->ref, &layer, bias);
            struct weight_grads bound = backward_weight(&memory, devices->ref, &sizes, bias);
            for (size_t i = 0; i < devices->count; i++) {
                struct weight_grads grads = backward_weight(&memory, devices->cpu[i], &layer, bias);
                double factor = chain_bound(layer.shape.rows);
                assert_within("grad_weight", grads.weight, expected.weight, bound.weight,
                              layer.weight_count, factor);
                assert_within("grad_bias", grads.bias, expected.bias, bound.bias,
                              layer.shape.out_width, factor);
            }
            memory_release(&memory);
        }
}

// Small integers: every product and sum is exact, so any order must give the same numbers.
static void integers_are_exact(void **state)
{
    struct devices *devices = *state;
    for (size_t s = 0; s < SHAPES; s++) {
        struct test_memory memory = {.stream = s};
        struct layer layer = layer_random(&memory, shapes[s]);
        float *arrays[] = {layer.x, layer.weight, layer.grad_out};
        size_t counts[] = {layer.x_count, layer.weight_count, layer.out_count};
        for (size_t a = 0; a < 3; a++)
            for (size_t i = 0; i < counts[a]; i++)
                arrays[a][i] = roundf(arrays[a][i] * 4);
        for (size_t i = 0; i < layer.weight_count; i++)
            layer.before_weight[i] = roundf(layer.before_weight[i] * 4);
        for (size_t i = 0; i < devices->count; i++) {
            struct device *cpu = devices->cpu[i], *ref = devices->ref;
            assert_close("out", forward(&memory, cpu, &layer, 0), forward(&memory, ref, &layer, 0),
                         layer.out_count, 0, 0);
            assert_close("grad_x", backward_input(&memory, cpu, &layer, 0),
                         backward_input(&memory, ref, &layer, 0), layer.x_count, 0, 0);
            assert_close("grad_weight", backward_weight(&memory, cpu, &layer, false).weight,
                         backward_weight(&memory, ref, &layer, false).weight, layer.weight_count, 0,
                         0);
        }
        memory_release(&memory);
    }
}

// The contract that generation stands on: alone, in any batch, packed or not, for any number of
// threads, a row is the same bits.
static void row_is_the_same_bits_in_every_batch(void **state)
{
    struct devices *devices = *state;
    static const struct shape batches[] = {
        {130, 96, 64}, {70, 600, 300}, {61, 40, 513}, {50, 1030, 70}, {300, 33, 700}};
    static const size_t parts[] = {1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 24, 25, 49};
    for (size_t s = 0; s < sizeof batches / sizeof batches[0]; s++)
        for (size_t i = 0; i < devices->count; i += 2) { // one thread, then three
            if (!keeps_product_bits(devices->cpu[i]))
                continue;
            struct test_memory memory = {.stream = s};
            struct layer layer = layer_random(&memory, batches[s]);
            float *whole = forward(&memory, devices->cpu[i], &layer, BIAS);
            float *grad = backward_input(&memory, devices->cpu[i], &layer, 0);
            for (size_t p = 0; p < sizeof parts / sizeof parts[0]; p++)
                for (int way = BIAS; way <= (BIAS | PACKED); way += PACKED) {
                    struct layer part = layer;
                    size_t row = p % 3;
                    part.shape.rows = parts[p];
                    part.out_count = parts[p] * layer.shape.out_width;
                    part.x_count = parts[p] * layer.shape.in_width;
                    part.x = layer.x + row * layer.shape.in_width;
                    part.grad_out = layer.grad_out + row * layer.shape.out_width;
                    struct device *device = devices->cpu[i + p % 2];
                    assert_memory_equal(forward(&memory, device, &part, way),
                                        whole + row * layer.shape.out_width,
                                        part.out_count * sizeof(float));
                    assert_memory_equal(backward_input(&memory, device, &part, 0),
                                        grad + row * layer.shape.in_width,
                                        part.x_count * sizeof(float));
                }
            memory_release(&memory);
        }
}

static bool multiplies_and_adds_in_one(const struct device *device)
{
    char text[64];
    device_describe(device, text, sizeof text);
    return strstr(text, "plain") == NULL;
}

// A cluster of AVX2 and AVX-512 machines computes the same products.
static void lanes_do_not_change_the_bits(void **state)
{
    struct devices *devices = *state;
    for (size_t s = 0; s < SHAPES; s++) {
        struct test_memory memory = {.stream = s};
        struct layer layer = layer_random(&memory, shapes[s]);
        float *first = NULL;
        for (size_t i = 0; i < devices->count; i++) {
            if (!multiplies_and_adds_in_one(devices->cpu[i]))
                continue;
            float *weight = backward_weight(&memory, devices->cpu[i], &layer, true).weight;
            first = first ? first : weight;
            assert_memory_equal(weight, first, layer.weight_count * sizeof *weight);
        }
        memory_release(&memory);
    }
}

// Half weights are widened, which is exact: the same bits as a float32 weight of those values
// (unless both factors are rounded to bfloat16, see test_linear_bf16.c).
static void half_weight_equals_its_widened_copy(void **state)
{
    struct devices *devices = *state;
    for (size_t s = 0; s < SHAPES; s++)
        for (size_t i = 0; i < devices->count; i++)
            for (int way = 0; way < 4; way++) {
                enum dtype dtype = way & 1 ? DTYPE_BF16 : DTYPE_F16;
                bool packed = way & 2;
                if (!keeps_product_bits(devices->cpu[i]) ||
                    (dtype == DTYPE_BF16 && multiplies_bf16(devices->cpu[i])))
                    continue;
                struct test_memory memory = {.stream = s};
                struct device *device = devices->cpu[i];
                struct layer layer = layer_random(&memory, shapes[s]);
                struct tensor half = memory_tensor(&memory, dtype, layer.weight_count);
                convert_to_f32(layer.weight, half.data, dtype, layer.weight_count);
                struct linear linear = linear_of(&layer, true);
                linear.weight = half;
                float *out = memory_floats(&memory, layer.out_count);
                float *grad = memory_floats(&memory, layer.x_count);
                if (packed)
                    device->ops->linear_pack(device, &linear);
                device->ops->linear_forward(device,
                                            &(struct linear_forward){.out = f32(out),
                                                                     .x = f32(layer.x),
                                                                     .linear = &linear,
                                                                     .rows = layer.shape.rows});
                device->ops->linear_backward_input(
                    device, &(struct linear_backward_input){.grad_x = f32(grad),
                                                            .grad_out = f32(layer.grad_out),
                                                            .linear = &linear,
                                                            .rows = layer.shape.rows});
                device->ops->linear_unpack(device, &linear);
                assert_memory_equal(out, forward(&memory, device, &layer, BIAS),
                                    layer.out_count * sizeof(float));
                assert_memory_equal(grad, backward_input(&memory, device, &layer, 0),
                                    layer.x_count * sizeof(float));
                memory_release(&memory);
            }
}

static struct linear_forward half_layer(struct test_memory *memory, struct linear *linear,
                                        enum dtype dtype, size_t rows)
{
    linear->out_width = 31;
    linear->in_width = 33;
    linear->weight = memory_tensor(memory, dtype, linear->out_width * linear->in_width);
    linear->bias = memory_tensor(memory, dtype, linear->out_width);
    return (struct linear_forward){.x = memory_tensor(memory, dtype, rows * linear->in_width),
                                   .out = memory_tensor(memory, dtype, rows * linear->out_width),
                                   .linear = linear,
                                   .rows = rows};
}

static void float16_activations_are_those_of_ref(void **state)
{
    struct devices *devices = *state;
    struct test_memory memory = {0}, other = {0};
    struct linear linear = {0}, twin = {0};
    size_t rows = 5;
    struct linear_forward expected = half_layer(&memory, &linear, DTYPE_F16, rows);
    struct linear_forward got = half_layer(&other, &twin, DTYPE_F16, rows);
    devices->ref->ops->linear_forward(devices->ref, &expected);
    for (size_t i = 0; i < devices->count; i++) {
        devices->cpu[i]->ops->linear_forward(devices->cpu[i], &got);
        assert_memory_equal(got.out.data, expected.out.data,
                            rows * linear.out_width * dtype_bytes(DTYPE_F16));
    }
    memory_release(&memory);
    memory_release(&other);
}

struct differentiated {
    struct device *device;
    struct layer *layer;
    float *out, *weights;
};

static double linear_loss(void *context)
{
    struct differentiated *d = context;
    struct linear linear = linear_of(d->layer, true);
    d->device->ops->linear_forward(d->device,
                                   &(struct linear_forward){.out = f32(d->out),
                                                            .x = f32(d->layer->x),
                                                            .linear = &linear,
                                                            .rows = d->layer->shape.rows});
    return weighted_sum(d->out, d->weights, d->layer->out_count);
}

static void gradients_are_those_of_differences(void **state)
{
    struct devices *devices = *state;
    struct test_memory memory = {0};
    struct layer layer = layer_random(&memory, (struct shape){5, 7, 9});
    struct differentiated d = {.device = devices->ref,
                               .layer = &layer,
                               .out = memory_floats(&memory, layer.out_count),
                               .weights = layer.grad_out};
    memset(layer.before_weight, 0, layer.weight_count * sizeof(float));
    memset(layer.before_bias, 0, layer.shape.out_width * sizeof(float));
    float *grad_x = backward_input(&memory, devices->ref, &layer, 0);
    struct weight_grads grads = backward_weight(&memory, devices->ref, &layer, true);
    assert_gradient("x", linear_loss, &d, layer.x, layer.x_count, grad_x, 1e-3);
    assert_gradient("weight", linear_loss, &d, layer.weight, layer.weight_count, grads.weight,
                    1e-3);
    assert_gradient("bias", linear_loss, &d, layer.bias, layer.shape.out_width, grads.bias, 1e-3);
    memory_release(&memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forward_agrees_with_ref),
        cmocka_unit_test(backward_input_agrees_with_ref),
        cmocka_unit_test(backward_weight_adds_and_agrees_with_ref),
        cmocka_unit_test(integers_are_exact),
        cmocka_unit_test(row_is_the_same_bits_in_every_batch),
        cmocka_unit_test(lanes_do_not_change_the_bits),
        cmocka_unit_test(half_weight_equals_its_widened_copy),
        cmocka_unit_test(float16_activations_are_those_of_ref),
        cmocka_unit_test(gradients_are_those_of_differences),
    };
    return cmocka_run_group_tests(tests, devices_create, devices_destroy);
}
