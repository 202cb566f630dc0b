// SPDX-License-Identifier: Apache-2.0
// Selected rows: see kernels/ref/rows.c. One block a row; 2 R D elements moved, 3 R D when added.
#include "kernels/cuda/cuda.h"

enum { THREADS = 256 };

template <int V> static __global__ void rows_gather_kernel(struct rows_gather a)
{
    const size_t row = blockIdx.x, from = (size_t)a.index[row];
    float x[V];
    for (size_t i = threadIdx.x * V; i < a.width; i += THREADS * V) {
        load_values<V>(x, a.x, from * a.width + i);
        store_values<V>(a.out, row * a.width + i, x);
    }
}

void cuda_rows_gather(struct device *device, const struct rows_gather *a)
{
    if (a->rows == 0)
        return;
    const struct tensor tensors[] = {a->out, a->x};
    cudaStream_t stream = cuda_of(device)->stream;
    if (can_vectorize(tensors, 2, a->width))
        CUDA_LAUNCH(rows_gather_kernel<8>, (unsigned)a->rows, THREADS, 0, stream, *a);
    else
        CUDA_LAUNCH(rows_gather_kernel<1>, (unsigned)a->rows, THREADS, 0, stream, *a);
    cuda_launched(device, "rows_gather");
}

template <int V> static __global__ void rows_scatter_add_kernel(struct rows_scatter_add a)
{
    const size_t row = blockIdx.x, to = (size_t)a.index[row];
    float x[V], sum[V];
    for (size_t i = threadIdx.x * V; i < a.width; i += THREADS * V) {
        load_values<V>(x, a.x, row * a.width + i);
        load_values<V>(sum, a.out, to * a.width + i);
        for (int j = 0; j < V; j++)
            sum[j] += x[j];
        store_values<V>(a.out, to * a.width + i, sum);
    }
}

void cuda_rows_scatter_add(struct device *device, const struct rows_scatter_add *a)
{
    if (a->rows == 0)
        return;
    const struct tensor tensors[] = {a->out, a->x};
    cudaStream_t stream = cuda_of(device)->stream;
    if (can_vectorize(tensors, 2, a->width))
        CUDA_LAUNCH(rows_scatter_add_kernel<8>, (unsigned)a->rows, THREADS, 0, stream, *a);
    else
        CUDA_LAUNCH(rows_scatter_add_kernel<1>, (unsigned)a->rows, THREADS, 0, stream, *a);
    cuda_launched(device, "rows_scatter_add");
}
