// SPDX-License-Identifier: Apache-2.0
// Both activations are x sigma(z(x)), see ref/gated.c. sigma' = sigma (1 - sigma) would cancel
// where sigma is nearly 1; with e = exp(-z), sigma = 1 / (1 + e) and sigma' = e sigma^2 it does
// not.
#include "kernels/cpu/isa.h"
#include "kernels/cpu/simd.h"

struct activated {
    vf value;
    vf slope;
};

static inline struct activated activate(enum activation activation, vf x, bool slope)
{
    const float root = 0.79788456080286536f; // sqrt(2 / pi)
    vf z = x, dz = vf_set(1), xx = x * x;
    if (activation == ACTIVATION_GELU_TANH) {
        z = 2 * root * x * vf_fma(xx, vf_set(0.044715f), vf_set(1));
        dz = 2 * root * vf_fma(xx, vf_set(3 * 0.044715f), vf_set(1));
    }
    vf e = vf_exp(-z);
    // Below, vf_exp stays at its bound, and what is left of sigma would show beside a huge x.
    vf sigma = vf_select(z < -88, vf_set(0), 1 / (1 + e));
    struct activated result = {.value = x * sigma};
    if (!slope)
        return result;
    vf bend = e * sigma * sigma;
    result.slope = sigma + vf_select(bend > 0, x * bend * dz, vf_set(0));
    return result;
}

static inline void forward_part(float *out, const float *gate_up, size_t width, size_t count,
                                enum activation activation)
{
    vf gate = vf_load_part(gate_up, count), up = vf_load_part(gate_up + width, count);
    vf_store_part(out, activate(activation, gate, false).value * up, count);
}

struct forward_job {
    const struct gated_forward *a;
    size_t step;
};

static void forward_task(void *argument, size_t task, int thread)
{
    (void)thread;
    const struct forward_job *job = argument;
    const struct gated_forward *a = job->a;
    size_t end = min_size((task + 1) * job->step, a->rows), whole = a->width / VF_LANES * VF_LANES;
    for (size_t row = task * job->step; row < end; row++) {
        const float *gate_up = (const float *)a->gate_up.data + row * 2 * a->width;
        float *out = (float *)a->out.data + row * a->width;
        for (size_t i = 0; i < whole; i += VF_LANES)
            forward_part(out + i, gate_up + i, a->width, VF_LANES, a->activation);
        forward_part(out + whole, gate_up + whole, a->width, a->width - whole, a->activation);
    }
}

void ISA(gated_forward)(struct device *device, const struct gated_forward *a)
{
    if (a->out.dtype != DTYPE_F32 || a->gate_up.dtype != DTYPE_F32) {
        ref_gated_forward(device, a);
        return;
    }
    struct forward_job job = {.a = a, .step = rows_per_task(a->width)};
    cpu_run(device, ceil_div(a->rows, job.step), forward_task, &job);
}

static inline void backward_part(float *grad_gate_up, const float *grad_out, const float *gate_up,
                                 size_t width, size_t count, enum activation activation)
{
    vf up = vf_load_part(gate_up + width, count), grad = vf_load_part(grad_out, count);
    struct activated gate = activate(activation, vf_load_part(gate_up, count), true);
    vf_store_part(grad_gate_up, grad * up * gate.slope, count);
    vf_store_part(grad_gate_up + width, grad * gate.value, count);
}

struct backward_job {
    const struct gated_backward *a;
    size_t step;
};

static void backward_task(void *argument, size_t task, int thread)
{
    (void)thread;
    const struct backward_job *job = argument;
    const struct gated_backward *a = job->a;
    size_t end = min_size((task + 1) * job->step, a->rows), whole = a->width / VF_LANES * VF_LANES;
    for (size_t row = task * job->step; row < end; row++) {
        size_t at = row * 2 * a->width;
        const float *gate_up = (const float *)a->gate_up.data + at;
        const float *grad_out = (const float *)a->grad_out.data + row * a->width;
        float *grad = (float *)a->grad_gate_up.data + at;
        for (size_t i = 0; i < whole; i += VF_LANES)
            backward_part(grad + i, grad_out + i, gate_up + i, a->width, VF_LANES, a->activation);
        backward_part(grad + whole, grad_out + whole, gate_up + whole, a->width, a->width - whole,
                      a->activation);
    }
}

void ISA(gated_backward)(struct device *device, const struct gated_backward *a)
{
    if (a->grad_gate_up.dtype != DTYPE_F32 || a->grad_out.dtype != DTYPE_F32 ||
        a->gate_up.dtype != DTYPE_F32) {
        ref_gated_backward(device, a);
        return;
    }
    struct backward_job job = {.a = a, .step = rows_per_task(a->width)};
    cpu_run(device, ceil_div(a->rows, job.step), backward_task, &job);
}
