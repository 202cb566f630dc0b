// SPDX-License-Identifier: Apache-2.0
#include "harness.h"

#include <math.h>
#include <string.h>

static const size_t counts[] = {1, 31, 33, 1000, 0, 40000};

enum { COUNTS = sizeof counts / sizeof counts[0], STEPS = 5 };

struct moments {
    double parameter, moment1, moment2;
};

// The formulas of the contract, in double, with the parameters as the float32 they are given as.
static void step_in_double(struct moments *s, double grad, const struct adamw *a)
{
    double g = grad * a->grad_scale;
    s->parameter *= 1 - (double)a->learning_rate * a->weight_decay;
    s->moment1 += (g - s->moment1) * (1 - (double)a->beta1);
    s->moment2 = a->beta2 * s->moment2 + (1 - (double)a->beta2) * g * g;
    double rate = a->learning_rate / (1 - pow(a->beta1, (double)a->step));
    double root = sqrt(s->moment2) / sqrt(1 - pow(a->beta2, (double)a->step));
    s->parameter -= rate * s->moment1 / (root + a->epsilon);
}

// Each step rounds a parameter once (u) and a moment two or three times.
static void steps_agree_with_double(void **state)
{
    struct devices *devices = *state;
    for (size_t c = 0; c < COUNTS; c++)
        for (size_t i = 0; i <= devices->count; i++) {
            struct device *device = i < devices->count ? devices->cpu[i] : devices->ref;
            struct test_memory memory = {.stream = c};
            struct adamw a = {.parameter = memory_random(&memory, counts[c]),
                              .moment1 = memory_floats(&memory, counts[c]),
                              .moment2 = memory_floats(&memory, counts[c]),
                              .count = counts[c],
                              .grad_scale = 0.5f,
                              .learning_rate = 1e-2f,
                              .beta1 = 0.9f,
                              .beta2 = 0.999f,
                              .epsilon = 1e-8f,
                              .weight_decay = 0.1f};
            float *first = memory_copy(&memory, a.parameter, counts[c]);
            float *grads[STEPS];
            memset(a.moment1, 0, counts[c] * sizeof(float));
            memset(a.moment2, 0, counts[c] * sizeof(float));
            for (a.step = 1; a.step <= STEPS; a.step++) {
                grads[a.step - 1] = memory_random(&memory, counts[c]);
                a.grad = grads[a.step - 1];
                device->ops->adamw(device, &a);
            }
            for (size_t j = 0; j < counts[c]; j++) {
                struct moments s = {.parameter = first[j]};
                struct adamw b = a;
                for (b.step = 1; b.step <= STEPS; b.step++)
                    step_in_double(&s, grads[b.step - 1][j], &b);
                assert_true(fabs(s.parameter - a.parameter[j]) <= 1e-6 * (1 + fabs(s.parameter)));
                assert_true(fabs(s.moment1 - a.moment1[j]) <= 2e-7);
                assert_true(fabs(s.moment2 - a.moment2[j]) <= 1e-6 * s.moment2);
            }
            memory_release(&memory);
        }
}

// From zero moments the first step is lr sign(grad), whatever the gradient's size.
static void first_step_is_the_learning_rate(void **state)
{
    struct devices *devices = *state;
    for (size_t i = 0; i < devices->count; i++) {
        struct test_memory memory = {0};
        float *parameter = memory_copy(&memory, (float[]){1, 1, 1}, 3);
        float *moment1 = memory_copy(&memory, (float[3]){0}, 3);
        float *moment2 = memory_copy(&memory, (float[3]){0}, 3);
        const float *grad = memory_copy(&memory, (float[]){1e-3f, -50, 0}, 3);
        const float expected[] = {0.9f, 1.1f, 1};
        devices->cpu[i]->ops->adamw(devices->cpu[i], &(struct adamw){.parameter = parameter,
                                                                     .moment1 = moment1,
                                                                     .moment2 = moment2,
                                                                     .grad = grad,
                                                                     .count = 3,
                                                                     .grad_scale = 1,
                                                                     .learning_rate = 0.1f,
                                                                     .beta1 = 0.9f,
                                                                     .beta2 = 0.95f,
                                                                     .epsilon = 1e-10f,
                                                                     .step = 1});
        assert_close("parameter", parameter, expected, 3, 1e-6, 0);
        memory_release(&memory);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(steps_agree_with_double),
        cmocka_unit_test(first_step_is_the_learning_rate),
    };
    return cmocka_run_group_tests(tests, devices_create, devices_destroy);
}
