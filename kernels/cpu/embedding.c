// SPDX-License-Identifier: Apache-2.0
// Forward: tasks of rows. Backward: tasks of columns, each adding all tokens in order, so that the
// sum of a row has one order for any number of threads and needs no atomics.
#include "kernels/cpu/isa.h"
#include "kernels/cpu/simd.h"

struct forward_job {
    const struct embedding_forward *a;
    size_t step;
};

static void forward_task(void *argument, size_t task, int thread)
{
    (void)thread;
    const struct forward_job *job = argument;
    const struct embedding_forward *a = job->a;
    size_t end = min_size((task + 1) * job->step, a->tokens);
    for (size_t t = task * job->step; t < end; t++) {
        float *out = (float *)a->out.data + t * a->width;
        size_t at = (size_t)a->ids[t] * a->width;
        convert_to_f32(out, (const char *)a->weight.data + at * dtype_bytes(a->weight.dtype),
                       a->weight.dtype, a->width);
        for (size_t i = 0; a->scale != 1 && i < a->width; i++)
            out[i] *= a->scale;
    }
}

void ISA(embedding_forward)(struct device *device, const struct embedding_forward *a)
{
    if (a->out.dtype != DTYPE_F32) {
        ref_embedding_forward(device, a);
        return;
    }
    struct forward_job job = {.a = a, .step = rows_per_task(a->width)};
    cpu_run(device, ceil_div(a->tokens, job.step), forward_task, &job);
}

enum { COLUMNS = 128 };

static void backward_task(void *argument, size_t task, int thread)
{
    (void)thread;
    const struct embedding_backward *a = argument;
    size_t begin = task * COLUMNS, count = min_size(COLUMNS, a->width - begin);
    for (size_t t = 0; t < a->tokens; t++) {
        float *sum = (float *)a->grad_weight.data + (size_t)a->ids[t] * a->width + begin;
        const float *grad = (const float *)a->grad_out.data + t * a->width + begin;
        for (size_t i = 0; i < count; i++)
            sum[i] += grad[i] * a->scale;
    }
}

void ISA(embedding_backward)(struct device *device, const struct embedding_backward *a)
{
    if (a->grad_weight.dtype != DTYPE_F32 || a->grad_out.dtype != DTYPE_F32) {
        ref_embedding_backward(device, a);
        return;
    }
    cpu_run(device, ceil_div(a->width, COLUMNS), backward_task, (void *)a);
}
