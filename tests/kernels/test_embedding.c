// SPDX-License-Identifier: Apache-2.0
#include "harness.h"

#include <string.h>

struct shape {
    size_t tokens, vocabulary, width;
    float scale;
};

static const struct shape shapes[] = {{1, 1, 1, 1},     {31, 5, 33, 1},   {0, 3, 8, 1},
                                      {200, 7, 300, 2}, {33, 50, 31, 16}, {100, 1, 129, 0.5f}};

enum { SHAPES = sizeof shapes / sizeof shapes[0] };

// One product per element: the same rounding everywhere.
static void forward_is_that_of_ref(void **state)
{
    struct devices *devices = *state;
    for (size_t s = 0; s < SHAPES; s++)
        for (enum dtype dtype = DTYPE_F32; dtype <= DTYPE_F16; dtype++) {
            struct shape shape = shapes[s];
            struct test_memory memory = {.stream = s};
            size_t count = shape.tokens * shape.width;
            struct embedding_forward a = {
                .weight = memory_tensor(&memory, dtype, shape.vocabulary * shape.width),
                .ids = memory_ints(&memory, shape.tokens, (int32_t)shape.vocabulary),
                .tokens = shape.tokens,
                .width = shape.width,
                .scale = shape.scale};
            float *expected = memory_floats(&memory, count);
            a.out = f32(expected);
            devices->ref->ops->embedding_forward(devices->ref, &a);
            for (size_t i = 0; i < devices->count; i++) {
                float *out = memory_floats(&memory, count);
                a.out = f32(out);
                devices->cpu[i]->ops->embedding_forward(devices->cpu[i], &a);
                assert_memory_equal(out, expected, count * sizeof *out);
            }
            memory_release(&memory);
        }
}

// Ascending tokens, one addition each: ref rounds after each, too, so the bits agree when the scale
// is a power of two.
static void backward_adds_in_token_order(void **state)
{
    struct devices *devices = *state;
    for (size_t s = 0; s < SHAPES; s++) {
        struct shape shape = shapes[s];
        struct test_memory memory = {.stream = s};
        size_t count = shape.vocabulary * shape.width;
        float *before = memory_random(&memory, count);
        struct embedding_backward a = {
            .grad_out = f32(memory_random(&memory, shape.tokens * shape.width)),
            .ids = memory_ints(&memory, shape.tokens, (int32_t)shape.vocabulary),
            .tokens = shape.tokens,
            .vocabulary = shape.vocabulary,
            .width = shape.width,
            .scale = shape.scale};
        float *expected = memory_copy(&memory, before, count);
        a.grad_weight = f32(expected);
        devices->ref->ops->embedding_backward(devices->ref, &a);
        for (size_t i = 0; i < devices->count; i++) {
            float *grad = memory_copy(&memory, before, count);
            a.grad_weight = f32(grad);
            devices->cpu[i]->ops->embedding_backward(devices->cpu[i], &a);
            assert_memory_equal(grad, expected, count * sizeof *grad);
        }
        memory_release(&memory);
    }
}

struct differentiated {
    struct device *device;
    struct embedding_forward *forward;
    const float *weights;
};

static double embedding_loss(void *context)
{
    struct differentiated *d = context;
    d->device->ops->embedding_forward(d->device, d->forward);
    return weighted_sum(d->forward->out.data, d->weights, d->forward->tokens * d->forward->width);
}

static void gradient_is_that_of_differences(void **state)
{
    struct devices *devices = *state;
    struct test_memory memory = {0};
    enum { TOKENS = 9, VOCABULARY = 4, WIDTH = 3 };
    float *weight = memory_random(&memory, VOCABULARY * WIDTH);
    float *grad = memory_floats(&memory, VOCABULARY * WIDTH);
    memset(grad, 0, VOCABULARY * WIDTH * sizeof *grad);
    struct embedding_forward forward = {.out = f32(memory_floats(&memory, TOKENS * WIDTH)),
                                        .weight = f32(weight),
                                        .ids = memory_ints(&memory, TOKENS, VOCABULARY),
                                        .tokens = TOKENS,
                                        .width = WIDTH,
                                        .scale = 3};
    struct embedding_backward backward = {.grad_weight = f32(grad),
                                          .grad_out = f32(memory_random(&memory, TOKENS * WIDTH)),
                                          .ids = forward.ids,
                                          .tokens = TOKENS,
                                          .vocabulary = VOCABULARY,
                                          .width = WIDTH,
                                          .scale = 3};
    struct differentiated d = {devices->ref, &forward, backward.grad_out.data};
    devices->ref->ops->embedding_backward(devices->ref, &backward);
    assert_gradient("weight", embedding_loss, &d, weight, VOCABULARY * WIDTH, grad, 1e-3);
    memory_release(&memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(forward_is_that_of_ref),
        cmocka_unit_test(backward_adds_in_token_order),
        cmocka_unit_test(gradient_is_that_of_differences),
    };
    return cmocka_run_group_tests(tests, devices_create, devices_destroy);
}
