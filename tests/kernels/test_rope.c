// SPDX-License-Identifier: Apache-2.0
// Tolerance: cosine and sine err by at most 2 u beside ref's, the rotation adds three roundings.
#include "harness.h"

#include <math.h>
#include <string.h>

struct shape {
    size_t tokens, heads, head_width, gap;
    int32_t positions;
    float magnitude;
};

static const struct shape shapes[] = {{1, 1, 2, 0, 1, 1},        {31, 3, 64, 5, 600, 1},
                                      {33, 7, 80, 0, 32768, 1},  {0, 2, 8, 1, 10, 1},
                                      {200, 2, 8, 3, 100000, 1}, {9, 1, 128, 1, 4096, 1.25f}};

enum { SHAPES = sizeof shapes / sizeof shapes[0] };

struct rotation {
    struct rope a;
    float *x;
    size_t count;
};

static struct rotation rotation_random(struct test_memory *memory, const struct shape *shape)
{
    struct rotation r = {0};
    size_t half = shape->head_width / 2;
    float *frequency = memory_floats(memory, half);
    for (size_t i = 0; i < half; i++)
        frequency[i] = (float)pow(10000, -(double)i / (double)half);
    r.a = (struct rope){.positions = memory_ints(memory, shape->tokens, shape->positions),
                        .inverse_frequency = frequency,
                        .magnitude = shape->magnitude,
                        .tokens = shape->tokens,
                        .stride = shape->heads * shape->head_width + shape->gap,
                        .heads = shape->heads,
                        .head_width = shape->head_width};
    r.count = shape->tokens * r.a.stride;
    r.x = memory_random(memory, r.count);
    return r;
}

static float *turned(struct test_memory *memory, struct device *device, const struct rotation *r,
                     const float *x, bool backward)
{
    struct rope a = r->a;
    float *out = memory_copy(memory, x, r->count);
    a.x = f32(out);
    a.backward = backward;
    device->ops->rope(device, &a);
    return out;
}

static void both_directions_agree_with_ref(void **state)
{
    struct devices *devices = *state;
    for (size_t s = 0; s < SHAPES; s++)
        for (int backward = 0; backward < 2; backward++) {
            struct test_memory memory = {.stream = s};
            struct rotation r = rotation_random(&memory, &shapes[s]);
            float *expected = turned(&memory, devices->ref, &r, r.x, backward);
            for (size_t i = 0; i < devices->count; i++) {
                float *out = turned(&memory, devices->cpu[i], &r, r.x, backward);
                assert_close("x", out, expected, r.count, 24 * ROUNDOFF, 4 * ROUNDOFF);
            }
            memory_release(&memory);
        }
}

static void backward_undoes_forward(void **state)
{
    struct devices *devices = *state;
    struct test_memory memory = {0};
    struct rotation r = rotation_random(&memory, &shapes[2]);
    for (size_t i = 0; i < devices->count; i++) {
        float *there = turned(&memory, devices->cpu[i], &r, r.x, false);
        float *back = turned(&memory, devices->cpu[i], &r, there, true);
        assert_close("x", back, r.x, r.count, 64 * ROUNDOFF, 0);
    }
    memory_release(&memory);
}

static void gap_between_rows_is_untouched(void **state)
{
    struct devices *devices = *state;
    struct test_memory memory = {0};
    struct rotation r = rotation_random(&memory, &shapes[1]);
    for (size_t i = 0; i < devices->count; i++) {
        float *out = turned(&memory, devices->cpu[i], &r, r.x, false);
        for (size_t t = 0; t < r.a.tokens; t++) {
            size_t gap = t * r.a.stride + r.a.heads * r.a.head_width;
            assert_memory_equal(out + gap, r.x + gap, shapes[1].gap * sizeof *out);
        }
    }
    memory_release(&memory);
}

// Position 0 does not turn; position 1 turns the first pair by one radian.
static void known_angles_are_right(void **state)
{
    struct devices *devices = *state;
    struct test_memory memory = {0};
    const int32_t *positions = memory_of(&memory, (int32_t[]){0, 1}, 2, sizeof *positions);
    const float *frequency = memory_copy(&memory, (float[]){1}, 1);
    for (size_t i = 0; i < devices->count; i++) {
        float *x = memory_copy(&memory, (float[]){3, 4, 1, 0}, 4);
        devices->cpu[i]->ops->rope(devices->cpu[i], &(struct rope){.x = f32(x),
                                                                   .positions = positions,
                                                                   .inverse_frequency = frequency,
                                                                   .magnitude = 1,
                                                                   .tokens = 2,
                                                                   .stride = 2,
                                                                   .heads = 1,
                                                                   .head_width = 2});
        const float expected[] = {3, 4, 0.540302306f, 0.841470985f};
        assert_close("x", x, expected, 4, 2 * ROUNDOFF, 0);
    }
    memory_release(&memory);
}

// A rotation is its own gradient's transpose: <rope(x), y> = <x, backward(y)>.
static void backward_is_the_transpose_of_forward(void **state)
{
    struct devices *devices = *state;
    struct test_memory memory = {0};
    struct rotation r = rotation_random(&memory, &shapes[5]);
    float *y = memory_random(&memory, r.count);
    double left = weighted_sum(turned(&memory, devices->ref, &r, r.x, false), y, r.count);
    double right = weighted_sum(turned(&memory, devices->ref, &r, y, true), r.x, r.count);
    assert_true(fabs(left - right) < 1e-4);
    memory_release(&memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_directions_agree_with_ref),
        cmocka_unit_test(backward_undoes_forward),
        cmocka_unit_test(gap_between_rows_is_untouched),
        cmocka_unit_test(known_angles_are_right),
        cmocka_unit_test(backward_is_the_transpose_of_forward),
    };
    return cmocka_run_group_tests(tests, devices_create, devices_destroy);
}
