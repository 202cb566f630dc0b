// SPDX-License-Identifier: Apache-2.0
// Sums are of integers: every device that draws draws the same tokens.
#include "harness.h"

#include "base/random.h"
#include "kernels/sample_weight.h"

#include <math.h>
#include <string.h>

enum { ROWS = 12, VOCABULARIES = 4, DRAWS = 3 };

static const size_t vocabularies[VOCABULARIES] = {1, 31, 1000, 4099};

static struct sample_row row_of(size_t r, uint64_t stream)
{
    static const struct sample_row kinds[ROWS] = {
        {.scale = 0},
        {.scale = 1},
        {.scale = 1.4f, .min_p = 0.05f},
        {.scale = 1, .top_k = 1},
        {.scale = 1, .top_k = 40},
        {.scale = 0.5f, .top_k = 4098},
        {.scale = 1, .top_p = 0.9f},
        {.scale = 1, .top_p = 0.9999999f},
        {.scale = 0.8f, .top_k = 50, .top_p = 0.7f, .min_p = 0.01f},
        {.scale = 1e30f},
        {.scale = 1e-3f, .top_p = 0.5f},
        {.scale = 1, .top_k = 7, .penalty = 1.3f},
    };
    struct sample_row row = kinds[r];
    row.random = random_u64(5, stream, r);
    row.mask = r % 3 == 1 ? (int32_t)(r % 2) : -1;
    row.seen = r % 4 == 3 ? 2 : -1;
    return row;
}

// Rows of three kinds of bits: a few, half, the seen ones.
static const uint64_t *bits_of(struct test_memory *memory, size_t words)
{
    uint64_t *bits = memory_of(memory, memory_floats(memory, 6 * words), 3 * words, sizeof *bits);
    for (size_t w = 0; w < words; w++) {
        bits[w] = w % 5 == 0 ? 1 : 0;
        bits[words + w] = random_u64(6, 1, w) | 1;
        bits[2 * words + w] = random_u64(6, 2, w);
    }
    return bits;
}

static void draw(struct device *device, const struct sample *a, int32_t *out)
{
    struct sample own = *a;
    memset(out, 0xff, ROWS * sizeof *out);
    own.out = out;
    device->ops->sample(device, &own);
}

static struct sample sample_of(struct test_memory *memory, size_t vocabulary, uint64_t stream)
{
    struct sample_row rows[ROWS];
    for (size_t r = 0; r < ROWS; r++)
        rows[r] = row_of(r, stream);
    return (struct sample){.logits = f32(memory_random(memory, ROWS * vocabulary)),
                           .rows = memory_of(memory, rows, ROWS, sizeof *rows),
                           .bits = bits_of(memory, (vocabulary + 63) / 64),
                           .count = ROWS,
                           .vocabulary = vocabulary};
}

static void expect_agreement(struct devices *devices, struct test_memory *memory,
                             const struct sample *a)
{
    int32_t *expected = memory_ints(memory, ROWS, 1), *got = memory_ints(memory, ROWS, 1);
    draw(devices->ref, a, expected);
    for (size_t r = 0; r < ROWS; r++)
        assert_true(expected[r] >= 0 && (size_t)expected[r] < a->vocabulary);
    for (size_t i = 0; i < devices->count; i++) {
        if (!devices->cpu[i]->ops->sample)
            continue;
        draw(devices->cpu[i], a, got);
        for (size_t r = 0; r < ROWS; r++)
            if (got[r] != expected[r])
                fail_msg("row %zu of %zu: token %d, expected %d", r, a->vocabulary, got[r],
                         expected[r]);
    }
}

static void every_device_draws_as_ref(void **state)
{
    for (size_t v = 0; v < VOCABULARIES; v++)
        for (uint64_t d = 0; d < DRAWS; d++) {
            struct test_memory memory = {.stream = d};
            struct sample a = sample_of(&memory, vocabularies[v], d);
            float *logits = a.logits.data;
            for (size_t i = 0; i < ROWS * vocabularies[v]; i++)
                logits[i] *= 4;
            expect_agreement(*state, &memory, &a);
            for (size_t i = 0; i < ROWS * vocabularies[v]; i++)
                logits[i] = roundf(logits[i]); // many equals
            expect_agreement(*state, &memory, &a);
            memory_release(&memory);
        }
}

static void infinities_and_nan_are_survived(void **state)
{
    struct test_memory memory = {0};
    struct sample a = sample_of(&memory, 33, 1);
    float *logits = a.logits.data;
    for (size_t r = 0; r < ROWS; r++)
        for (size_t i = 0; i < 33; i++)
            logits[r * 33 + i] = r % 4 == 0   ? NAN
                                 : r % 4 == 1 ? -INFINITY
                                 : r % 4 == 2 ? (i == 7 ? INFINITY : 0)
                                 : i % 2      ? NAN
                                              : (float)i;
    expect_agreement(*state, &memory, &a);
    memory_release(&memory);
}

// By hand: of weights 1, e^-1 and e^-2 the second begins at 0.665 of the sum, the third at 0.910.
static void point_falls_where_the_sum_says(void **state)
{
    struct devices *devices = *state;
    struct test_memory memory = {0};
    static const struct {
        double at;
        int32_t token;
    } cases[] = {{0, 0}, {0.664, 0}, {0.667, 1}, {0.908, 1}, {0.912, 2}, {0.9999999, 2}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++)
        for (size_t i = 0; i <= devices->count; i++) {
            struct device *device = i < devices->count ? devices->cpu[i] : devices->ref;
            struct sample_row row = {.scale = 1, .mask = -1, .seen = -1};
            int32_t *out = memory_ints(&memory, 1, 1);
            row.random = (uint64_t)(cases[c].at * 0x1p64);
            if (!device->ops->sample)
                continue;
            device->ops->sample(
                device, &(struct sample){.out = out,
                                         .logits = f32(memory_copy(&memory, (float[]){3, 2, 1}, 3)),
                                         .rows = memory_of(&memory, &row, 1, sizeof row),
                                         .count = 1,
                                         .vocabulary = 3});
            assert_int_equal(*out, cases[c].token);
        }
    memory_release(&memory);
}

static void weights_are_the_exponential(void **state)
{
    (void)state;
    assert_int_equal(sample_weight(0), 1 << SAMPLE_BITS);
    assert_int_equal(sample_weight(-INFINITY), 0);
    assert_int_equal(sample_weight(NAN), 0);
    assert_int_equal(sample_weight(-21.4f), 1);
    int32_t last = 0;
    for (float x = -21.49f; x < 0; x += 0.0037f) {
        const double exact = ldexp(exp((double)x), SAMPLE_BITS);
        const int32_t weight = sample_weight(x);
        assert_true(fabs(weight - exact) <= 0.51 + 3e-6 * exact);
        assert_true(weight >= last);
        last = weight;
    }
    assert_int_equal(sample_least(0), 1);
    assert_int_equal(sample_least(1), 1 << SAMPLE_BITS);
    assert_int_equal(sample_least(0.5f), 1 << (SAMPLE_BITS - 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_device_draws_as_ref),
        cmocka_unit_test(infinities_and_nan_are_survived),
        cmocka_unit_test(point_falls_where_the_sum_says),
        cmocka_unit_test(weights_are_the_exponential),
    };
    return cmocka_run_group_tests(tests, devices_create, devices_destroy);
}
