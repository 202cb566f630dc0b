// SPDX-License-Identifier: Apache-2.0
// Dense layers of generation: bf16 and eight-bit weights, aligned as a model's, few rows and many.
// Where the backend promises it, a row is the same bits in every batch.
#include "harness.h"

#include "base/mem.h"
#include "base/random.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_ROWS = 130 };

struct shape {
    size_t out_width, in_width;
    bool bias, residual;
    enum dtype out;
};

// Widths that end inside of tiles and of what is fetched at once, or are aligned for nobody; depths
// of one part and of several.
static const struct shape shapes[] = {
    {1, 8, false, false, DTYPE_F32},    {5, 16, true, false, DTYPE_BF16},
    {33, 31, true, true, DTYPE_BF16},   {64, 128, false, true, DTYPE_BF16},
    {65, 264, true, true, DTYPE_F32},   {130, 40, true, true, DTYPE_BF16},
    {70, 1040, true, true, DTYPE_BF16},
};
static const size_t rows_of[] = {1, 7, 8, 9, 16, 17, 31, 33, 64, 65, MOST_ROWS};

enum { SHAPES = sizeof shapes / sizeof shapes[0], ROWS = sizeof rows_of / sizeof rows_of[0] };

struct layer {
    const struct shape *shape;
    struct linear linear;
    struct tensor x, residual, out;
    uint8_t *codes; // of x
    float *scales;
};

static struct tensor noise(enum dtype dtype, size_t count, uint64_t stream)
{
    struct tensor t = {devices_memory((count + 1) * dtype_bytes(dtype)), dtype};
    for (size_t i = 0; i < count; i++) {
        const float value = (float)random_normal(stream, 0, i);
        convert_from_f32((char *)t.data + i * dtype_bytes(dtype), dtype, &value, 1);
    }
    return t;
}

static struct layer layer_create(const struct shape *s)
{
    const size_t n = s->out_width, k = s->in_width;
    struct layer l = {.shape = s,
                      .linear = {.weight = noise(DTYPE_BF16, n * k, 1),
                                 .bias = noise(s->out, n, 2),
                                 .out_width = n,
                                 .in_width = k,
                                 .codes = devices_memory(n * k),
                                 .scales = devices_memory(n * sizeof(float))},
                      .x = noise(DTYPE_BF16, MOST_ROWS * k, 3),
                      .residual = noise(s->out, MOST_ROWS * n, 4),
                      .out = noise(s->out, MOST_ROWS * n, 5),
                      .codes = devices_memory(MOST_ROWS * k),
                      .scales = devices_memory(MOST_ROWS * sizeof(float))};
    return l;
}

static void layer_release(struct layer *l)
{
    void *blocks[] = {
        l->linear.weight.data, l->linear.bias.data, l->linear.codes, l->linear.scales, l->x.data,
        l->residual.data,      l->out.data,         l->codes,        l->scales};
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++)
        devices_free(blocks[i]);
}

static struct tensor at_row(struct tensor t, size_t row, size_t width)
{
    return (struct tensor){(char *)t.data + row * width * dtype_bytes(t.dtype), t.dtype};
}

// Rows first..first + rows of the result, as float32 in out.
static void run(struct layer *l, struct device *device, bool codes, size_t first, size_t rows,
                float *out)
{
    const struct shape *s = l->shape;
    const size_t n = s->out_width, k = s->in_width;
    struct linear linear = l->linear;
    struct tensor residual = at_row(l->residual, first, n);
    if (!s->bias)
        linear.bias.data = NULL;
    if (!s->residual)
        residual.data = NULL;
    if (codes)
        device->ops->linear_fp8(device, &(struct linear_fp8){.out = l->out,
                                                             .x = l->codes + first * k,
                                                             .x_scales = l->scales + first,
                                                             .residual = residual,
                                                             .linear = &linear,
                                                             .rows = rows});
    else
        device->ops->linear_forward(device, &(struct linear_forward){.out = l->out,
                                                                     .x = at_row(l->x, first, k),
                                                                     .residual = residual,
                                                                     .linear = &linear,
                                                                     .rows = rows});
    convert_to_f32(out, l->out.data, s->out, rows * n);
}

static void quantize(struct layer *l, struct device *ref)
{
    const size_t n = l->shape->out_width, k = l->shape->in_width;
    ref->ops->quantize_rows(
        ref, &(struct quantize_rows){l->linear.codes, l->linear.scales, l->linear.weight, n, k});
    ref->ops->quantize_rows(ref, &(struct quantize_rows){l->codes, l->scales, l->x, MOST_ROWS, k});
}

// The sum of absolute values of what makes each result; codes are off from their values by 2^-4.
static float *sums_of_absolute_values(const struct layer *l)
{
    const size_t n = l->shape->out_width, k = l->shape->in_width;
    float *bound = mem_calloc(MOST_ROWS * n, sizeof *bound), *x = mem_calloc(k, sizeof *x);
    float *weight = mem_calloc(n * k, sizeof *weight), *other = mem_calloc(n, sizeof *other);
    convert_to_f32(weight, l->linear.weight.data, DTYPE_BF16, n * k);
    for (size_t r = 0; r < MOST_ROWS; r++) {
        convert_to_f32(x, at_row(l->x, r, k).data, DTYPE_BF16, k);
        convert_to_f32(other, at_row(l->residual, r, n).data, l->shape->out, n);
        for (size_t i = 0; i < n; i++) {
            float sum = 4 + fabsf(other[i]); // the bias
            for (size_t j = 0; j < k; j++)
                sum += fabsf(x[j] * weight[i * k + j]);
            bound[r * n + i] = 1.2f * sum;
        }
    }
    free(x);
    free(weight);
    free(other);
    return bound;
}

// A chain of float32 sums errs by at most its length in half units of the sum of absolute values; a
// bfloat16 result is rounded once more, the reference's too.
static double factor_of(const struct shape *s)
{
    return (2 * (double)s->in_width + 4) * ROUNDOFF + (s->out == DTYPE_BF16 ? 0x1p-7 : 0);
}

static void products_agree_with_ref(void **state)
{
    struct devices *devices = *state;
    for (size_t i = 0; i < SHAPES; i++) {
        struct layer l = layer_create(&shapes[i]);
        const size_t n = shapes[i].out_width, count = MOST_ROWS * n;
        float *expected = mem_calloc(count, sizeof *expected),
              *got = mem_calloc(count, sizeof *got);
        float *bound = sums_of_absolute_values(&l);
        quantize(&l, devices->ref);
        for (int codes = 0; codes < 2; codes++) {
            run(&l, devices->ref, codes, 0, MOST_ROWS, expected);
            for (size_t r = 0; r < ROWS; r++) {
                run(&l, devices->cpu[0], codes, 0, rows_of[r], got);
                assert_within("out", got, expected, bound, rows_of[r] * n, factor_of(&shapes[i]));
            }
            device_choose_products(devices->cpu[0], PRODUCTS_INVARIANT);
            run(&l, devices->cpu[0], codes, 0, MOST_ROWS, got);
            assert_within("out", got, expected, bound, count, factor_of(&shapes[i]));
            device_choose_products(devices->cpu[0], PRODUCTS_FASTEST);
        }
        free(expected);
        free(got);
        free(bound);
        layer_release(&l);
    }
}

// The promise of --batch-invariant.
static void row_is_the_same_bits_in_every_batch(void **state)
{
    struct devices *devices = *state;
    struct device *device = devices->cpu[0];
    for (size_t i = 0; i < SHAPES; i++) {
        struct layer l = layer_create(&shapes[i]);
        const size_t n = shapes[i].out_width;
        float *whole = mem_calloc(MOST_ROWS * n, sizeof *whole);
        float *part = mem_calloc(MOST_ROWS * n, sizeof *part);
        quantize(&l, devices->ref);
        device_choose_products(device, PRODUCTS_INVARIANT);
        for (int codes = 0; codes < 2; codes++) {
            run(&l, device, codes, 0, MOST_ROWS, whole);
            for (size_t r = 0; r < ROWS; r++) {
                // Where x of the first row is aligned, or every row's is.
                const size_t first = MOST_ROWS - rows_of[r] < 16 ? 0 : r % 2 * 16;
                run(&l, device, codes, first, rows_of[r], part);
                assert_memory_equal(part, whole + first * n, rows_of[r] * n * sizeof *part);
            }
        }
        device_choose_products(device, PRODUCTS_FASTEST);
        free(whole);
        free(part);
        layer_release(&l);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_agree_with_ref),
        cmocka_unit_test(row_is_the_same_bits_in_every_batch),
    };
    return cmocka_run_group_tests(tests, devices_create, devices_destroy);
}
