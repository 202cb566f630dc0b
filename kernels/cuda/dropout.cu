// SPDX-License-Identifier: Apache-2.0
// Dropout and scaling: see kernels/ref/dropout.c. One block a row; 2 R D elements moved, 3 R D when
// added.
#include "kernels/cuda/cuda.h"

enum { THREADS = 256 };

template <int V> static __global__ void dropout_kernel(struct dropout a)
{
    const size_t row = blockIdx.x;
    const uint64_t state = a.keys ? dropout_row(a.keys[row], a.stream) : 0;
    float x[V], sum[V];
    for (size_t i = threadIdx.x * V; i < a.width; i += THREADS * V) {
        load_values<V>(x, a.x, row * a.width + i);
        for (int j = 0; j < V; j++) {
            const bool kept = !a.keys || dropout_bits(state, i + (size_t)j) >= a.drop_below;
            x[j] = kept ? x[j] * a.factor : 0.0f;
        }
        if (a.accumulate) {
            load_values<V>(sum, a.out, row * a.width + i);
            for (int j = 0; j < V; j++)
                x[j] += sum[j];
        }
        store_values<V>(a.out, row * a.width + i, x);
    }
}

void cuda_dropout(struct device *device, const struct dropout *a)
{
    if (a->rows == 0)
        return;
    const struct tensor tensors[] = {a->out, a->x};
    cudaStream_t stream = cuda_of(device)->stream;
    if (can_vectorize(tensors, 2, a->width))
        CUDA_LAUNCH(dropout_kernel<8>, (unsigned)a->rows, THREADS, 0, stream, *a);
    else
        CUDA_LAUNCH(dropout_kernel<1>, (unsigned)a->rows, THREADS, 0, stream, *a);
    cuda_launched(device, "dropout");
}
