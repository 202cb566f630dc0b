// SPDX-License-Identifier: Apache-2.0
#include "harness.h"

#include "kernels/fp8.h"

#include <math.h>
#include <string.h>

struct shape {
    size_t rows, out_width, in_width;
    enum dtype dtype;
    bool bias, residual;
};

static const struct shape shapes[] = {{1, 1, 1, DTYPE_F32, false, false},
                                      {31, 33, 100, DTYPE_F32, true, false},
                                      {3, 70, 257, DTYPE_BF16, true, true},
                                      {17, 64, 96, DTYPE_BF16, false, true},
                                      {0, 5, 7, DTYPE_F32, false, false}};

enum { SHAPES = sizeof shapes / sizeof shapes[0] };

static void codes_round_to_the_nearest(void **state)
{
    (void)state;
    for (int code = 0; code < 0x7f; code++) {
        const float value = fp8_decode((uint8_t)code), next = fp8_decode((uint8_t)(code + 1));
        assert_int_equal(fp8_encode(value), code);
        assert_int_equal(fp8_encode(-value), code | 0x80);
        if (code == 0x7e)
            break;
        const float middle = 0.5f * (value + next);
        assert_true(value < next);
        assert_int_equal(fp8_encode(middle), code % 2 ? code + 1 : code); // ties to even
        assert_int_equal(fp8_encode(nextafterf(middle, 1000)), code + 1);
        assert_int_equal(fp8_encode(nextafterf(middle, 0)), code);
    }
    assert_true(fp8_decode(0x7e) == FP8_LARGEST && fp8_decode(1) == 0x1p-9f);
    assert_int_equal(fp8_encode(1e30f), 0x7e);
    assert_int_equal(fp8_encode(INFINITY), 0x7e);
    assert_int_equal(fp8_encode(NAN) & 0x7f, 0x7f);
    assert_true(isnan(fp8_decode(0x7f)));
}

static uint8_t *bytes(struct test_memory *memory, size_t count)
{
    return (uint8_t *)memory_tensor(memory, DTYPE_BF16, count / 2 + 1).data;
}

static void quantized_rows_are_those_of_ref(void **state)
{
    struct devices *devices = *state;
    for (size_t s = 0; s < SHAPES; s++) {
        struct test_memory memory = {.stream = s};
        const size_t rows = shapes[s].rows, width = shapes[s].in_width;
        struct quantize_rows a = {.x = memory_tensor(&memory, shapes[s].dtype, rows * width),
                                  .rows = rows,
                                  .width = width};
        if (rows > 2) // a row of nothing
            memset((char *)a.x.data + width * dtype_bytes(a.x.dtype), 0,
                   width * dtype_bytes(a.x.dtype));
        uint8_t *expected = bytes(&memory, rows * width);
        float *scales = memory_floats(&memory, rows);
        a.codes = expected;
        a.scales = scales;
        devices->ref->ops->quantize_rows(devices->ref, &a);
        for (size_t i = 0; i < devices->count; i++) {
            a.codes = bytes(&memory, rows * width);
            a.scales = memory_floats(&memory, rows);
            devices->cpu[i]->ops->quantize_rows(devices->cpu[i], &a);
            assert_memory_equal(a.codes, expected, rows * width);
            assert_memory_equal(a.scales, scales, rows * sizeof *scales);
        }
        memory_release(&memory);
    }
}

struct layer {
    struct linear linear;
    struct linear_fp8 call;
    struct tensor x;
};

static struct layer layer_random(struct test_memory *memory, struct device *ref,
                                 const struct shape *s)
{
    struct layer l = {
        .linear = {.weight = memory_tensor(memory, s->dtype, s->out_width * s->in_width),
                   .out_width = s->out_width,
                   .in_width = s->in_width,
                   .codes = bytes(memory, s->out_width * s->in_width),
                   .scales = memory_floats(memory, s->out_width)},
        .x = memory_tensor(memory, s->dtype, s->rows * s->in_width)};
    uint8_t *x = bytes(memory, s->rows * s->in_width);
    float *x_scales = memory_floats(memory, s->rows);
    ref->ops->quantize_rows(ref,
                            &(struct quantize_rows){l.linear.codes, l.linear.scales,
                                                    l.linear.weight, s->out_width, s->in_width});
    ref->ops->quantize_rows(ref, &(struct quantize_rows){x, x_scales, l.x, s->rows, s->in_width});
    if (s->bias)
        l.linear.bias = memory_tensor(memory, s->dtype, s->out_width);
    l.call = (struct linear_fp8){.x = x, .x_scales = x_scales, .rows = s->rows};
    if (s->residual)
        l.call.residual = f32(memory_random(memory, s->rows * s->out_width));
    return l;
}

static void products_agree_with_ref(void **state)
{
    struct devices *devices = *state;
    for (size_t s = 0; s < SHAPES; s++) {
        struct test_memory memory = {.stream = s};
        struct layer l = layer_random(&memory, devices->ref, &shapes[s]);
        const size_t count = shapes[s].rows * shapes[s].out_width;
        float *expected = memory_floats(&memory, count);
        l.call.linear = &l.linear;
        l.call.out = f32(expected);
        devices->ref->ops->linear_fp8(devices->ref, &l.call);
        for (size_t i = 0; i < devices->count; i++) {
            float *out = memory_floats(&memory, count);
            l.call.out = f32(out);
            devices->cpu[i]->ops->linear_fp8(devices->cpu[i], &l.call);
            assert_close("out", out, expected, count, 1e-4, 1e-4);
        }
        memory_release(&memory);
    }
}

// Three bits of mantissa are off by 2^-4 at most, each: 2^-3 of the sum of absolute products.
static void products_are_near_those_of_the_weights(void **state)
{
    struct devices *devices = *state;
    struct test_memory memory = {0};
    static const struct shape shape = {9, 40, 300, DTYPE_F32, true, false};
    struct layer l = layer_random(&memory, devices->ref, &shape);
    float *exact = memory_floats(&memory, 9 * 40), *got = memory_floats(&memory, 9 * 40);
    const float *x = l.x.data, *weight = l.linear.weight.data;
    l.call.linear = &l.linear;
    l.call.out = f32(got);
    devices->ref->ops->linear_fp8(devices->ref, &l.call);
    devices->ref->ops->linear_forward(
        devices->ref,
        &(struct linear_forward){.out = f32(exact), .x = l.x, .linear = &l.linear, .rows = 9});
    for (size_t r = 0; r < 9; r++)
        for (size_t n = 0; n < 40; n++) {
            double bound = 0;
            for (size_t k = 0; k < 300; k++)
                bound += fabs((double)x[r * 300 + k] * (double)weight[n * 300 + k]);
            assert_true(fabs((double)got[r * 40 + n] - (double)exact[r * 40 + n]) <= bound / 8);
        }
    memory_release(&memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(codes_round_to_the_nearest),
        cmocka_unit_test(quantized_rows_are_those_of_ref),
        cmocka_unit_test(products_agree_with_ref),
        cmocka_unit_test(products_are_near_those_of_the_weights),
    };
    return cmocka_run_group_tests(tests, devices_create, devices_destroy);
}
