// SPDX-License-Identifier: Apache-2.0
#include "harness.h"

#include "base/mem.h"
#include "base/random.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { GUARD_BYTES = 64, GUARD = 0xa5, SEED = 20260101 };

static void *memory_elements(struct test_memory *memory, size_t count, size_t element)
{
    struct memory_block *block = mem_calloc(1, sizeof *block);
    block->bytes = count * element;
    block->shift = getenv("MEMO_TEST_ALIGNED") ? 0 : element;
    size_t whole = (2 * GUARD_BYTES + element + block->bytes + 63) / 64 * 64;
    block->base = devices_memory(whole);
    memset(block->base, GUARD, whole);
    block->next = memory->blocks;
    memory->blocks = block;
    return block->base + GUARD_BYTES + block->shift;
}

void *memory_of(struct test_memory *memory, const void *from, size_t count, size_t element)
{
    void *values = memory_elements(memory, count, element);
    if (count > 0)
        memcpy(values, from, count * element);
    return values;
}

float *memory_floats(struct test_memory *memory, size_t count)
{
    float *values = memory_elements(memory, count, sizeof *values);
    for (size_t i = 0; i < count; i++)
        values[i] = NAN;
    return values;
}

float *memory_random(struct test_memory *memory, size_t count)
{
    float *values = memory_elements(memory, count, sizeof *values);
    memory->stream++;
    for (size_t i = 0; i < count; i++)
        values[i] = (float)random_normal(SEED, memory->stream, i);
    return values;
}

float *memory_copy(struct test_memory *memory, const float *from, size_t count)
{
    return memory_of(memory, from, count, sizeof *from);
}

int32_t *memory_ints(struct test_memory *memory, size_t count, int32_t limit)
{
    int32_t *values = memory_elements(memory, count, sizeof *values);
    memory->stream++;
    for (size_t i = 0; i < count; i++)
        values[i] = (int32_t)(random_uniform(SEED, memory->stream, i) * limit);
    return values;
}

struct tensor memory_tensor(struct test_memory *memory, enum dtype dtype, size_t count)
{
    float *values = memory_random(memory, count);
    struct tensor tensor = {.data = memory_elements(memory, count, dtype_bytes(dtype)),
                            .dtype = dtype};
    convert_from_f32(tensor.data, dtype, values, count);
    return tensor;
}

static void check_guards(const struct memory_block *block)
{
    size_t before = GUARD_BYTES + block->shift;
    for (size_t i = 0; i < before; i++)
        if (block->base[i] != GUARD)
            fail_msg("wrote %zu bytes before a block of %zu", before - i, block->bytes);
    for (size_t i = 0; i < GUARD_BYTES - block->shift; i++)
        if (block->base[before + block->bytes + i] != GUARD)
            fail_msg("wrote %zu bytes after a block of %zu", i + 1, block->bytes);
}

void memory_release(struct test_memory *memory)
{
    while (memory->blocks) {
        struct memory_block *block = memory->blocks;
        check_guards(block);
        memory->blocks = block->next;
        devices_free(block->base);
        free(block);
    }
}

struct device *device_named(const char *backend, const char *isa, int threads)
{
    struct device_options options = {.backend = backend, .isa = isa, .threads = threads};
    struct device *device = NULL;
    struct error err;
    if (device_create(&options, &device, &err) != 0)
        fail_msg("%s", err.text);
    return device;
}

void assert_close(const char *what, const float *got, const float *expected, size_t count,
                  double absolute, double relative)
{
    for (size_t i = 0; i < count; i++) {
        double allowed = absolute + relative * fabs((double)expected[i]);
        double difference = fabs((double)got[i] - expected[i]);
        if (!(difference <= allowed) && !(isnan(got[i]) && isnan(expected[i])) &&
            got[i] != expected[i])
            fail_msg("%s[%zu] of %zu is %.9g, expected %.9g within %.3g", what, i, count,
                     (double)got[i], (double)expected[i], allowed);
    }
}

void assert_within(const char *what, const float *got, const float *expected, const float *bound,
                   size_t count, double factor)
{
    for (size_t i = 0; i < count; i++)
        if (!(fabs((double)got[i] - expected[i]) <= factor * bound[i]))
            fail_msg("%s[%zu] of %zu is %.9g, expected %.9g within %.3g", what, i, count,
                     (double)got[i], (double)expected[i], factor * bound[i]);
}

void assert_gradient(const char *what, double (*loss)(void *context), void *context, float *x,
                     size_t count, const float *gradient, double tolerance)
{
    for (size_t i = 0; i < count; i++) {
        float middle = x[i], above = middle + 0x1p-7f, below = middle - 0x1p-7f;
        x[i] = above;
        double high = loss(context);
        x[i] = below;
        double low = loss(context);
        x[i] = middle;
        double slope = (high - low) / ((double)above - below);
        if (!(fabs(slope - gradient[i]) <= tolerance * (1 + fabs(slope))))
            fail_msg("gradient of %s[%zu] is %.9g, differences give %.9g", what, i,
                     (double)gradient[i], slope);
    }
}

double weighted_sum(const float *values, const float *weights, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += (double)values[i] * weights[i];
    return sum;
}
