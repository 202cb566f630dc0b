// SPDX-License-Identifier: Apache-2.0
// What the tests of all operations share: memory with guard bytes, the devices to compare, and
// comparisons that name the element that differs.
#ifndef MEMO_TESTS_KERNELS_HARNESS_H
#define MEMO_TESTS_KERNELS_HARNESS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/kernels.h"

#define ROUNDOFF 0x1p-24 // of float32: half the distance from 1 to the next number

// Blocks of one test. Each starts one element after a 64-byte boundary, so that nothing may rely on
// alignment (at the boundary with MEMO_TEST_ALIGNED in the environment, so that what is faster
// there is tested, too), and lies between guard bytes that memory_release checks.
struct memory_block {
    unsigned char *base;
    size_t bytes;
    size_t shift; // from the boundary
    struct memory_block *next;
};

struct test_memory {
    struct memory_block *blocks;
    uint64_t stream; // of random numbers
};

float *memory_floats(struct test_memory *memory, size_t count); // NaN: reading them shows
float *memory_random(struct test_memory *memory, size_t count); // normal
float *memory_copy(struct test_memory *memory, const float *from, size_t count);
int32_t *memory_ints(struct test_memory *memory, size_t count,
                     int32_t limit); // random, below limit
void *memory_of(struct test_memory *memory, const void *from, size_t count, size_t element);
struct tensor memory_tensor(struct test_memory *memory, enum dtype dtype, size_t count); // random
void memory_release(struct test_memory *memory);

static inline struct tensor f32(float *data)
{
    return (struct tensor){.data = data, .dtype = DTYPE_F32};
}

// Every variant of the cpu that this machine has, with 1 and 3 threads; each differs from ref only
// in speed. devices_create prints what is missing.
enum { DEVICES_LIMIT = 10 };

struct devices {
    struct device *ref;
    struct device *cpu[DEVICES_LIMIT];
    size_t count;
};

int devices_create(void **state); // group setup: *state is a struct devices
int devices_destroy(void **state);

// Memory that every device reads and writes, aligned to 64 bytes.
void *devices_memory(size_t bytes);
void devices_free(void *block);

// Whether it rounds factors to bfloat16 where the other is.
bool multiplies_bf16(const struct device *device);

// Whether the bits of a dense layer's row depend on its values alone: not on how many other rows
// there are, nor on which type holds the weights.
bool keeps_product_bits(const struct device *device);

struct device *device_named(const char *backend, const char *isa, int threads); // fails the test

// |got - expected| <= absolute + relative |expected|, and the same not-a-numbers.
void assert_close(const char *what, const float *got, const float *expected, size_t count,
                  double absolute, double relative);

// |got - expected| <= factor bound, element by element.
void assert_within(const char *what, const float *got, const float *expected, const float *bound,
                   size_t count, double factor);

// Compares `gradient` with central differences of loss (a function of x through context): every
// x[i] is moved by 2^-7 both ways. The rounding of float32 outputs leaves noise of about
// 2^-24 / 2^-7 times their size, the third derivative 2^-14 / 6: below 1e-3 for losses of order 1.
void assert_gradient(const char *what, double (*loss)(void *context), void *context, float *x,
                     size_t count, const float *gradient, double tolerance);

double weighted_sum(const float *values, const float *weights, size_t count);

#endif
