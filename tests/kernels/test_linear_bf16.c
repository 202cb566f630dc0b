// SPDX-License-Identifier: Apache-2.0
// Products with bfloat16 factors. Those that are bfloat16 already lose nothing before the sum, so
// the bound is that of a chain of float32 (see test_linear.c); others may be rounded first, and are
// then exactly what their rounded copies give.
#include "harness.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

struct shape {
    size_t rows, out_width, in_width;
};

static const struct shape shapes[] = {
    {1, 1, 2},     {1, 31, 34},  {31, 33, 1},  {33, 31, 31}, {7, 64, 80},   {2, 5, 300},
    {0, 8, 8},     {3, 17, 0},   {48, 48, 48}, {130, 96, 6}, {25, 300, 60}, {61, 40, 65},
    {260, 33, 34}, {13, 530, 2}, {601, 9, 8},  {8, 130, 70}, {3, 20, 1000}, {30, 30, 900},
    {901, 20, 30}, {1, 300, 64}, {2, 300, 64},
};

enum { SHAPES = sizeof shapes / sizeof shapes[0] };

static double chain_bound(size_t depth)
{
    return (2 * (double)depth + 4) * ROUNDOFF;
}

// The same numbers twice: as bfloat16 and widened.
struct values {
    struct tensor half, wide;
    size_t count;
};

static struct values values_random(struct test_memory *memory, size_t count)
{
    struct values v = {.half = memory_tensor(memory, DTYPE_BF16, count), .count = count};
    v.wide = f32(memory_floats(memory, count));
    convert_to_f32(v.wide.data, v.half.data, DTYPE_BF16, count);
    return v;
}

static struct values values_absolute(struct test_memory *memory, const struct values *from)
{
    struct values v = {.wide = f32(memory_copy(memory, from->wide.data, from->count)),
                       .count = from->count};
    for (size_t i = 0; i < v.count; i++)
        ((float *)v.wide.data)[i] = fabsf(((float *)v.wide.data)[i]);
    return v;
}

struct layer {
    struct values x, weight, bias, grad_out, before_out, before_x, before_weight;
    struct shape shape;
};

static struct layer layer_random(struct test_memory *memory, struct shape shape)
{
    size_t x = shape.rows * shape.in_width, out = shape.rows * shape.out_width;
    size_t weight = shape.out_width * shape.in_width;
    return (struct layer){.shape = shape,
                          .x = values_random(memory, x),
                          .weight = values_random(memory, weight),
                          .bias = values_random(memory, shape.out_width),
                          .grad_out = values_random(memory, out),
                          .before_out = values_random(memory, out),
                          .before_x = values_random(memory, x),
                          .before_weight = values_random(memory, weight)};
}

static struct layer layer_absolute(struct test_memory *memory, const struct layer *layer)
{
    return (struct layer){.shape = layer->shape,
                          .x = values_absolute(memory, &layer->x),
                          .weight = values_absolute(memory, &layer->weight),
                          .bias = values_absolute(memory, &layer->bias),
                          .grad_out = values_absolute(memory, &layer->grad_out),
                          .before_out = values_absolute(memory, &layer->before_out),
                          .before_x = values_absolute(memory, &layer->before_x),
                          .before_weight = values_absolute(memory, &layer->before_weight)};
}

// How a product is asked for. WIDE_WEIGHT is what the reference gets.
enum { ACCUMULATE = 1, PACKED = 2, HALF_X = 4, HALF_OUT = 8, WAYS = 16, WIDE_WEIGHT = 16 };

static struct tensor result_begin(struct test_memory *memory, const struct values *before, int way)
{
    struct tensor out = f32(memory_copy(memory, before->wide.data, before->count));
    if (!(way & ACCUMULATE))
        out.data = memory_floats(memory, before->count);
    if (!(way & HALF_OUT))
        return out;
    struct tensor half = memory_tensor(memory, DTYPE_BF16, before->count);
    convert_from_f32(half.data, DTYPE_BF16, out.data, before->count);
    return half;
}

static float *result_end(struct test_memory *memory, struct tensor out, size_t count)
{
    float *wide = memory_floats(memory, count);
    convert_to_f32(wide, out.data, out.dtype, count);
    return wide;
}

static struct linear linear_of(const struct layer *layer, int way)
{
    bool wide = way & WIDE_WEIGHT;
    return (struct linear){.weight = wide ? layer->weight.wide : layer->weight.half,
                           .bias = wide ? layer->bias.wide : layer->bias.half,
                           .out_width = layer->shape.out_width,
                           .in_width = layer->shape.in_width};
}

static float *forward(struct test_memory *memory, struct device *device, const struct layer *layer,
                      int way)
{
    struct linear linear = linear_of(layer, way);
    struct tensor out = result_begin(memory, &layer->before_out, way);
    if (way & PACKED)
        device->ops->linear_pack(device, &linear);
    device->ops->linear_forward(
        device, &(struct linear_forward){.out = out,
                                         .x = way & HALF_X ? layer->x.half : layer->x.wide,
                                         .linear = &linear,
                                         .rows = layer->shape.rows,
                                         .accumulate = way & ACCUMULATE});
    device->ops->linear_unpack(device, &linear);
    return result_end(memory, out, layer->before_out.count);
}

static float *backward_input(struct test_memory *memory, struct device *device,
                             const struct layer *layer, int way)
{
    struct linear linear = linear_of(layer, way);
    struct tensor grad_x = result_begin(memory, &layer->before_x, way);
    struct tensor grad_out = way & HALF_X ? layer->grad_out.half : layer->grad_out.wide;
    device->ops->linear_backward_input(
        device, &(struct linear_backward_input){.grad_x = grad_x,
                                                .grad_out = grad_out,
                                                .linear = &linear,
                                                .rows = layer->shape.rows,
                                                .accumulate = way & ACCUMULATE});
    return result_end(memory, grad_x, layer->before_x.count);
}

// grad_weight, then grad_bias. Both accumulate and are float32.
static float *backward_weight(struct test_memory *memory, struct device *device,
                              const struct layer *layer, int way)
{
    size_t weights = layer->before_weight.count, outs = layer->shape.out_width;
    float *grads = memory_floats(memory, weights + outs);
    convert_to_f32(grads, layer->before_weight.wide.data, DTYPE_F32, weights);
    convert_to_f32(grads + weights, layer->bias.wide.data, DTYPE_F32, outs);
    struct linear_backward_weight a = {.grad_weight = f32(grads),
                                       .grad_bias = f32(grads + weights),
                                       .grad_out = way & HALF_OUT ? layer->grad_out.half
                                                                  : layer->grad_out.wide,
                                       .x = way & HALF_X ? layer->x.half : layer->x.wide,
                                       .product = way & WIDE_WEIGHT ? DTYPE_F32 : DTYPE_BF16,
                                       .rows = layer->shape.rows,
                                       .out_width = outs,
                                       .in_width = layer->shape.in_width};
    device->ops->linear_backward_weight(device, &a);
    return grads;
}

// Rounding the result to bfloat16 errs by 2^-9 of it, which is within the sum of absolute values.
static double rounding_bound(int way)
{
    return way & HALF_OUT ? 0x1p-8 : 0;
}

static void forward_agrees_with_ref(void **state)
{
    struct devices *devices = *state;
    for (size_t s = 0; s < SHAPES; s++)
        for (int way = 0; way < WAYS; way++) {
            struct test_memory memory = {.stream = s};
            struct layer layer = layer_random(&memory, shapes[s]);
            struct layer sizes = layer_absolute(&memory, &layer);
            int plainly = (way & ACCUMULATE) | WIDE_WEIGHT;
            float *expected = forward(&memory, devices->ref, &layer, plainly);
            float *bound = forward(&memory, devices->ref, &sizes, plainly);
            for (size_t i = 0; i < devices->count; i++)
                assert_within("out", forward(&memory, devices->cpu[i], &layer, way), expected,
                              bound, layer.before_out.count,
                              chain_bound(shapes[s].in_width) + rounding_bound(way));
            memory_release(&memory);
        }
}

static void backward_input_agrees_with_ref(void **state)
{
    struct devices *devices = *state;
    for (size_t s = 0; s < SHAPES; s++)
        for (int way = 0; way < WAYS; way++) {
            struct test_memory memory = {.stream = s};
            struct layer layer = layer_random(&memory, shapes[s]);
            struct layer sizes = layer_absolute(&memory, &layer);
            int plainly = (way & ACCUMULATE) | WIDE_WEIGHT;
            float *expected = backward_input(&memory, devices->ref, &layer, plainly);
            float *bound = backward_input(&memory, devices->ref, &sizes, plainly);
            for (size_t i = 0; i < devices->count && !(way & PACKED); i++)
                assert_within("grad_x", backward_input(&memory, devices->cpu[i], &layer, way),
                              expected, bound, layer.before_x.count,
                              chain_bound(shapes[s].out_width) + rounding_bound(way));
            memory_release(&memory);
        }
}

static void backward_weight_agrees_with_ref(void **state)
{
    struct devices *devices = *state;
    for (size_t s = 0; s < SHAPES; s++)
        for (int way = 0; way < WAYS; way += HALF_X) {
            struct test_memory memory = {.stream = s};
            struct layer layer = layer_random(&memory, shapes[s]);
            struct layer sizes = layer_absolute(&memory, &layer);
            float *expected = backward_weight(&memory, devices->ref, &layer, WIDE_WEIGHT);
            float *bound = backward_weight(&memory, devices->ref, &sizes, WIDE_WEIGHT);
            for (size_t i = 0; i < devices->count; i++)
                assert_within("gradients", backward_weight(&memory, devices->cpu[i], &layer, way),
                              expected, bound, layer.before_weight.count + shapes[s].out_width,
                              chain_bound(shapes[s].rows));
            memory_release(&memory);
        }
}

// Factors with more digits than bfloat16 has, and the same after rounding.
static void float32_factors_are_rounded_first(void **state)
{
    struct devices *devices = *state;
    for (size_t s = 0; s < SHAPES; s++)
        for (size_t i = 0; i < devices->count; i++) {
            if (!multiplies_bf16(devices->cpu[i]))
                continue;
            struct test_memory memory = {.stream = s};
            struct layer rounded = layer_random(&memory, shapes[s]), precise = rounded;
            precise.x.wide = f32(memory_random(&memory, rounded.x.count));
            precise.grad_out.wide = f32(memory_random(&memory, rounded.grad_out.count));
            convert_from_f32(rounded.x.half.data, DTYPE_BF16, precise.x.wide.data, rounded.x.count);
            convert_from_f32(rounded.grad_out.half.data, DTYPE_BF16, precise.grad_out.wide.data,
                             rounded.grad_out.count);
            struct device *device = devices->cpu[i];
            if (shapes[s].in_width % 2 == 0)
                assert_memory_equal(forward(&memory, device, &precise, 0),
                                    forward(&memory, device, &rounded, HALF_X),
                                    rounded.before_out.count * sizeof(float));
            assert_memory_equal(backward_input(&memory, device, &precise, 0),
                                backward_input(&memory, device, &rounded, HALF_X),
                                rounded.before_x.count * sizeof(float));
            assert_memory_equal(backward_weight(&memory, device, &precise, 0),
                                backward_weight(&memory, device, &rounded, HALF_X | HALF_OUT),
                                rounded.before_weight.count * sizeof(float));
            memory_release(&memory);
        }
}

static struct values part_of(const struct values *values, size_t at, size_t count)
{
    struct values part = *values;
    part.half.data = (uint16_t *)values->half.data + at;
    part.wide.data = (float *)values->wide.data + at;
    part.count = count;
    return part;
}

// The contract that generation stands on: alone, in any batch, packed or not, for any number of
// threads, a row is the same bits.
static void row_is_the_same_bits_in_every_batch(void **state)
{
    struct devices *devices = *state;
    static const struct shape batches[] = {
        {130, 96, 64}, {70, 300, 30}, {61, 40, 512}, {50, 530, 18}, {52, 33, 900}};
    static const size_t parts[] = {1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 24, 25, 49};
    for (size_t s = 0; s < sizeof batches / sizeof batches[0]; s++)
        for (size_t i = 0; i < devices->count; i += 2) { // one thread, then three
            struct test_memory memory = {.stream = s};
            struct layer layer = layer_random(&memory, batches[s]);
            size_t outs = batches[s].out_width, ins = batches[s].in_width;
            float *whole = forward(&memory, devices->cpu[i], &layer, 0);
            float *grad = backward_input(&memory, devices->cpu[i], &layer, 0);
            for (size_t p = 0; p < sizeof parts / sizeof parts[0]; p++)
                for (int way = 0; way <= PACKED; way += PACKED) {
                    struct layer part = layer;
                    size_t row = p % 3, rows = parts[p];
                    part.shape.rows = rows;
                    part.x = part_of(&layer.x, row * ins, rows * ins);
                    part.before_x = part_of(&layer.before_x, row * ins, rows * ins);
                    part.grad_out = part_of(&layer.grad_out, row * outs, rows * outs);
                    part.before_out = part_of(&layer.before_out, row * outs, rows * outs);
                    struct device *device = devices->cpu[i + p % 2];
                    assert_memory_equal(forward(&memory, device, &part, way), whole + row * outs,
                                        rows * outs * sizeof(float));
                    assert_memory_equal(backward_input(&memory, device, &part, 0), grad + row * ins,
                                        rows * ins * sizeof(float));
                }
            memory_release(&memory);
        }
}

// The instruction computes what the chain in gemm.h says.
static void instruction_and_its_emulation_give_the_same_bits(void **state)
{
    struct devices *devices = *state;
    for (size_t s = 0; s < SHAPES; s++) {
        struct test_memory memory = {.stream = s};
        struct layer layer = layer_random(&memory, shapes[s]);
        float *first[3] = {NULL};
        const size_t counts[] = {layer.before_out.count, layer.before_x.count,
                                 layer.before_weight.count};
        for (size_t i = 0; i < devices->count; i++) {
            struct device *device = devices->cpu[i];
            if (!multiplies_bf16(device))
                continue;
            float *results[] = {forward(&memory, device, &layer, PACKED),
                                backward_input(&memory, device, &layer, 0),
                                backward_weight(&memory, device, &layer, 0)};
            for (size_t r = 0; r < 3; r++) {
                first[r] = first[r] ? first[r] : results[r];
                assert_memory_equal(results[r], first[r], counts[r] * sizeof(float));
            }
        }
        memory_release(&memory);
    }
}

// One element of a product, step by step.
static void product_is_the_chain_of_the_contract(void **state)
{
    struct devices *devices = *state;
    struct test_memory memory = {0};
    struct layer layer = layer_random(&memory, (struct shape){3, 40, 600});
    const float *x = layer.x.wide.data, *weight = layer.weight.wide.data;
    for (size_t i = 0; i < devices->count; i++) {
        if (!multiplies_bf16(devices->cpu[i]))
            continue;
        float *out = forward(&memory, devices->cpu[i], &layer, 0);
        for (size_t row = 0; row < 3; row++)
            for (size_t n = 0; n < 40; n++) {
                float sum = ((const float *)layer.bias.wide.data)[n];
                for (size_t k = 0; k < 600; k += 2) {
                    const float *a = x + row * 600 + k, *b = weight + n * 600 + k;
                    sum = fmaf(a[0], b[0], fmaf(a[1], b[1], sum));
                }
                if (out[row * 40 + n] != sum)
                    fail_msg("out[%zu, %zu] is %.9g, the chain gives %.9g", row, n,
                             (double)out[row * 40 + n], (double)sum);
            }
    }
    memory_release(&memory);
}

static void infinities_and_nan_stay(void **state)
{
    struct devices *devices = *state;
    for (size_t i = 0; i < devices->count; i++) {
        struct test_memory memory = {0};
        struct layer layer = layer_random(&memory, (struct shape){3, 40, 64});
        float *x = layer.x.wide.data;
        x[5] = NAN;
        x[64 + 6] = INFINITY;
        float *out = forward(&memory, devices->cpu[i], &layer, 0);
        for (size_t n = 0; n < 40; n++) {
            assert_true(isnan(out[n]));
            assert_true(isinf(out[40 + n]));
            assert_true(isfinite(out[80 + n]));
        }
        memory_release(&memory);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forward_agrees_with_ref),
        cmocka_unit_test(backward_input_agrees_with_ref),
        cmocka_unit_test(backward_weight_agrees_with_ref),
        cmocka_unit_test(float32_factors_are_rounded_first),
        cmocka_unit_test(row_is_the_same_bits_in_every_batch),
        cmocka_unit_test(instruction_and_its_emulation_give_the_same_bits),
        cmocka_unit_test(product_is_the_chain_of_the_contract),
        cmocka_unit_test(infinities_and_nan_stay),
    };
    return cmocka_run_group_tests(tests, devices_create, devices_destroy);
}
