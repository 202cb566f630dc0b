// SPDX-License-Identifier: Apache-2.0
// Memory-bound: 28 bytes per element. The two bias corrections are computed once, in double.
#include "kernels/cpu/isa.h"
#include "kernels/cpu/simd.h"

#include <math.h>

enum { TASK_ELEMENTS = 16384 };

struct job {
    const struct adamw *a;
    float rate, root, shrink; // lr / (1 - beta1^t), 1 / sqrt(1 - beta2^t), 1 - lr decay
    float keep1, keep2;       // 1 - beta1, 1 - beta2: rounded once
};

static inline void update(const struct job *job, size_t i, size_t count)
{
    const struct adamw *a = job->a;
    vf g = vf_load_part(a->grad + i, count) * a->grad_scale;
    vf m = vf_load_part(a->moment1 + i, count), v = vf_load_part(a->moment2 + i, count);
    vf p = vf_load_part(a->parameter + i, count) * job->shrink;
    m = vf_fma(g - m, vf_set(job->keep1), m);
    v = vf_fma(g * g, vf_set(job->keep2), v * a->beta2);
    p -= job->rate * m / vf_fma(vf_sqrt(v), vf_set(job->root), vf_set(a->epsilon));
    vf_store_part(a->parameter + i, p, count);
    vf_store_part(a->moment1 + i, m, count);
    vf_store_part(a->moment2 + i, v, count);
}

static void adamw_task(void *argument, size_t task, int thread)
{
    (void)thread;
    const struct job *job = argument;
    size_t i = task * TASK_ELEMENTS, end = min_size(i + TASK_ELEMENTS, job->a->count);
    for (; i + VF_LANES <= end; i += VF_LANES)
        update(job, i, VF_LANES);
    if (i < end)
        update(job, i, end - i);
}

void ISA(adamw)(struct device *device, const struct adamw *a)
{
    struct job job = {
        .a = a,
        .rate = (float)(a->learning_rate / (1 - pow(a->beta1, (double)a->step))),
        .root = (float)(1 / sqrt(1 - pow(a->beta2, (double)a->step))),
        .shrink = (float)(1 - (double)a->learning_rate * a->weight_decay),
        .keep1 = (float)(1 - (double)a->beta1),
        .keep2 = (float)(1 - (double)a->beta2),
    };
    cpu_run(device, ceil_div(a->count, TASK_ELEMENTS), adamw_task, &job);
}
