// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/isa.h"

#include <string.h>

struct gather_job {
    const struct rows_gather *a;
    size_t step;
};

static void gather_task(void *argument, size_t task, int thread)
{
    (void)thread;
    const struct gather_job *job = argument;
    const struct rows_gather *a = job->a;
    size_t end = min_size((task + 1) * job->step, a->rows);
    size_t bytes = a->width * dtype_bytes(a->x.dtype);
    for (size_t row = task * job->step; row < end; row++)
        memcpy((char *)a->out.data + row * bytes,
               (const char *)a->x.data + (size_t)a->index[row] * bytes, bytes);
}

void ISA(rows_gather)(struct device *device, const struct rows_gather *a)
{
    if (a->out.dtype != a->x.dtype) {
        ref_rows_gather(device, a);
        return;
    }
    struct gather_job job = {.a = a, .step = rows_per_task(a->width)};
    cpu_run(device, ceil_div(a->rows, job.step), gather_task, &job);
}

struct scatter_job {
    const struct rows_scatter_add *a;
    size_t step;
};

static void scatter_task(void *argument, size_t task, int thread)
{
    (void)thread;
    const struct scatter_job *job = argument;
    const struct rows_scatter_add *a = job->a;
    size_t end = min_size((task + 1) * job->step, a->rows);
    for (size_t row = task * job->step; row < end; row++) {
        float *out = (float *)a->out.data + (size_t)a->index[row] * a->width;
        const float *x = (const float *)a->x.data + row * a->width;
        for (size_t i = 0; i < a->width; i++)
            out[i] += x[i];
    }
}

void ISA(rows_scatter_add)(struct device *device, const struct rows_scatter_add *a)
{
    if (a->out.dtype != DTYPE_F32 || a->x.dtype != DTYPE_F32) {
        ref_rows_scatter_add(device, a);
        return;
    }
    struct scatter_job job = {.a = a, .step = rows_per_task(a->width)};
    cpu_run(device, ceil_div(a->rows, job.step), scatter_task, &job);
}
