// SPDX-License-Identifier: Apache-2.0
// AdamW: see kernels/ref/adamw.c. Element by element: reads 16 bytes and writes 12 of each.
#include "kernels/cuda/cuda.h"

enum { THREADS = 256 };

static __global__ void adamw_kernel(struct adamw a, float rate, float root)
{
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= a.count)
        return;
    const float g = a.grad[i] * a.grad_scale;
    const float m = a.moment1[i] + (g - a.moment1[i]) * (1 - a.beta1);
    const float v = a.beta2 * a.moment2[i] + (1 - a.beta2) * g * g;
    const float p = a.parameter[i] * (1 - a.learning_rate * a.weight_decay);
    a.parameter[i] = p - rate * m / (sqrtf(v) / root + a.epsilon);
    a.moment1[i] = m;
    a.moment2[i] = v;
}

void cuda_adamw(struct device *device, const struct adamw *a)
{
    if (a->count == 0)
        return;
    const double rate = a->learning_rate / (1 - pow(a->beta1, (double)a->step));
    const double root = sqrt(1 - pow(a->beta2, (double)a->step));
    CUDA_LAUNCH(adamw_kernel, blocks_of(a->count, THREADS), THREADS, 0, cuda_of(device)->stream, *a,
                (float)rate, (float)root);
    cuda_launched(device, "adamw");
}
