// SPDX-License-Identifier: Apache-2.0
// Selected rows: see kernels/ref/rows.c. One block a row, DEPTH loads of 16 bytes under way in each
// of its threads (of each tensor), so that one pass takes rows of up to 8,192 bf16 elements; 2 R D
// elements moved, 3 R D when added.
#include "kernels/cuda/cuda.h"

enum { THREADS = 256, DEPTH = 4 };

template <enum access A> static __global__ void rows_gather_kernel(struct rows_gather a)
{
    enum { COUNT = lane<A>::COUNT, STEP = THREADS * COUNT };
    const size_t to = blockIdx.x * a.width, from = (size_t)a.index[blockIdx.x] * a.width;
    struct lane<A> x[DEPTH];
    float values[COUNT];
    for (size_t i = threadIdx.x * COUNT; i < a.width; i += DEPTH * STEP) {
#pragma unroll
        for (int d = 0; d < DEPTH; d++)
            if (i + d * STEP < a.width)
                x[d] = lane_load<A>(a.x, from + i + d * STEP);
#pragma unroll
        for (int d = 0; d < DEPTH; d++)
            if (i + d * STEP < a.width) {
                lane_widen(values, x[d]);
                lane_store<A>(a.out, to + i + d * STEP, values);
            }
    }
}

void cuda_rows_gather(struct device *device, const struct rows_gather *a)
{
    if (a->rows == 0)
        return;
    const struct tensor tensors[] = {a->out, a->x};
    CUDA_LAUNCH_ACCESS(access_of(tensors, 2, a->width), rows_gather_kernel, (unsigned)a->rows,
                       THREADS, 0, cuda_of(device)->stream, *a);
    cuda_launched(device, "rows_gather");
}

template <enum access A> static __global__ void rows_scatter_add_kernel(struct rows_scatter_add a)
{
    enum { COUNT = lane<A>::COUNT, STEP = THREADS * COUNT };
    const size_t from = blockIdx.x * a.width, to = (size_t)a.index[blockIdx.x] * a.width;
    struct lane<A> x[DEPTH], before[DEPTH];
    float values[COUNT], sums[COUNT];
    for (size_t i = threadIdx.x * COUNT; i < a.width; i += DEPTH * STEP) {
#pragma unroll
        for (int d = 0; d < DEPTH; d++)
            if (i + d * STEP < a.width) {
                x[d] = lane_load<A>(a.x, from + i + d * STEP);
                before[d] = lane_load<A>(a.out, to + i + d * STEP);
            }
#pragma unroll
        for (int d = 0; d < DEPTH; d++)
            if (i + d * STEP < a.width) {
                lane_widen(values, x[d]);
                lane_widen(sums, before[d]);
#pragma unroll
                for (int j = 0; j < COUNT; j++)
                    sums[j] += values[j];
                lane_store<A>(a.out, to + i + d * STEP, sums);
            }
    }
}

void cuda_rows_scatter_add(struct device *device, const struct rows_scatter_add *a)
{
    if (a->rows == 0)
        return;
    const struct tensor tensors[] = {a->out, a->x};
    CUDA_LAUNCH_ACCESS(access_of(tensors, 2, a->width), rows_scatter_add_kernel, (unsigned)a->rows,
                       THREADS, 0, cuda_of(device)->stream, *a);
    cuda_launched(device, "rows_scatter_add");
}
