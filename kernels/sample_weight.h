// SPDX-License-Identifier: Apache-2.0
// Probabilities as integers, so that their sums do not depend on an order, and every backend draws
// the same token: 2^30 e^x for x <= 0, rounded, from additions and multiplications of float32 that
// each round on their own. e^x = 2^n 2^f with f in [-1/2, 1/2]; 2^f by its series to the sixth
// power, off by 1e-7. What is below 2^-31 of the largest is 0.
#ifndef MEMO_KERNELS_SAMPLE_WEIGHT_H
#define MEMO_KERNELS_SAMPLE_WEIGHT_H

#include "kernels/device.h"

#include <string.h>

// A GPU's compiler would make one instruction with one rounding of both.
#ifdef __CUDA_ARCH__
#define SAMPLE_MUL(a, b) __fmul_rn(a, b)
#define SAMPLE_ADD(a, b) __fadd_rn(a, b)
#else
#define SAMPLE_MUL(a, b) ((a) * (b))
#define SAMPLE_ADD(a, b) ((a) + (b))
#endif

#define SAMPLE_LEAST (-21.5f) // below it e^x 2^30 is less than a half
#define SAMPLE_LOG2_E 1.44269504f
#define SAMPLE_SERIES                                                                              \
    {                                                                                              \
        1.54035304e-4f, 1.33335581e-3f, 9.61812911e-3f, 5.55041087e-2f, 2.40226507e-1f,            \
            6.93147181e-1f, 1.0f                                                                   \
    }
enum { SAMPLE_BITS = 30, SAMPLE_TERMS = 7 };

HOST_DEVICE static inline int32_t sample_weight(float x)
{
    const float series[SAMPLE_TERMS] = SAMPLE_SERIES;
    if (!(x > SAMPLE_LEAST))
        return 0;
    const float y = SAMPLE_MUL(x, SAMPLE_LOG2_E);
    const int32_t n = (int32_t)SAMPLE_ADD(y, -0.5f); // toward 0
    const float f = SAMPLE_ADD(y, -(float)n);
    float power = series[0], scale;
    for (int i = 1; i < SAMPLE_TERMS; i++)
        power = SAMPLE_ADD(SAMPLE_MUL(power, f), series[i]);
    const uint32_t bits = (uint32_t)(127 + SAMPLE_BITS + n) << 23; // 2^(30 + n)
    memcpy(&scale, &bits, sizeof scale);
    return (int32_t)SAMPLE_ADD(SAMPLE_MUL(power, scale), 0.5f);
}

// The exponent of e before it is a weight. The largest has 0, whatever it is; what is not a number
// has no weight.
HOST_DEVICE static inline float sample_exponent(float logit, float largest, float scale)
{
    return logit == largest ? 0 : SAMPLE_MUL(SAMPLE_ADD(logit, -largest), scale);
}

// The least weight that min_p allows.
HOST_DEVICE static inline int32_t sample_least(float min_p)
{
    const double exact = (double)min_p * (1 << SAMPLE_BITS);
    const int32_t least = (int32_t)exact;
    return least < exact ? least + 1 : least > 0 ? least : 1;
}

HOST_DEVICE static inline float sample_penalise(float logit, float penalty)
{
    return logit > 0 ? logit / penalty : SAMPLE_MUL(logit, penalty);
}

// A number below `sum`, from 64 random bits.
HOST_DEVICE static inline uint64_t sample_point(uint64_t random, uint64_t sum)
{
#ifdef __CUDA_ARCH__
    return __umul64hi(random, sum);
#else
    return (uint64_t)(((unsigned __int128)random * sum) >> 64);
#endif
}

#endif
