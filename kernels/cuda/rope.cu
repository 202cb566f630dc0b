// SPDX-License-Identifier: Apache-2.0
// Rotary embedding: see kernels/ref/rope.c. One thread a pair of elements; reads and writes the
// rotated elements once. sincosf at full precision: angles reach 131,072 radians.
#include "kernels/cuda/cuda.h"

enum { THREADS = 256 };

static __global__ void rope_kernel(struct rope a)
{
    const size_t half = a.head_width / 2, pairs = a.heads * half;
    const size_t pair = (size_t)blockIdx.y * THREADS + threadIdx.x, t = blockIdx.x;
    if (pair >= pairs)
        return;
    const size_t i = pair % half, at = t * a.stride + pair / half * a.head_width + i;
    float s, c;
    sincosf((float)a.positions[t] * a.inverse_frequency[i], &s, &c);
    s *= a.backward ? -a.magnitude : a.magnitude;
    c *= a.magnitude;
    const float x = load(a.x, at), y = load(a.x, at + half);
    store(a.x, at, x * c - y * s);
    store(a.x, at + half, y * c + x * s);
}

void cuda_rope(struct device *device, const struct rope *a)
{
    const size_t pairs = a->heads * (a->head_width / 2);
    if (a->tokens == 0 || pairs == 0)
        return;
    const dim3 grid((unsigned)a->tokens, blocks_of(pairs, THREADS));
    CUDA_LAUNCH(rope_kernel, grid, THREADS, 0, cuda_of(device)->stream, *a);
    cuda_launched(device, "rope");
}
