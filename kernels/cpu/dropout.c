// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/isa.h"

struct dropout_job {
    const struct dropout *a;
    size_t step;
};

static void dropout_row_f32(const struct dropout *a, size_t row)
{
    const float *x = (const float *)a->x.data + row * a->width;
    float *out = (float *)a->out.data + row * a->width;
    const uint64_t state = a->keys ? dropout_row(a->keys[row], a->stream) : 0;
    for (size_t i = 0; i < a->width; i++) {
        const bool kept = !a->keys || dropout_bits(state, i) >= a->drop_below;
        const float value = kept ? x[i] * a->factor : 0;
        out[i] = a->accumulate ? out[i] + value : value;
    }
}

static void dropout_task(void *argument, size_t task, int thread)
{
    (void)thread;
    const struct dropout_job *job = argument;
    const size_t end = min_size((task + 1) * job->step, job->a->rows);
    for (size_t row = task * job->step; row < end; row++)
        dropout_row_f32(job->a, row);
}

void ISA(dropout)(struct device *device, const struct dropout *a)
{
    if (a->out.dtype != DTYPE_F32 || a->x.dtype != DTYPE_F32) {
        ref_dropout(device, a);
        return;
    }
    struct dropout_job job = {.a = a, .step = rows_per_task(a->width)};
    cpu_run(device, ceil_div(a->rows, job.step), dropout_task, &job);
}
