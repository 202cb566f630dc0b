// SPDX-License-Identifier: Apache-2.0
// Sums over ranks: see kernels/ref/fixed_sum.c. An element by itself, in a stream that may be
// another one than the model's (device_create_beside). Bytes moved by element: fixed_accumulate 20
// of float32, fixed_add 24, fixed_value 12. Measured share of the copy bandwidth: none yet.
#include "kernels/cuda/cuda.h"

enum { THREADS = 256, PER_THREAD = 4 };

// Elements of a block stand THREADS apart for one thread, so that a warp reads whole lines. Fn's
// arguments are elements.
template <typename Fn> static __device__ __forceinline__ void for_each(size_t count, Fn fn)
{
    const size_t begin = (size_t)blockIdx.x * THREADS * PER_THREAD + threadIdx.x;
    for (int j = 0; j < PER_THREAD; j++) {
        const size_t i = begin + (size_t)j * THREADS;
        if (i < count)
            fn(i);
    }
}

static unsigned grid_of(size_t count)
{
    return blocks_of(count, THREADS * PER_THREAD);
}

static __global__ void fixed_accumulate_kernel(struct fixed_accumulate a)
{
    for_each(a.count, [&](size_t i) {
        const float value = load(a.values, i);
        if (fabsf(value) < a.limit)
            a.sums[i] += (int64_t)rint((double)value * FIXED_SCALE);
        else
            *a.unfit = 1; // whoever is last writes the same
    });
}

void cuda_fixed_accumulate(struct device *device, const struct fixed_accumulate *a)
{
    if (a->count == 0)
        return;
    CUDA_LAUNCH(fixed_accumulate_kernel, grid_of(a->count), THREADS, 0, cuda_of(device)->stream,
                *a);
    cuda_launched(device, "fixed_accumulate");
}

static __global__ void fixed_add_kernel(struct fixed_add a)
{
    for_each(a.count,
             [&](size_t i) { a.sums[i] = (int64_t)((uint64_t)a.sums[i] + (uint64_t)a.terms[i]); });
}

void cuda_fixed_add(struct device *device, const struct fixed_add *a)
{
    if (a->count == 0)
        return;
    CUDA_LAUNCH(fixed_add_kernel, grid_of(a->count), THREADS, 0, cuda_of(device)->stream, *a);
    cuda_launched(device, "fixed_add");
}

static __global__ void fixed_value_kernel(struct fixed_value a)
{
    for_each(a.count, [&](size_t i) { a.out[i] = (float)((double)a.sums[i] * (1 / FIXED_SCALE)); });
}

void cuda_fixed_value(struct device *device, const struct fixed_value *a)
{
    if (a->count == 0)
        return;
    CUDA_LAUNCH(fixed_value_kernel, grid_of(a->count), THREADS, 0, cuda_of(device)->stream, *a);
    cuda_launched(device, "fixed_value");
}
