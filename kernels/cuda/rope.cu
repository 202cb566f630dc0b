// SPDX-License-Identifier: Apache-2.0
// Rotary embedding: see kernels/ref/rope.c. One block a token: its sines and cosines are computed
// once, for all heads, and kept in shared memory, where the elements that neighbouring lanes ask
// for at a time are neighbours. A thread rotates 16 bytes of one half with 16 of the other, DEPTH
// such pairs under way; reads and writes the rotated elements once. sincosf at full precision:
// angles reach 131,072 radians.
#include "kernels/cuda/cuda.h"

enum { THREADS = 128, DEPTH = 4, HALF_LIMIT = HEAD_WIDTH_LIMIT / 2 };

// Of element i of a half, where a lane takes `count` elements.
static __device__ __forceinline__ int angle_place(int i, int half, int count)
{
    return i % count * (half / count) + i / count;
}

static __device__ void find_angles(const struct rope *a, int half, int count,
                                   shared_pointer<float> sines, shared_pointer<float> cosines)
{
    const float position = (float)a->positions[blockIdx.x];
    for (int i = threadIdx.x; i < half; i += THREADS) {
        float s, c;
        sincosf(position * a->inverse_frequency[i], &s, &c);
        sines[angle_place(i, half, count)] = s * (a->backward ? -a->magnitude : a->magnitude);
        cosines[angle_place(i, half, count)] = c * a->magnitude;
    }
    __syncthreads();
}

template <enum access A> static __global__ void rope_kernel(struct rope a)
{
    enum { COUNT = lane<A>::COUNT };
    CUDA_SHARED(float, sines, HALF_LIMIT);
    CUDA_SHARED(float, cosines, HALF_LIMIT);
    const int half = (int)a.head_width / 2, lanes = half / COUNT, all = (int)a.heads * lanes;
    find_angles(&a, half, COUNT, sines, cosines);
    for (int first = threadIdx.x; first < all; first += DEPTH * THREADS) {
        struct lane<A> low[DEPTH], high[DEPTH];
        size_t at[DEPTH];
#pragma unroll
        for (int d = 0; d < DEPTH; d++) {
            const int i = first + d * THREADS;
            at[d] = blockIdx.x * a.stride + i / lanes * a.head_width + i % lanes * COUNT;
            if (i < all) {
                low[d] = lane_load<A>(a.x, at[d]);
                high[d] = lane_load<A>(a.x, at[d] + half);
            }
        }
#pragma unroll
        for (int d = 0; d < DEPTH; d++) {
            const int i = first + d * THREADS;
            float x[COUNT], y[COUNT];
            if (i >= all)
                break;
            lane_widen(x, low[d]);
            lane_widen(y, high[d]);
#pragma unroll
            for (int j = 0; j < COUNT; j++) {
                const float s = sines[j * lanes + i % lanes], c = cosines[j * lanes + i % lanes];
                const float turned = x[j] * c - y[j] * s;
                y[j] = y[j] * c + x[j] * s;
                x[j] = turned;
            }
            lane_store<A>(a.x, at[d], x);
            lane_store<A>(a.x, at[d] + half, y);
        }
    }
}

void cuda_rope(struct device *device, const struct rope *a)
{
    if (a->tokens == 0 || a->heads * (a->head_width / 2) == 0)
        return;
    assert(a->head_width <= HEAD_WIDTH_LIMIT);
    const enum access halves = access_of(&a->x, 1, a->head_width / 2);
    const enum access access = access_of(&a->x, 1, a->stride) == halves ? halves : ACCESS_ANY;
    CUDA_LAUNCH_ACCESS(access, rope_kernel, (unsigned)a->tokens, THREADS, 0,
                       cuda_of(device)->stream, *a);
    cuda_launched(device, "rope");
}
