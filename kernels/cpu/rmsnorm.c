// SPDX-License-Identifier: Apache-2.0
// Tasks of rows. A row's sums are kept in two vectors that take turns, so their order depends on
// the width alone. grad_weight is summed in chunks of CHUNK_ROWS rows and the chunks are added in
// order: the same bits for any number of threads.
#include "kernels/cpu/isa.h"
#include "kernels/cpu/simd.h"

#include <math.h>

enum { CHUNK_ROWS = 64 };

static vf weight_at(struct tensor weight, float offset, size_t i)
{
    return vf_load_any(weight.data, weight.dtype, i) + offset;
}

static vf weight_part(struct tensor weight, float offset, size_t i, size_t count)
{
    return vf_load_any_part(weight.data, weight.dtype, i, count) + offset;
}

static float mean_square(const float *x, size_t width)
{
    vf even = vf_set(0), odd = vf_set(0);
    size_t i = 0;
    for (; i + 2 * VF_LANES <= width; i += 2 * VF_LANES) {
        vf a = vf_load(x + i), b = vf_load(x + i + VF_LANES);
        even = vf_fma(a, a, even);
        odd = vf_fma(b, b, odd);
    }
    for (; i < width; i += VF_LANES) {
        vf a = vf_load_part(x + i, min_size(VF_LANES, width - i));
        even = vf_fma(a, a, even);
    }
    return vf_sum(even + odd) / (float)width;
}

struct forward_job {
    const struct rmsnorm_forward *a;
    size_t step;
};

static void forward_row(const struct rmsnorm_forward *a, size_t row)
{
    size_t at = norm_row(row, a->width, a->heads, a->stride);
    const float *x = (const float *)a->x.data + at;
    const float *residual = a->residual.data ? (const float *)a->residual.data + at : NULL;
    float *out = (float *)a->out.data + at;
    float r = 1 / sqrtf(mean_square(x, a->width) + a->epsilon);
    size_t whole = a->width / VF_LANES * VF_LANES, rest = a->width - whole;
    for (size_t i = 0; i < whole; i += VF_LANES) {
        vf value = vf_load(x + i) * r * weight_at(a->weight, a->weight_offset, i);
        vf_store(out + i, residual ? vf_load(residual + i) + value : value);
    }
    if (rest > 0) {
        vf w = weight_part(a->weight, a->weight_offset, whole, rest);
        vf value = vf_load_part(x + whole, rest) * r * w;
        if (residual)
            value += vf_load_part(residual + whole, rest);
        vf_store_part(out + whole, value, rest);
    }
    if (a->rstd)
        a->rstd[row] = r;
}

static void forward_task(void *argument, size_t task, int thread)
{
    (void)thread;
    const struct forward_job *job = argument;
    size_t end = min_size((task + 1) * job->step, job->a->rows);
    for (size_t row = task * job->step; row < end; row++)
        forward_row(job->a, row);
}

void ISA(rmsnorm_forward)(struct device *device, const struct rmsnorm_forward *a)
{
    if (a->out.dtype != DTYPE_F32 || a->x.dtype != DTYPE_F32 ||
        (a->residual.data && a->residual.dtype != DTYPE_F32)) {
        ref_rmsnorm_forward(device, a);
        return;
    }
    struct forward_job job = {.a = a, .step = rows_per_task(a->width)};
    cpu_run(device, ceil_div(a->rows, job.step), forward_task, &job);
}

struct backward_job {
    const struct rmsnorm_backward *a;
    float *partial; // [chunks, width]
};

// grad_x of one row; adds the row's share to `partial`.
static void backward_row(const struct rmsnorm_backward *a, size_t row, float *partial)
{
    size_t at = norm_row(row, a->width, a->heads, a->stride);
    const float *x = (const float *)a->x.data + at;
    const float *g = (const float *)a->grad_out.data + at;
    float *grad = (float *)a->grad_x.data + at;
    float r = a->rstd[row];
    size_t whole = a->width / VF_LANES * VF_LANES, rest = a->width - whole;
    vf sum = vf_set(0);
    for (size_t i = 0; i < whole; i += VF_LANES) {
        vf w = weight_at(a->weight, a->weight_offset, i);
        sum = vf_fma(vf_load(g + i) * w, vf_load(x + i), sum);
    }
    vf x_rest = vf_load_part(x + whole, rest), g_rest = vf_load_part(g + whole, rest);
    vf w_rest = weight_part(a->weight, a->weight_offset, whole, rest);
    sum = vf_fma(g_rest * w_rest, x_rest, sum);
    vf along = vf_set(-r * r * r / (float)a->width * vf_sum(sum));
    for (size_t i = 0; i < whole; i += VF_LANES) {
        vf w = weight_at(a->weight, a->weight_offset, i), xi = vf_load(x + i);
        vf gr = vf_load(g + i) * r, before = a->overwrite ? vf_set(0) : vf_load(grad + i);
        vf_store(grad + i, before + vf_fma(gr, w, xi * along));
        vf_store(partial + i, vf_fma(gr, xi, vf_load(partial + i)));
    }
    vf gr = g_rest * r;
    vf before = a->overwrite ? vf_set(0) : vf_load_part(grad + whole, rest);
    vf_store_part(grad + whole, before + vf_fma(gr, w_rest, x_rest * along), rest);
    vf_store_part(partial + whole, vf_fma(gr, x_rest, vf_load_part(partial + whole, rest)), rest);
}

static void backward_task(void *argument, size_t chunk, int thread)
{
    (void)thread;
    const struct backward_job *job = argument;
    float *partial = job->partial + chunk * job->a->width;
    memset(partial, 0, job->a->width * sizeof *partial);
    size_t end = min_size((chunk + 1) * CHUNK_ROWS, job->a->rows);
    for (size_t row = chunk * CHUNK_ROWS; row < end; row++)
        backward_row(job->a, row, partial);
}

void ISA(rmsnorm_backward)(struct device *device, const struct rmsnorm_backward *a)
{
    if (a->grad_x.dtype != DTYPE_F32 || a->grad_weight.dtype != DTYPE_F32 ||
        a->grad_out.dtype != DTYPE_F32 || a->x.dtype != DTYPE_F32) {
        ref_rmsnorm_backward(device, a);
        return;
    }
    size_t chunks = ceil_div(a->rows, CHUNK_ROWS);
    struct backward_job job = {.a = a};
    job.partial =
        scratch_reserve(&device_cpu(device)->shared, chunks * a->width * sizeof *job.partial);
    cpu_run(device, chunks, backward_task, &job);
    float *grad_weight = a->grad_weight.data;
    for (size_t chunk = 0; chunk < chunks; chunk++)
        for (size_t i = 0; i < a->width; i++)
            grad_weight[i] += job.partial[chunk * a->width + i];
}
