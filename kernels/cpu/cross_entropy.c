// SPDX-License-Identifier: Apache-2.0
// Tasks of rows. Backward writes the exponentials in place while it sums them and then scales them,
// so that each is computed once. The sum of a vocabulary of 10^5 keeps four vectors, so a lane adds
// few thousand terms.
#include "kernels/cpu/isa.h"
#include "kernels/cpu/simd.h"

#include <math.h>

static float largest_of(const float *x, size_t count)
{
    vf largest = vf_set(-INFINITY);
    size_t whole = count / VF_LANES * VF_LANES;
    for (size_t i = 0; i < whole; i += VF_LANES)
        largest = vf_max(vf_load(x + i), largest);
    float result = vf_largest(largest);
    for (size_t i = whole; i < count; i++)
        result = x[i] > result ? x[i] : result;
    return result;
}

// sum of exp(x - largest); with `keep` the terms replace x.
static inline float sum_exp(float *x, size_t count, float largest, bool keep)
{
    vf sums[4] = {0};
    size_t i = 0;
    for (; i + 4 * VF_LANES <= count; i += 4 * VF_LANES)
        for (size_t lane = 0; lane < 4; lane++) {
            vf e = vf_exp(vf_load(x + i + lane * VF_LANES) - largest);
            if (keep)
                vf_store(x + i + lane * VF_LANES, e);
            sums[lane] += e;
        }
    for (; i < count; i += VF_LANES) {
        size_t part = min_size(VF_LANES, count - i);
        float padded[VF_LANES];
        for (size_t lane = 0; lane < VF_LANES; lane++)
            padded[lane] = lane < part ? x[i + lane] : -INFINITY;
        vf e = vf_exp(vf_load(padded) - largest);
        if (keep)
            vf_store_part(x + i, e, part);
        sums[0] += e;
    }
    return vf_sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

struct job {
    const struct cross_entropy *a;
    size_t step;
};

static void cross_entropy_row(const struct cross_entropy *a, size_t row)
{
    float *x = (float *)a->logits.data + row * a->vocabulary;
    size_t target = (size_t)a->targets[row];
    float goal = x[target], largest = largest_of(x, a->vocabulary);
    float sum = a->backward ? sum_exp(x, a->vocabulary, largest, true)
                            : sum_exp(x, a->vocabulary, largest, false);
    a->losses[row] = logf(sum) + (largest - goal);
    if (!a->backward)
        return;
    float scale = a->grad_scale / sum;
    for (size_t v = 0; v < a->vocabulary; v++)
        x[v] *= scale;
    x[target] -= a->grad_scale;
}

static void cross_entropy_task(void *argument, size_t task, int thread)
{
    (void)thread;
    const struct job *job = argument;
    size_t end = min_size((task + 1) * job->step, job->a->rows);
    for (size_t row = task * job->step; row < end; row++)
        cross_entropy_row(job->a, row);
}

void ISA(cross_entropy)(struct device *device, const struct cross_entropy *a)
{
    if (a->logits.dtype != DTYPE_F32) {
        ref_cross_entropy(device, a);
        return;
    }
    struct job job = {.a = a, .step = rows_per_task(a->vocabulary)};
    cpu_run(device, ceil_div(a->rows, job.step), cross_entropy_task, &job);
}
