// SPDX-License-Identifier: Apache-2.0
// AdamW: see kernels/ref/adamw.c. A thread takes four elements: four loads of 16 bytes under way;
// reads 16 bytes and writes 12 of each element.
#include "kernels/cuda/adamw.h"

enum { THREADS = 256 };

template <enum access A>
static __global__ void adamw_kernel(struct adamw a, struct adamw_factors factors)
{
    enum { COUNT = lane<A>::COUNT };
    const struct tensor parameters = {a.parameter, DTYPE_F32}, moments1 = {a.moment1, DTYPE_F32};
    const struct tensor moments2 = {a.moment2, DTYPE_F32}, grads = {(void *)a.grad, DTYPE_F32};
    const size_t i = ((size_t)blockIdx.x * THREADS + threadIdx.x) * COUNT;
    float p[COUNT], m[COUNT], v[COUNT], g[COUNT];
    if (i >= a.count)
        return;
    const struct lane<A> from[4] = {
        lane_load<A>(parameters, i), lane_load<A>(moments1, i), lane_load<A>(moments2, i),
            lane_load<A>(grads, i)
    };
    lane_widen(p, from[0]);
    lane_widen(m, from[1]);
    lane_widen(v, from[2]);
    lane_widen(g, from[3]);
#pragma unroll
    for (int j = 0; j < COUNT; j++)
        adamw_element(&factors, g[j], p + j, m + j, v + j);
    lane_store<A>(parameters, i, p);
    lane_store<A>(moments1, i, m);
    lane_store<A>(moments2, i, v);
}

void cuda_adamw(struct device *device, const struct adamw *a)
{
    if (a->count == 0)
        return;
    const struct adamw_factors factors = adamw_factors_of(a);
    const struct tensor tensors[] = {{a->parameter, DTYPE_F32},
                                     {a->moment1, DTYPE_F32},
                                     {a->moment2, DTYPE_F32},
                                     {(void *)a->grad, DTYPE_F32}};
    cudaStream_t stream = cuda_of(device)->stream;
    if (access_of(tensors, 4, a->count) == ACCESS_F32)
        CUDA_LAUNCH(adamw_kernel<ACCESS_F32>, blocks_of(a->count, 4 * THREADS), THREADS, 0, stream,
                    *a, factors);
    else
        CUDA_LAUNCH(adamw_kernel<ACCESS_ANY>, blocks_of(a->count, THREADS), THREADS, 0, stream, *a,
                    factors);
    cuda_launched(device, "adamw");
}
