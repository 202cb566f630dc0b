// SPDX-License-Identifier: Apache-2.0
// Tolerance: the exponential errs by 4 u, its argument (for gelu) by 4 u times its size, which is
// at most 88 where the result is not yet 0; the rest is a dozen roundings.
#include "harness.h"

#include <math.h>
#include <string.h>

struct shape {
    size_t rows, width;
};

static const struct shape shapes[] = {{1, 1}, {31, 33}, {33, 31}, {0, 8}, {3, 1000}, {70, 300}};

enum { SHAPES = sizeof shapes / sizeof shapes[0] };

static float *forward(struct test_memory *memory, struct device *device, float *gate_up,
                      enum activation activation, struct shape shape)
{
    float *out = memory_floats(memory, shape.rows * shape.width);
    device->ops->gated_forward(device, &(struct gated_forward){.out = f32(out),
                                                               .gate_up = f32(gate_up),
                                                               .activation = activation,
                                                               .rows = shape.rows,
                                                               .width = shape.width});
    return out;
}

static void backward(struct device *device, float *grad, float *grad_out, float *gate_up,
                     enum activation activation, struct shape shape)
{
    device->ops->gated_backward(device, &(struct gated_backward){.grad_gate_up = f32(grad),
                                                                 .grad_out = f32(grad_out),
                                                                 .gate_up = f32(gate_up),
                                                                 .activation = activation,
                                                                 .rows = shape.rows,
                                                                 .width = shape.width});
}

static void every_shape_agrees_with_ref(void **state)
{
    struct devices *devices = *state;
    for (size_t s = 0; s < SHAPES; s++)
        for (enum activation activation = 0; activation <= ACTIVATION_GELU_TANH; activation++) {
            struct test_memory memory = {.stream = s};
            size_t count = shapes[s].rows * shapes[s].width;
            float *gate_up = memory_random(&memory, 2 * count);
            float *grad_out = memory_random(&memory, count);
            for (size_t i = 0; i < 2 * count; i++)
                gate_up[i] *= 3;
            float *expected = forward(&memory, devices->ref, gate_up, activation, shapes[s]);
            float *expected_grad = memory_floats(&memory, 2 * count);
            backward(devices->ref, expected_grad, grad_out, gate_up, activation, shapes[s]);
            for (size_t i = 0; i < devices->count; i++) {
                struct device *cpu = devices->cpu[i];
                float *out = forward(&memory, cpu, gate_up, activation, shapes[s]);
                float *grad = memory_floats(&memory, 2 * count);
                backward(cpu, grad, grad_out, gate_up, activation, shapes[s]);
                assert_close("out", out, expected, count, 1e-6, 2e-6);
                assert_close("grad", grad, expected_grad, 2 * count, 1e-5, 2e-6);
                float *in_place = memory_copy(&memory, gate_up, 2 * count);
                backward(cpu, in_place, grad_out, in_place, activation, shapes[s]);
                assert_memory_equal(in_place, grad, 2 * count * sizeof *grad);
            }
            memory_release(&memory);
        }
}

// Far out the activations are 0 or the identity, their slopes 0 or 1: nothing overflows on the way.
static void extremes_are_exact(void **state)
{
    struct devices *devices = *state;
    static const float gates[] = {-1e30f, -1000, -90, 90, 1000, 1e9f};
    for (size_t i = 0; i < devices->count; i++)
        for (enum activation activation = 0; activation <= ACTIVATION_GELU_TANH; activation++)
            for (size_t g = 0; g < sizeof gates / sizeof gates[0]; g++) {
                struct test_memory memory = {0};
                float *gate_up = memory_copy(&memory, (float[]){gates[g], 1}, 2);
                float *grad_out = memory_copy(&memory, (float[]){1}, 1);
                float *grad = memory_floats(&memory, 2);
                float expected = gates[g] > 0 ? gates[g] : 0;
                float *out =
                    forward(&memory, devices->cpu[i], gate_up, activation, (struct shape){1, 1});
                backward(devices->cpu[i], grad, grad_out, gate_up, activation,
                         (struct shape){1, 1});
                assert_close("out", out, &expected, 1, 1e-30, 1e-7);
                assert_close("grad", grad, gates[g] > 0 ? (float[]){1} : (float[]){0}, 1, 1e-30,
                             1e-6);
                memory_release(&memory);
            }
}

static void not_a_number_stays_one(void **state)
{
    struct devices *devices = *state;
    for (size_t i = 0; i < devices->count; i++) {
        struct test_memory memory = {0};
        float *gate_up = memory_copy(&memory, (float[]){NAN, 1}, 2);
        assert_true(isnan(
            *forward(&memory, devices->cpu[i], gate_up, ACTIVATION_SILU, (struct shape){1, 1})));
        memory_release(&memory);
    }
}

struct differentiated {
    struct device *device;
    float *gate_up, *grad_out;
    enum activation activation;
    struct shape shape;
};

static double gated_loss(void *context)
{
    struct differentiated *d = context;
    struct test_memory memory = {0};
    float *out = forward(&memory, d->device, d->gate_up, d->activation, d->shape);
    double loss = weighted_sum(out, d->grad_out, d->shape.rows * d->shape.width);
    memory_release(&memory);
    return loss;
}

static void gradients_are_those_of_differences(void **state)
{
    struct devices *devices = *state;
    for (enum activation activation = 0; activation <= ACTIVATION_GELU_TANH; activation++) {
        struct test_memory memory = {0};
        struct differentiated d = {devices->ref,
                                   memory_random(&memory, 66),
                                   memory_random(&memory, 33),
                                   activation,
                                   {3, 11}};
        float *grad = memory_floats(&memory, 66);
        backward(devices->ref, grad, d.grad_out, d.gate_up, activation, d.shape);
        assert_gradient("gate_up", gated_loss, &d, d.gate_up, 66, grad, 1e-3);
        memory_release(&memory);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_shape_agrees_with_ref),
        cmocka_unit_test(extremes_are_exact),
        cmocka_unit_test(not_a_number_stays_one),
        cmocka_unit_test(gradients_are_those_of_differences),
    };
    return cmocka_run_group_tests(tests, devices_create, devices_destroy);
}
