// SPDX-License-Identifier: Apache-2.0
// Dropout and scaling: see kernels/ref/dropout.c. One block a row, a thread 16 bytes of each tensor
// at once; 2 R D elements moved, 3 R D when added. The random bits cost some 40 instructions an
// element, more than the memory's time: two thirds of copy bandwidth is what to expect in bf16.
#include "kernels/cuda/cuda.h"

enum { THREADS = 256 };

template <enum access A> static __global__ void dropout_kernel(struct dropout a)
{
    enum { COUNT = lane<A>::COUNT };
    const size_t row = blockIdx.x, at = row * a.width;
    const uint64_t state = a.keys ? dropout_row(a.keys[row], a.stream) : 0;
    float x[COUNT], sum[COUNT];
    for (size_t i = threadIdx.x * COUNT; i < a.width; i += THREADS * COUNT) {
        const struct lane<A> from = lane_load<A>(a.x, at + i);
        const struct lane<A> before = a.accumulate ? lane_load<A>(a.out, at + i) : from;
        lane_widen(x, from);
        lane_widen(sum, before);
#pragma unroll
        for (int j = 0; j < COUNT; j++) {
            const bool kept = !a.keys || dropout_bits(state, i + (size_t)j) >= a.drop_below;
            x[j] = kept ? x[j] * a.factor : 0.0f;
            x[j] += a.accumulate ? sum[j] : 0.0f;
        }
        lane_store<A>(a.out, at + i, x);
    }
}

void cuda_dropout(struct device *device, const struct dropout *a)
{
    if (a->rows == 0)
        return;
    const struct tensor tensors[] = {a->out, a->x};
    CUDA_LAUNCH_ACCESS(access_of(tensors, 2, a->width), dropout_kernel, (unsigned)a->rows, THREADS,
                       0, cuda_of(device)->stream, *a);
    cuda_launched(device, "dropout");
}
