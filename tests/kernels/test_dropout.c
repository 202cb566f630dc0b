// SPDX-License-Identifier: Apache-2.0
#include "harness.h"

#include "base/random.h"

#include <string.h>

enum { ROWS = 33, WIDTH = 300 };

static uint64_t *random_keys(struct test_memory *memory, size_t count)
{
    uint64_t *keys = (uint64_t *)(void *)memory_tensor(memory, DTYPE_F32, 2 * count + 2).data;
    keys = (uint64_t *)(((uintptr_t)keys + 7) & ~(uintptr_t)7);
    for (size_t i = 0; i < count; i++)
        keys[i] = random_u64(7, 8, i);
    return keys;
}

static struct dropout some_dropout(struct test_memory *memory, enum dtype dtype)
{
    return (struct dropout){.x = memory_tensor(memory, dtype, ROWS * WIDTH),
                            .keys = random_keys(memory, ROWS),
                            .stream = 3,
                            .drop_below = UINT32_MAX / 4,
                            .factor = 4.0f / 3,
                            .rows = ROWS,
                            .width = WIDTH};
}

static void every_device_drops_as_ref(void **state)
{
    struct devices *devices = *state;
    for (enum dtype dtype = DTYPE_F32; dtype <= DTYPE_F16; dtype++) {
        struct test_memory memory = {.stream = (uint64_t)dtype};
        struct dropout a = some_dropout(&memory, dtype);
        struct tensor expected = memory_tensor(&memory, dtype, (size_t)ROWS * WIDTH);
        a.out = expected;
        devices->ref->ops->dropout(devices->ref, &a);
        for (size_t i = 0; i < devices->count; i++) {
            a.out = memory_tensor(&memory, dtype, (size_t)ROWS * WIDTH);
            devices->cpu[i]->ops->dropout(devices->cpu[i], &a);
            assert_memory_equal(a.out.data, expected.data,
                                (size_t)ROWS * WIDTH * dtype_bytes(dtype));
        }
        memory_release(&memory);
    }
}

static void every_device_adds_as_ref(void **state)
{
    struct devices *devices = *state;
    struct test_memory memory = {0};
    struct dropout a = some_dropout(&memory, DTYPE_F32);
    float *before = memory_random(&memory, (size_t)ROWS * WIDTH);
    float *expected = memory_copy(&memory, before, (size_t)ROWS * WIDTH);
    a.accumulate = true;
    a.out = f32(expected);
    devices->ref->ops->dropout(devices->ref, &a);
    for (size_t i = 0; i < devices->count; i++) {
        float *out = memory_copy(&memory, before, (size_t)ROWS * WIDTH);
        a.out = f32(out);
        devices->cpu[i]->ops->dropout(devices->cpu[i], &a);
        assert_close("sum", out, expected, (size_t)ROWS * WIDTH, 4 * ROUNDOFF, 4 * ROUNDOFF);
    }
    memory_release(&memory);
}

// A quarter of 9,900 elements: 2,475, deviation 43.
static void the_share_that_is_dropped_is_the_probability(void **state)
{
    struct devices *devices = *state;
    struct test_memory memory = {0};
    struct dropout a = some_dropout(&memory, DTYPE_F32);
    float *out = memory_floats(&memory, (size_t)ROWS * WIDTH);
    const float *x = a.x.data;
    size_t dropped = 0;
    a.out = f32(out);
    devices->ref->ops->dropout(devices->ref, &a);
    for (size_t i = 0; i < (size_t)ROWS * WIDTH; i++) {
        dropped += out[i] == 0;
        if (out[i] != 0 && out[i] != x[i] * a.factor)
            fail_msg("element %zu: %g of %g", i, (double)out[i], (double)x[i]);
    }
    assert_true(dropped > 2475 - 5 * 43 && dropped < 2475 + 5 * 43);
    memory_release(&memory);
}

static void a_row_does_not_depend_on_its_place_and_streams_differ(void **state)
{
    struct devices *devices = *state;
    struct test_memory memory = {0};
    struct dropout a = some_dropout(&memory, DTYPE_F32);
    float *all = memory_floats(&memory, (size_t)ROWS * WIDTH);
    float *one = memory_floats(&memory, WIDTH);
    a.out = f32(all);
    devices->ref->ops->dropout(devices->ref, &a);
    a.out = f32(one);
    a.x = f32((float *)a.x.data + (size_t)9 * WIDTH);
    a.keys += 9;
    a.rows = 1;
    devices->ref->ops->dropout(devices->ref, &a);
    assert_memory_equal(one, all + (size_t)9 * WIDTH, WIDTH * sizeof(float));
    a.stream++;
    devices->ref->ops->dropout(devices->ref, &a);
    assert_true(memcmp(one, all + (size_t)9 * WIDTH, WIDTH * sizeof(float)) != 0);
    memory_release(&memory);
}

static void without_keys_everything_is_scaled(void **state)
{
    struct devices *devices = *state;
    struct test_memory memory = {0};
    struct dropout a = some_dropout(&memory, DTYPE_F32);
    a.keys = NULL;
    for (size_t d = 0; d <= devices->count; d++) {
        struct device *device = d < devices->count ? devices->cpu[d] : devices->ref;
        float *out = memory_floats(&memory, (size_t)ROWS * WIDTH);
        a.out = f32(out);
        device->ops->dropout(device, &a);
        for (size_t i = 0; i < (size_t)ROWS * WIDTH; i++)
            assert_true(out[i] == ((const float *)a.x.data)[i] * a.factor);
    }
    memory_release(&memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_device_drops_as_ref),
        cmocka_unit_test(every_device_adds_as_ref),
        cmocka_unit_test(the_share_that_is_dropped_is_the_probability),
        cmocka_unit_test(a_row_does_not_depend_on_its_place_and_streams_differ),
        cmocka_unit_test(without_keys_everything_is_scaled),
    };
    return cmocka_run_group_tests(tests, devices_create, devices_destroy);
}
