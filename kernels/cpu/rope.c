// SPDX-License-Identifier: Apache-2.0
// Tasks of tokens: the cosines and sines of a token's position serve all its heads.
//
// The angle is reduced by multiples of pi/2 in double (positions reach 10^5, where float32 has two
// digits of the angle left but the reduction must add no error of its own); the remainder, at most
// pi/4, goes through the Taylor polynomials of sine (to r^9) and cosine (to r^10), whose remainders
// are below 2e-9 and 2e-10.
#include "kernels/cpu/isa.h"
#include "kernels/cpu/simd.h"

struct job {
    struct device *device;
    const struct rope *a;
    size_t step;
};

static void turn(float *cosines, float *sines, float position, const float *frequency, size_t count,
                 float magnitude)
{
    const double half_pi = 1.57079632679489661923, magic = 0x1.8p52;
    for (size_t i = 0; i < count; i++) {
        float angle = position * frequency[i];
        double shifted = angle * (1 / half_pi) + magic, quarters = shifted - magic;
        float r = (float)(angle - quarters * half_pi), rr = r * r;
        float s =
            r +
            r * rr * (-1.0f / 6 + rr * (1.0f / 120 + rr * (-1.0f / 5040 + rr * (1.0f / 362880))));
        float c =
            1 +
            rr * (-0.5f + rr * (1.0f / 24 +
                                rr * (-1.0f / 720 + rr * (1.0f / 40320 + rr * (-1.0f / 3628800)))));
        int64_t bits;
        memcpy(&bits, &shifted, sizeof bits);
        int quarter = (int)(bits & 3);
        float cosine = quarter & 1 ? s : c, sine = quarter & 1 ? c : s;
        cosines[i] = (quarter == 1 || quarter == 2 ? -cosine : cosine) * magnitude;
        sines[i] = (quarter & 2 ? -sine : sine) * magnitude;
    }
}

static void rotate(float *x, const float *cosines, const float *sines, size_t half)
{
    float *y = x + half;
    for (size_t i = 0; i < half; i++) {
        float first = x[i] * cosines[i] - y[i] * sines[i];
        y[i] = y[i] * cosines[i] + x[i] * sines[i];
        x[i] = first;
    }
}

static void rope_task(void *argument, size_t task, int thread)
{
    const struct job *job = argument;
    const struct rope *a = job->a;
    size_t half = a->head_width / 2, end = min_size((task + 1) * job->step, a->tokens);
    float *cosines =
        scratch_reserve(&device_cpu(job->device)->threads[thread], 2 * half * sizeof *cosines);
    float *sines = cosines + half;
    for (size_t t = task * job->step; t < end; t++) {
        float *x = (float *)a->x.data + t * a->stride;
        turn(cosines, sines, (float)a->positions[t], a->inverse_frequency, half, a->magnitude);
        for (size_t i = 0; a->backward && i < half; i++)
            sines[i] = -sines[i];
        for (size_t head = 0; head < a->heads; head++)
            rotate(x + head * a->head_width, cosines, sines, half);
    }
}

void ISA(rope)(struct device *device, const struct rope *a)
{
    if (a->x.dtype != DTYPE_F32) {
        ref_rope(device, a);
        return;
    }
    struct job job = {.device = device, .a = a, .step = rows_per_task(a->heads * a->head_width)};
    cpu_run(device, ceil_div(a->tokens, job.step), rope_task, &job);
}
