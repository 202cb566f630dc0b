// SPDX-License-Identifier: Apache-2.0
// Tolerance: a probability errs by the exponential's 4 u, its argument's rounding (u times the
// logits' range, below 64) and the sum's; a loss by those relative to 1 plus u times the logits.
#include "harness.h"

#include <math.h>
#include <string.h>

struct shape {
    size_t rows, vocabulary;
};

static const struct shape shapes[] = {{1, 1}, {31, 33}, {33, 31}, {0, 8}, {7, 1000}, {3, 40000}};

enum { SHAPES = sizeof shapes / sizeof shapes[0] };

static float *losses(struct test_memory *memory, struct device *device, float *logits,
                     const int32_t *targets, struct shape shape, bool backward)
{
    float *out = memory_floats(memory, shape.rows);
    device->ops->cross_entropy(device, &(struct cross_entropy){.logits = f32(logits),
                                                               .losses = out,
                                                               .targets = targets,
                                                               .rows = shape.rows,
                                                               .vocabulary = shape.vocabulary,
                                                               .grad_scale = 0.25f,
                                                               .backward = backward});
    return out;
}

static void every_shape_agrees_with_ref(void **state)
{
    struct devices *devices = *state;
    for (size_t s = 0; s < SHAPES; s++) {
        struct test_memory memory = {.stream = s};
        size_t count = shapes[s].rows * shapes[s].vocabulary;
        float *logits = memory_random(&memory, count);
        for (size_t i = 0; i < count; i++)
            logits[i] *= 5;
        int32_t *targets = memory_ints(&memory, shapes[s].rows, (int32_t)shapes[s].vocabulary);
        float *expected_grad = memory_copy(&memory, logits, count);
        float *expected = losses(&memory, devices->ref, expected_grad, targets, shapes[s], true);
        for (size_t i = 0; i < devices->count; i++) {
            float *grad = memory_copy(&memory, logits, count);
            float *only = losses(&memory, devices->cpu[i], grad, targets, shapes[s], false);
            assert_memory_equal(grad, logits, count * sizeof *grad);
            float *both = losses(&memory, devices->cpu[i], grad, targets, shapes[s], true);
            assert_memory_equal(only, both, shapes[s].rows * sizeof *only);
            assert_close("losses", both, expected, shapes[s].rows, 5e-6, 1e-6);
            assert_close("grad", grad, expected_grad, count, 1e-7, 5e-6);
        }
        memory_release(&memory);
    }
}

static void row_is_the_same_bits_in_every_batch(void **state)
{
    struct devices *devices = *state;
    struct test_memory memory = {0};
    struct shape shape = {31, 33}, one = {1, 33};
    float *logits = memory_random(&memory, 31 * 33);
    int32_t *targets = memory_ints(&memory, 31, 33);
    for (size_t i = 0; i < devices->count; i++) {
        float *whole = memory_copy(&memory, logits, 31 * 33);
        float *rows = memory_copy(&memory, logits, 31 * 33);
        float *together = losses(&memory, devices->cpu[i], whole, targets, shape, true);
        for (size_t row = 0; row < 31; row++) {
            float *alone =
                losses(&memory, devices->cpu[i], rows + row * 33, targets + row, one, true);
            assert_memory_equal(alone, together + row, sizeof *alone);
        }
        assert_memory_equal(rows, whole, 31 * 33 * sizeof *rows);
    }
    memory_release(&memory);
}

// Masked vocabulary is -infinity, large logits must not overflow.
static void infinite_and_huge_logits_work(void **state)
{
    struct devices *devices = *state;
    for (size_t i = 0; i < devices->count; i++) {
        struct test_memory memory = {0};
        float *logits =
            memory_copy(&memory, (float[]){30000, -INFINITY, 29999, -30000, -INFINITY}, 5);
        int32_t *target = memory_ints(&memory, 1, 1);
        *target = 2;
        float *loss = losses(&memory, devices->cpu[i], logits, target, (struct shape){1, 5}, true);
        const float expected[] = {1.31326169f}; // 1 + log(1 + 1/e)
        const float grad[] = {0.25f * 0.731058579f, 0, 0.25f * (0.268941421f - 1), 0, 0};
        assert_close("loss", loss, expected, 1, 2e-7, 0);
        assert_close("grad", logits, grad, 5, 1e-7, 0);
        memory_release(&memory);
    }
}

static void not_a_number_shows_in_the_loss(void **state)
{
    struct devices *devices = *state;
    for (size_t i = 0; i < devices->count; i++)
        for (size_t at = 0; at < 33; at++) {
            struct test_memory memory = {0};
            float *logits = memory_random(&memory, 33);
            int32_t *target = memory_ints(&memory, 1, 1);
            *target = 7;
            logits[at] = NAN;
            assert_true(isnan(
                *losses(&memory, devices->cpu[i], logits, target, (struct shape){1, 33}, false)));
            memory_release(&memory);
        }
}

struct differentiated {
    struct device *device;
    float *logits;
    int32_t *targets;
};

static double mean_loss(void *context)
{
    struct differentiated *d = context;
    struct test_memory memory = {0};
    float *out = losses(&memory, d->device, d->logits, d->targets, (struct shape){4, 9}, false);
    double loss = 0;
    for (size_t i = 0; i < 4; i++)
        loss += 0.25 * out[i];
    memory_release(&memory);
    return loss;
}

static void gradient_is_that_of_differences(void **state)
{
    struct devices *devices = *state;
    struct test_memory memory = {0};
    struct differentiated d = {devices->ref, memory_random(&memory, 36),
                               memory_ints(&memory, 4, 9)};
    float *grad = memory_copy(&memory, d.logits, 36);
    losses(&memory, devices->ref, grad, d.targets, (struct shape){4, 9}, true);
    assert_gradient("logits", mean_loss, &d, d.logits, 36, grad, 1e-4);
    memory_release(&memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_shape_agrees_with_ref),
        cmocka_unit_test(row_is_the_same_bits_in_every_batch),
        cmocka_unit_test(infinite_and_huge_logits_work),
        cmocka_unit_test(not_a_number_shows_in_the_loss),
        cmocka_unit_test(gradient_is_that_of_differences),
    };
    return cmocka_run_group_tests(tests, devices_create, devices_destroy);
}
