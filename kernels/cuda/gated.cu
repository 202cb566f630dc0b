// SPDX-License-Identifier: Apache-2.0
// Gated activations: see kernels/ref/gated.c. Element by element; forward moves 3 R F elements,
// backward 5 R F.
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

template <int V> static __global__ void gated_forward_kernel(struct gated_forward a)
{
    const size_t row = blockIdx.x, i = ((size_t)blockIdx.y * THREADS + threadIdx.x) * V;
    if (i >= a.width)
        return;
    float gate[V], up[V];
    load_values<V>(gate, a.gate_up, row * 2 * a.width + i);
    load_values<V>(up, a.gate_up, row * 2 * a.width + a.width + i);
    for (int j = 0; j < V; j++)
        up[j] *= activate(a.activation, gate[j]).value;
    store_values<V>(a.out, row * a.width + i, up);
}

void cuda_gated_forward(struct device *device, const struct gated_forward *a)
{
    if (a->rows == 0 || a->width == 0)
        return;
    const struct tensor tensors[] = {a->out, a->gate_up};
    const bool vectors = can_vectorize(tensors, 2, a->width);
    const dim3 grid((unsigned)a->rows, blocks_of(a->width, THREADS * (vectors ? 8 : 1)));
    if (vectors)
        CUDA_LAUNCH(gated_forward_kernel<8>, grid, THREADS, 0, cuda_of(device)->stream, *a);
    else
        CUDA_LAUNCH(gated_forward_kernel<1>, grid, THREADS, 0, cuda_of(device)->stream, *a);
    cuda_launched(device, "gated_forward");
}

template <int V> static __global__ void gated_backward_kernel(struct gated_backward a)
{
    const size_t row = blockIdx.x, i = ((size_t)blockIdx.y * THREADS + threadIdx.x) * V;
    const size_t at = row * 2 * a.width + i;
    if (i >= a.width)
        return;
    float gate[V], up[V], grad[V];
    load_values<V>(gate, a.gate_up, at);
    load_values<V>(up, a.gate_up, at + a.width);
    load_values<V>(grad, a.grad_out, row * a.width + i);
    for (int j = 0; j < V; j++) {
        const struct activated f = activate(a.activation, gate[j]);
        gate[j] = grad[j] * up[j] * f.slope;
        up[j] = grad[j] * f.value;
    }
    store_values<V>(a.grad_gate_up, at, gate);
    store_values<V>(a.grad_gate_up, at + a.width, up);
}

void cuda_gated_backward(struct device *device, const struct gated_backward *a)
{
    if (a->rows == 0 || a->width == 0)
        return;
    const struct tensor tensors[] = {a->grad_gate_up, a->grad_out, a->gate_up};
    const bool vectors = can_vectorize(tensors, 3, a->width);
    const dim3 grid((unsigned)a->rows, blocks_of(a->width, THREADS * (vectors ? 8 : 1)));
    if (vectors)
        CUDA_LAUNCH(gated_backward_kernel<8>, grid, THREADS, 0, cuda_of(device)->stream, *a);
    else
        CUDA_LAUNCH(gated_backward_kernel<1>, grid, THREADS, 0, cuda_of(device)->stream, *a);
    cuda_launched(device, "gated_backward");
}
