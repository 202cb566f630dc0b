// SPDX-License-Identifier: Apache-2.0
// Root mean square norm: see kernels/ref/rmsnorm.c.
// A warp takes a narrow row (heads), a block a wide one, held in registers or read again from the
// cache. Forward moves 2 R D elements (3 with a residual); backward reads x and grad_out twice,
// once for the weight's gradient by columns and once by rows, 5 R D in all.
#include "kernels/cuda/cuda.h"

enum { BLOCK = 256, NARROW = 1024 };

static __device__ __forceinline__ size_t norm_row(size_t row, size_t width, size_t heads,
                                                  size_t stride)
{
    return heads ? row / heads * stride + row % heads * width : row * width;
}

// THREADS threads a row, BLOCK / THREADS rows a block.
template <int THREADS, int V>
static __global__ void rmsnorm_forward_kernel(struct rmsnorm_forward a)
{
    CUDA_SHARED(float, slots, BLOCK / WARP);
    const size_t row = (size_t)blockIdx.x * (BLOCK / THREADS) + threadIdx.x / THREADS;
    const size_t lane = threadIdx.x % THREADS;
    if (row >= a.rows)
        return; // whole warps, or the whole block
    const size_t at = norm_row(row, a.width, a.heads, a.stride);
    float x[V], w[V], out[V], squares = 0;
    for (size_t i = lane * V; i < a.width; i += THREADS * V) {
        load_values<V>(x, a.x, at + i);
        for (int j = 0; j < V; j++)
            squares += x[j] * x[j];
    }
    squares = block_sum<THREADS>(squares, slots);
    const float r = 1.0f / sqrtf(squares / (float)a.width + a.epsilon);
    for (size_t i = lane * V; i < a.width; i += THREADS * V) {
        load_values<V>(x, a.x, at + i);
        load_values<V>(w, a.weight, i);
        for (int j = 0; j < V; j++)
            out[j] = x[j] * r * (w[j] + a.weight_offset);
        if (a.residual.data) {
            load_values<V>(x, a.residual, at + i);
            for (int j = 0; j < V; j++)
                out[j] += x[j];
        }
        store_values<V>(a.out, at + i, out);
    }
    if (a.rstd && lane == 0)
        a.rstd[row] = r;
}

template <int THREADS>
static void forward_rows(struct device *device, const struct rmsnorm_forward *a, bool vectors)
{
    const unsigned blocks = blocks_of(a->rows, BLOCK / THREADS);
    cudaStream_t stream = cuda_of(device)->stream;
    if (vectors)
        CUDA_LAUNCH((rmsnorm_forward_kernel<THREADS, 8>), blocks, BLOCK, 0, stream, *a);
    else
        CUDA_LAUNCH((rmsnorm_forward_kernel<THREADS, 1>), blocks, BLOCK, 0, stream, *a);
}

void cuda_rmsnorm_forward(struct device *device, const struct rmsnorm_forward *a)
{
    if (a->rows == 0)
        return;
    const struct tensor tensors[] = {a->out, a->x, a->weight,
                                     a->residual.data ? a->residual : a->x};
    const bool vectors = can_vectorize(tensors, 4, a->width) && (!a->heads || a->stride % 8 == 0);
    if (a->width <= NARROW)
        forward_rows<WARP>(device, a, vectors);
    else
        forward_rows<BLOCK>(device, a, vectors);
    cuda_launched(device, "rmsnorm_forward");
}

template <int THREADS, int V>
static __global__ void rmsnorm_backward_rows_kernel(struct rmsnorm_backward a)
{
    CUDA_SHARED(float, slots, BLOCK / WARP);
    const size_t row = (size_t)blockIdx.x * (BLOCK / THREADS) + threadIdx.x / THREADS;
    const size_t lane = threadIdx.x % THREADS;
    if (row >= a.rows)
        return;
    const size_t at = norm_row(row, a.width, a.heads, a.stride);
    float x[V], g[V], w[V], before[V], dot = 0;
    for (size_t i = lane * V; i < a.width; i += THREADS * V) {
        load_values<V>(x, a.x, at + i);
        load_values<V>(g, a.grad_out, at + i);
        load_values<V>(w, a.weight, i);
        for (int j = 0; j < V; j++)
            dot += g[j] * (w[j] + a.weight_offset) * x[j];
    }
    dot = block_sum<THREADS>(dot, slots);
    const float r = a.rstd[row], back = r * r * r / (float)a.width * dot;
    for (size_t i = lane * V; i < a.width; i += THREADS * V) {
        load_values<V>(x, a.x, at + i);
        load_values<V>(g, a.grad_out, at + i);
        load_values<V>(w, a.weight, i);
        if (!a.overwrite)
            load_values<V>(before, a.grad_x, at + i);
        for (int j = 0; j < V; j++)
            x[j] =
                (a.overwrite ? 0 : before[j]) + (r * g[j] * (w[j] + a.weight_offset) - x[j] * back);
        store_values<V>(a.grad_x, at + i, x);
    }
}

// scratch[part, i] = sum over the part's rows of g x rstd, one thread a column.
static __global__ void rmsnorm_backward_weight_kernel(struct rmsnorm_backward a, float *scratch)
{
    const size_t i = (size_t)blockIdx.x * BLOCK + threadIdx.x, part = blockIdx.y;
    const size_t per_part = (a.rows + gridDim.y - 1) / gridDim.y;
    const size_t end = (part + 1) * per_part < a.rows ? (part + 1) * per_part : a.rows;
    if (i >= a.width)
        return;
    float sum = 0;
    for (size_t row = part * per_part; row < end; row++) {
        const size_t at = norm_row(row, a.width, a.heads, a.stride);
        sum += load(a.grad_out, at + i) * load(a.x, at + i) * a.rstd[row];
    }
    scratch[part * a.width + i] = sum;
}

template <int THREADS>
static void backward_rows(struct device *device, const struct rmsnorm_backward *a, bool vectors)
{
    const unsigned blocks = blocks_of(a->rows, BLOCK / THREADS);
    cudaStream_t stream = cuda_of(device)->stream;
    if (vectors)
        CUDA_LAUNCH((rmsnorm_backward_rows_kernel<THREADS, 8>), blocks, BLOCK, 0, stream, *a);
    else
        CUDA_LAUNCH((rmsnorm_backward_rows_kernel<THREADS, 1>), blocks, BLOCK, 0, stream, *a);
}

// The weight's gradient first: grad_x may be grad_out.
void cuda_rmsnorm_backward(struct device *device, const struct rmsnorm_backward *a)
{
    if (a->rows == 0)
        return;
    const unsigned parts = reduction_parts(a->rows, a->width);
    const dim3 grid(blocks_of(a->width, BLOCK), parts);
    CUDA_LAUNCH(rmsnorm_backward_weight_kernel, grid, BLOCK, 0, cuda_of(device)->stream, *a,
                (float *)cuda_of(device)->scratch);
    reduce_parts(device, a->grad_weight, parts, a->width);
    const struct tensor tensors[] = {a->grad_x, a->grad_out, a->x, a->weight};
    const bool vectors = can_vectorize(tensors, 4, a->width) && (!a->heads || a->stride % 8 == 0);
    if (a->width <= NARROW)
        backward_rows<WARP>(device, a, vectors);
    else
        backward_rows<BLOCK>(device, a, vectors);
    cuda_launched(device, "rmsnorm_backward");
}
