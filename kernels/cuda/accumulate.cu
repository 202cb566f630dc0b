// SPDX-License-Identifier: Apache-2.0
// Sums of gradients: see kernels/ref/accumulate.c. A thread takes V elements at a time; of each
// it reads term and sum and writes the sum: 4 + 2 + 2 bytes for float32 terms and bfloat16 sums.
#include "kernels/cuda/cuda.h"

enum { THREADS = 256, VECTOR = 8 };
static const unsigned BLOCKS = 132 * 16; // at most: what 132 multiprocessors hold twice

static __device__ __forceinline__ bf16 round_stochastically(float value, uint32_t random)
{
    if (value != value)
        return {0x7fc0};
    return {(uint16_t)((__float_as_uint(value) + (random & 0xffffu)) >> 16)};
}

template <int V> static __global__ void accumulate_kernel(struct accumulate a)
{
    float sums[V], terms[V];
    for (size_t i = ((size_t)blockIdx.x * THREADS + threadIdx.x) * V; i < a.count;
         i += (size_t)gridDim.x * THREADS * V) {
        load_values<V>(sums, a.sums, i);
        load_values<V>(terms, a.terms, i);
        for (int j = 0; j < V; j++) {
            sums[j] += terms[j];
            if (a.sums.dtype == DTYPE_BF16) // which storing then leaves as it is
                sums[j] = bf16_widen(
                    round_stochastically(sums[j], moment_random(a.first + i + (size_t)j, a.draw)));
        }
        store_values<V>(a.sums, i, sums);
    }
}

void cuda_accumulate(struct device *device, const struct accumulate *a)
{
    if (a->count == 0)
        return;
    const struct tensor tensors[] = {a->sums, a->terms};
    cudaStream_t stream = cuda_of(device)->stream;
    const bool wide = can_vectorize(tensors, 2, a->count);
    const size_t per_block = (size_t)THREADS * (wide ? VECTOR : 1);
    const unsigned needed = blocks_of(a->count, per_block);
    const unsigned blocks = needed < BLOCKS ? needed : BLOCKS;
    if (wide)
        CUDA_LAUNCH(accumulate_kernel<VECTOR>, blocks, THREADS, 0, stream, *a);
    else
        CUDA_LAUNCH(accumulate_kernel<1>, blocks, THREADS, 0, stream, *a);
    cuda_launched(device, "accumulate");
}
