// SPDX-License-Identifier: Apache-2.0
#include "harness.h"

#include "base/random.h"

#include <string.h>

struct shape {
    size_t rows, of, width;
};

static const struct shape shapes[] = {
    {1, 1, 1}, {31, 33, 33}, {0, 5, 8}, {200, 300, 31}, {7, 1000, 300}};

enum { SHAPES = sizeof shapes / sizeof shapes[0] };

static int32_t *distinct(struct test_memory *memory, const struct shape *shape)
{
    uint32_t order[1000];
    int32_t *index = memory_ints(memory, shape->rows, 1);
    random_permutation(1, 2, order, (uint32_t)shape->of);
    for (size_t i = 0; i < shape->rows; i++)
        index[i] = (int32_t)order[i];
    return index;
}

static void gathered_rows_are_copies(void **state)
{
    struct devices *devices = *state;
    for (size_t s = 0; s < SHAPES; s++)
        for (enum dtype dtype = DTYPE_F32; dtype <= DTYPE_F16; dtype++) {
            struct shape shape = shapes[s];
            struct test_memory memory = {.stream = s};
            struct rows_gather a = {.x = memory_tensor(&memory, dtype, shape.of * shape.width),
                                    .index = distinct(&memory, &shape),
                                    .rows = shape.rows,
                                    .width = shape.width};
            size_t bytes = shape.width * dtype_bytes(dtype);
            for (size_t i = 0; i <= devices->count; i++) {
                struct device *device = i < devices->count ? devices->cpu[i] : devices->ref;
                a.out = memory_tensor(&memory, dtype, shape.rows * shape.width);
                device->ops->rows_gather(device, &a);
                for (size_t row = 0; row < shape.rows; row++)
                    assert_memory_equal((char *)a.out.data + row * bytes,
                                        (char *)a.x.data + (size_t)a.index[row] * bytes, bytes);
            }
            memory_release(&memory);
        }
}

static void gathering_converts_like_ref(void **state)
{
    struct devices *devices = *state;
    struct test_memory memory = {0};
    struct rows_gather a = {.x = memory_tensor(&memory, DTYPE_BF16, 33 * 5),
                            .index = distinct(&memory, &(struct shape){31, 33, 5}),
                            .rows = 31,
                            .width = 5};
    float *expected = memory_floats(&memory, 31 * 5);
    a.out = f32(expected);
    devices->ref->ops->rows_gather(devices->ref, &a);
    for (size_t i = 0; i < devices->count; i++) {
        float *out = memory_floats(&memory, 31 * 5);
        a.out = f32(out);
        devices->cpu[i]->ops->rows_gather(devices->cpu[i], &a);
        assert_memory_equal(out, expected, 31 * 5 * sizeof *out);
    }
    memory_release(&memory);
}

static void scattered_rows_are_added_and_others_kept(void **state)
{
    struct devices *devices = *state;
    for (size_t s = 0; s < SHAPES; s++) {
        struct shape shape = shapes[s];
        struct test_memory memory = {.stream = s};
        size_t count = shape.of * shape.width;
        float *before = memory_random(&memory, count);
        float *x = memory_random(&memory, shape.rows * shape.width);
        int32_t *index = distinct(&memory, &shape);
        float *expected = memory_copy(&memory, before, count);
        for (size_t i = 0; i < shape.rows * shape.width; i++)
            expected[(size_t)index[i / shape.width] * shape.width + i % shape.width] += x[i];
        for (size_t i = 0; i <= devices->count; i++) {
            struct device *device = i < devices->count ? devices->cpu[i] : devices->ref;
            float *out = memory_copy(&memory, before, count);
            device->ops->rows_scatter_add(device, &(struct rows_scatter_add){.out = f32(out),
                                                                             .x = f32(x),
                                                                             .index = index,
                                                                             .rows = shape.rows,
                                                                             .width = shape.width});
            assert_memory_equal(out, expected, count * sizeof *out);
        }
        memory_release(&memory);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gathered_rows_are_copies),
        cmocka_unit_test(gathering_converts_like_ref),
        cmocka_unit_test(scattered_rows_are_added_and_others_kept),
    };
    return cmocka_run_group_tests(tests, devices_create, devices_destroy);
}
