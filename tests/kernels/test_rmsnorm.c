// SPDX-License-Identifier: Apache-2.0
// Tolerance: a mean of D squares in float32 errs by at most D u, spread over lanes by D u / 4 or
// less; 4,096 / 4 * 2^-24 = 6e-5 is the worst case and random signs leave its square root, so 4e-6
// relative to the sizes involved is a bound with room.
#include "harness.h"

#include <math.h>
#include <string.h>

struct shape {
    size_t rows, width;
    float offset;
    enum dtype weight;
};

static const struct shape shapes[] = {{1, 1, 0, DTYPE_F32},    {31, 33, 1, DTYPE_F32},
                                      {33, 31, 0, DTYPE_BF16}, {0, 8, 0, DTYPE_F32},
                                      {300, 64, 0, DTYPE_F16}, {5, 896, 0, DTYPE_BF16},
                                      {65, 257, 1, DTYPE_F32}, {2, 4096, 0, DTYPE_F32}};

enum { SHAPES = sizeof shapes / sizeof shapes[0] };

struct norm {
    struct shape shape;
    struct tensor weight;
    float *x, *grad_out, *grad_x, *grad_weight; // the last two as they are before backward
    size_t count;
};

struct result {
    float *out, *rstd, *grad_x, *grad_weight;
};

static struct norm norm_random(struct test_memory *memory, const struct shape *shape)
{
    struct norm norm = {.shape = *shape, .count = shape->rows * shape->width};
    norm.weight = memory_tensor(memory, shape->weight, shape->width);
    norm.x = memory_random(memory, norm.count);
    norm.grad_out = memory_random(memory, norm.count);
    norm.grad_x = memory_random(memory, norm.count);
    norm.grad_weight = memory_random(memory, shape->width);
    return norm;
}

static void forward(struct device *device, const struct norm *n, float *out, float *rstd)
{
    device->ops->rmsnorm_forward(device,
                                 &(struct rmsnorm_forward){.out = f32(out),
                                                           .rstd = rstd,
                                                           .x = f32(n->x),
                                                           .weight = n->weight,
                                                           .rows = n->shape.rows,
                                                           .width = n->shape.width,
                                                           .epsilon = 1e-6f,
                                                           .weight_offset = n->shape.offset});
}

static struct result run(struct test_memory *memory, struct device *device, const struct norm *n)
{
    struct result result = {.out = memory_floats(memory, n->count),
                            .rstd = memory_floats(memory, n->shape.rows),
                            .grad_x = memory_copy(memory, n->grad_x, n->count),
                            .grad_weight = memory_copy(memory, n->grad_weight, n->shape.width)};
    forward(device, n, result.out, result.rstd);
    device->ops->rmsnorm_backward(device,
                                  &(struct rmsnorm_backward){.grad_x = f32(result.grad_x),
                                                             .grad_weight = f32(result.grad_weight),
                                                             .grad_out = f32(n->grad_out),
                                                             .x = f32(n->x),
                                                             .rstd = result.rstd,
                                                             .weight = n->weight,
                                                             .rows = n->shape.rows,
                                                             .width = n->shape.width,
                                                             .weight_offset = n->shape.offset});
    return result;
}

static void every_shape_agrees_with_ref(void **state)
{
    struct devices *devices = *state;
    for (size_t s = 0; s < SHAPES; s++) {
        struct test_memory memory = {.stream = s};
        struct norm norm = norm_random(&memory, &shapes[s]);
        struct result expected = run(&memory, devices->ref, &norm);
        for (size_t i = 0; i < devices->count; i++) {
            struct result got = run(&memory, devices->cpu[i], &norm);
            assert_close("out", got.out, expected.out, norm.count, 0, 4e-6);
            assert_close("rstd", got.rstd, expected.rstd, norm.shape.rows, 0, 4e-6);
            // Differences cancel here: relative to operands of size up to 30.
            assert_close("grad_x", got.grad_x, expected.grad_x, norm.count, 2e-5, 4e-6);
            assert_close("grad_weight", got.grad_weight, expected.grad_weight, norm.shape.width,
                         1e-6 * sqrt((double)norm.shape.rows + 10), 4e-6);
        }
        memory_release(&memory);
    }
}

static void threads_do_not_change_the_bits(void **state)
{
    struct devices *devices = *state;
    struct test_memory memory = {0};
    struct norm norm = norm_random(&memory, &shapes[4]);
    for (size_t i = 0; i < devices->count; i += 2) {
        struct result one = run(&memory, devices->cpu[i], &norm);
        struct result three = run(&memory, devices->cpu[i + 1], &norm);
        assert_memory_equal(one.grad_x, three.grad_x, norm.count * sizeof(float));
        assert_memory_equal(one.grad_weight, three.grad_weight, norm.shape.width * sizeof(float));
    }
    memory_release(&memory);
}

static void out_may_be_x_and_rstd_is_optional(void **state)
{
    struct devices *devices = *state;
    struct test_memory memory = {0};
    struct norm norm = norm_random(&memory, &shapes[1]);
    for (size_t i = 0; i < devices->count; i++) {
        struct norm in_place = norm;
        float *out = memory_floats(&memory, norm.count);
        forward(devices->cpu[i], &norm, out, NULL);
        in_place.x = memory_copy(&memory, norm.x, norm.count);
        forward(devices->cpu[i], &in_place, in_place.x, NULL);
        assert_memory_equal(in_place.x, out, norm.count * sizeof *out);
    }
    memory_release(&memory);
}

struct differentiated {
    struct device *device;
    struct norm *norm;
    float *out;
};

static double norm_loss(void *context)
{
    struct differentiated *d = context;
    forward(d->device, d->norm, d->out, NULL);
    return weighted_sum(d->out, d->norm->grad_out, d->norm->count);
}

static void gradients_are_those_of_differences(void **state)
{
    struct devices *devices = *state;
    struct test_memory memory = {0};
    const struct shape small = {4, 11, 1, DTYPE_F32};
    struct norm norm = norm_random(&memory, &small);
    memset(norm.grad_x, 0, norm.count * sizeof(float));
    memset(norm.grad_weight, 0, small.width * sizeof(float));
    struct result result = run(&memory, devices->ref, &norm);
    struct differentiated d = {devices->ref, &norm, memory_floats(&memory, norm.count)};
    assert_gradient("x", norm_loss, &d, norm.x, norm.count, result.grad_x, 1e-3);
    assert_gradient("weight", norm_loss, &d, norm.weight.data, small.width, result.grad_weight,
                    1e-3);
    memory_release(&memory);
}

// Heads inside wider rows: what lies beside them stays, and the result is that of packed rows.
static void heads_of_wider_rows_are_normalised_alone(void **state)
{
    enum { TOKENS = 9, HEADS = 3, WIDTH = 33, STRIDE = HEADS * WIDTH + 5, ROWS = TOKENS * HEADS };
    struct devices *devices = *state;
    const struct shape shape = {ROWS, WIDTH, 1, DTYPE_F32};
    for (size_t i = 0; i <= devices->count; i++) {
        struct device *device = i < devices->count ? devices->cpu[i] : devices->ref;
        struct test_memory memory = {0};
        struct norm norm = norm_random(&memory, &shape);
        memset(norm.grad_x, 0, norm.count * sizeof(float));
        struct result packed = run(&memory, device, &norm);
        float *x = memory_random(&memory, TOKENS * STRIDE);
        float *grad = memory_random(&memory, TOKENS * STRIDE);
        for (size_t row = 0; row < ROWS; row++) {
            size_t at = row / HEADS * STRIDE + row % HEADS * WIDTH;
            memcpy(x + at, norm.x + row * WIDTH, WIDTH * sizeof *x);
            memcpy(grad + at, norm.grad_out + row * WIDTH, WIDTH * sizeof *x);
        }
        float *out = memory_copy(&memory, x, TOKENS * STRIDE);
        float *grad_before = memory_copy(&memory, grad, TOKENS * STRIDE);
        float *rstd = memory_floats(&memory, ROWS);
        float *grad_weight = memory_copy(&memory, norm.grad_weight, WIDTH);
        device->ops->rmsnorm_forward(device, &(struct rmsnorm_forward){.out = f32(out),
                                                                       .rstd = rstd,
                                                                       .x = f32(out),
                                                                       .weight = norm.weight,
                                                                       .rows = ROWS,
                                                                       .width = WIDTH,
                                                                       .heads = HEADS,
                                                                       .stride = STRIDE,
                                                                       .epsilon = 1e-6f,
                                                                       .weight_offset = 1});
        device->ops->rmsnorm_backward(device,
                                      &(struct rmsnorm_backward){.grad_x = f32(grad),
                                                                 .grad_weight = f32(grad_weight),
                                                                 .grad_out = f32(grad),
                                                                 .x = f32(x),
                                                                 .rstd = rstd,
                                                                 .weight = norm.weight,
                                                                 .rows = ROWS,
                                                                 .width = WIDTH,
                                                                 .heads = HEADS,
                                                                 .stride = STRIDE,
                                                                 .weight_offset = 1,
                                                                 .overwrite = true});
        for (size_t row = 0; row < ROWS; row++) {
            size_t at = row / HEADS * STRIDE + row % HEADS * WIDTH;
            assert_memory_equal(out + at, packed.out + row * WIDTH, WIDTH * sizeof *out);
            assert_close("grad_x", grad + at, packed.grad_x + row * WIDTH, WIDTH, 0, 0);
        }
        for (size_t t = 0; t < TOKENS; t++) {
            size_t beside = t * STRIDE + HEADS * WIDTH;
            assert_memory_equal(out + beside, x + beside, 5 * sizeof *out);
            assert_memory_equal(grad + beside, grad_before + beside, 5 * sizeof *out);
        }
        assert_memory_equal(rstd, packed.rstd, ROWS * sizeof *rstd);
        assert_memory_equal(grad_weight, packed.grad_weight, WIDTH * sizeof *rstd);
        memory_release(&memory);
    }
}

static void residual_is_added_also_in_place(void **state)
{
    struct devices *devices = *state;
    for (size_t i = 0; i <= devices->count; i++) {
        struct device *device = i < devices->count ? devices->cpu[i] : devices->ref;
        struct test_memory memory = {0};
        struct norm norm = norm_random(&memory, &shapes[1]);
        float *plain = memory_floats(&memory, norm.count);
        forward(device, &norm, plain, NULL);
        float *residual = memory_random(&memory, norm.count);
        float *out = memory_copy(&memory, residual, norm.count);
        device->ops->rmsnorm_forward(device,
                                     &(struct rmsnorm_forward){.out = f32(out),
                                                               .x = f32(norm.x),
                                                               .residual = f32(out),
                                                               .weight = norm.weight,
                                                               .rows = norm.shape.rows,
                                                               .width = norm.shape.width,
                                                               .epsilon = 1e-6f,
                                                               .weight_offset = norm.shape.offset});
        for (size_t j = 0; j < norm.count; j++)
            plain[j] += residual[j];
        assert_close("out", out, plain, norm.count, 1e-6, 1e-6);
        memory_release(&memory);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_shape_agrees_with_ref),
        cmocka_unit_test(threads_do_not_change_the_bits),
        cmocka_unit_test(out_may_be_x_and_rstd_is_optional),
        cmocka_unit_test(gradients_are_those_of_differences),
        cmocka_unit_test(heads_of_wider_rows_are_normalised_alone),
        cmocka_unit_test(residual_is_added_also_in_place),
    };
    return cmocka_run_group_tests(tests, devices_create, devices_destroy);
}
