// SPDX-License-Identifier: Apache-2.0
// One element's step of AdamW, the same for every kind of moments: see kernels/ref/adamw.c.
#ifndef MEMO_KERNELS_CUDA_ADAMW_H
#define MEMO_KERNELS_CUDA_ADAMW_H

#include "kernels/cuda/cuda.h"

// What a step does not compute again for each element.
struct adamw_factors {
    float grad_scale, keep, rest1, beta2, rest2;
    float rate; // corrected for the bias of the first moment
    float root; // 1 / root of the second's
    float epsilon;
};

template <typename Arguments>
static inline struct adamw_factors adamw_factors_of(const Arguments *a)
{
    const double bias1 = 1 - pow(a->beta1, (double)a->step);
    const double bias2 = 1 - pow(a->beta2, (double)a->step);
    return {a->grad_scale,
            1 - a->learning_rate * a->weight_decay,
            1 - a->beta1,
            a->beta2,
            1 - a->beta2,
            (float)(a->learning_rate / bias1),
            (float)(1 / sqrt(bias2)),
            a->epsilon};
}

static __device__ __forceinline__ void adamw_element(const struct adamw_factors *f, float grad,
                                                     float *parameter, float *moment1,
                                                     float *moment2)
{
    const float g = grad * f->grad_scale;
    const float m = *moment1 + (g - *moment1) * f->rest1;
    const float v = f->beta2 * *moment2 + f->rest2 * g * g;
    *parameter = *parameter * f->keep - f->rate * m / (sqrtf(v) * f->root + f->epsilon);
    *moment1 = m;
    *moment2 = v;
}

#endif
