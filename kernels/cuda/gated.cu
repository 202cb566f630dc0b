// SPDX-License-Identifier: Apache-2.0
// Gated activations: see kernels/ref/gated.c. A thread takes 16 bytes of each tensor: two loads
// under way in forward, three in backward, 64 and 96 KB on a multiprocessor with 2,048 threads.
// Forward moves 3 R F elements, backward 5 R F.
#include "kernels/cuda/cuda.h"

enum { THREADS = 256 };

struct activated {
    float value, slope;
};

static __device__ __forceinline__ struct activated activate(enum activation activation, float x)
{
    const float root = 0.7978845608f; // sqrt(2 / pi)
    float z = x, dz = 1;
    if (activation == ACTIVATION_GELU_TANH) {
        z = 2 * root * (x + 0.044715f * x * x * x);
        dz = 2 * root * (1 + 3 * 0.044715f * x * x);
    }
    const float sigma = 1 / (1 + expf(-z)), sigma_slope = sigma * (1 - sigma);
    // Far out sigma' is 0 exactly while z' may have overflowed.
    return {x * sigma, sigma + (sigma_slope > 0 ? x * sigma_slope * dz : 0)};
}

template <enum access A> static __global__ void gated_forward_kernel(struct gated_forward a)
{
    enum { COUNT = lane<A>::COUNT };
    const size_t row = blockIdx.x, i = ((size_t)blockIdx.y * THREADS + threadIdx.x) * COUNT;
    if (i >= a.width)
        return;
    const struct lane<A> gates = lane_load<A>(a.gate_up, row * 2 * a.width + i);
    const struct lane<A> ups = lane_load<A>(a.gate_up, row * 2 * a.width + a.width + i);
    float gate[COUNT], up[COUNT];
    lane_widen(gate, gates);
    lane_widen(up, ups);
#pragma unroll
    for (int j = 0; j < COUNT; j++)
        up[j] *= activate(a.activation, gate[j]).value;
    lane_store<A>(a.out, row * a.width + i, up);
}

void cuda_gated_forward(struct device *device, const struct gated_forward *a)
{
    if (a->rows == 0 || a->width == 0)
        return;
    const struct tensor tensors[] = {a->out, a->gate_up};
    const enum access access = access_of(tensors, 2, a->width);
    const dim3 grid((unsigned)a->rows, blocks_of(a->width, THREADS * access_elements(access)));
    CUDA_LAUNCH_ACCESS(access, gated_forward_kernel, grid, THREADS, 0, cuda_of(device)->stream, *a);
    cuda_launched(device, "gated_forward");
}

template <enum access A> static __global__ void gated_backward_kernel(struct gated_backward a)
{
    enum { COUNT = lane<A>::COUNT };
    const size_t row = blockIdx.x, i = ((size_t)blockIdx.y * THREADS + threadIdx.x) * COUNT;
    const size_t at = row * 2 * a.width + i;
    if (i >= a.width)
        return;
    const struct lane<A> gates = lane_load<A>(a.gate_up, at);
    const struct lane<A> ups = lane_load<A>(a.gate_up, at + a.width);
    const struct lane<A> grads = lane_load<A>(a.grad_out, row * a.width + i);
    float gate[COUNT], up[COUNT], grad[COUNT];
    lane_widen(gate, gates);
    lane_widen(up, ups);
    lane_widen(grad, grads);
#pragma unroll
    for (int j = 0; j < COUNT; j++) {
        const struct activated f = activate(a.activation, gate[j]);
        gate[j] = grad[j] * up[j] * f.slope;
        up[j] = grad[j] * f.value;
    }
    lane_store<A>(a.grad_gate_up, at, gate);
    lane_store<A>(a.grad_gate_up, at + a.width, up);
}

void cuda_gated_backward(struct device *device, const struct gated_backward *a)
{
    if (a->rows == 0 || a->width == 0)
        return;
    const struct tensor tensors[] = {a->grad_gate_up, a->grad_out, a->gate_up};
    const enum access access = access_of(tensors, 3, a->width);
    const dim3 grid((unsigned)a->rows, blocks_of(a->width, THREADS * access_elements(access)));
    CUDA_LAUNCH_ACCESS(access, gated_backward_kernel, grid, THREADS, 0, cuda_of(device)->stream,
                       *a);
    cuda_launched(device, "gated_backward");
}
