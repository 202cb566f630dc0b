// SPDX-License-Identifier: Apache-2.0
// Sums of gradients: see kernels/ref/accumulate.c. A thread takes up to eight elements at a
// time; of each it reads term and sum and writes the sum: 4 + 2 + 2 bytes for float32 terms and
// bfloat16 sums.
#include "kernels/cuda/cuda.h"

enum { THREADS = 256 };
static const unsigned BLOCKS = 132 * 16; // at most: what 132 multiprocessors hold twice

static __device__ __forceinline__ bf16 round_stochastically(float value, uint32_t random)
{
    if (value != value)
        return {0x7fc0};
    return {(uint16_t)((__float_as_uint(value) + (random & 0xffffu)) >> 16)};
}

template <enum access S, enum access T>
static __global__ void accumulate_kernel(struct accumulate a)
{
    enum { COUNT = lane<S>::COUNT };
    static_assert((int)COUNT == lane<T>::COUNT, "as many sums as terms");
    float sums[COUNT], terms[COUNT];
    for (size_t i = ((size_t)blockIdx.x * THREADS + threadIdx.x) * COUNT; i < a.count;
         i += (size_t)gridDim.x * THREADS * COUNT) {
        const struct lane<S> before = lane_load<S>(a.sums, i);
        lane_widen(terms, lane_load<T>(a.terms, i));
        lane_widen(sums, before);
        for (int j = 0; j < COUNT; j++) {
            sums[j] += terms[j];
            if (a.sums.dtype == DTYPE_BF16) // which storing then leaves as it is
                sums[j] = bf16_widen(
                    round_stochastically(sums[j], moment_random(a.first + i + (size_t)j, a.draw)));
        }
        lane_store<S>(a.sums, i, sums);
    }
}

template <enum access S, enum access T>
static void launch(struct device *device, const struct accumulate *a)
{
    const unsigned needed = blocks_of(a->count, (size_t)THREADS * lane<S>::COUNT);
    CUDA_LAUNCH((accumulate_kernel<S, T>), needed < BLOCKS ? needed : BLOCKS, THREADS, 0,
                cuda_of(device)->stream, *a);
}

// Four elements of bfloat16 beside four of float32.
static bool are_mixed_lanes(const struct accumulate *a)
{
    return a->sums.dtype == DTYPE_BF16 && a->terms.dtype == DTYPE_F32 && a->count % 4 == 0 &&
           (uintptr_t)a->sums.data % 8 == 0 && (uintptr_t)a->terms.data % 16 == 0;
}

void cuda_accumulate(struct device *device, const struct accumulate *a)
{
    if (a->count == 0)
        return;
    const struct tensor tensors[] = {a->sums, a->terms};
    const enum access access = access_of(tensors, 2, a->count);
    if (are_mixed_lanes(a))
        launch<ACCESS_BF16_SHORT, ACCESS_F32>(device, a);
    else if (access == ACCESS_BF16)
        launch<ACCESS_BF16, ACCESS_BF16>(device, a);
    else if (access == ACCESS_F32)
        launch<ACCESS_F32, ACCESS_F32>(device, a);
    else
        launch<ACCESS_ANY, ACCESS_ANY>(device, a);
    cuda_launched(device, "accumulate");
}
