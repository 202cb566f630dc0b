// SPDX-License-Identifier: Apache-2.0
// Cross-entropy: see kernels/ref/cross_entropy.c. One block a row; the maximum and the sum in one
// pass (Milakov and Gimelshein 2018), the gradient in a second one. Moves R V elements forward, 3 R
// V with backward.
#include "kernels/cuda/cuda.h"

enum { THREADS = 1024, WARPS = THREADS / WARP };

// sum exp(x - largest)
struct partial {
    float largest, sum;
};

// Infinity less infinity would be no number; a logit that is none must show in the sum.
static __device__ __forceinline__ float shrunk(struct partial p, float largest)
{
    return p.largest == largest ? p.sum : p.sum * expf(p.largest - largest);
}

static __device__ __forceinline__ struct partial join(struct partial a, struct partial b)
{
    const float largest = fmaxf(a.largest, b.largest);
    return {largest, shrunk(a, largest) + shrunk(b, largest)};
}

static __device__ struct partial join_block(struct partial mine, shared_pointer<float> largest,
                                            shared_pointer<float> sums)
{
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2) {
        const struct partial other = {__shfl_xor_sync(0xffffffffu, mine.largest, lanes),
                                      __shfl_xor_sync(0xffffffffu, mine.sum, lanes)};
        mine = join(mine, other);
    }
    if (threadIdx.x % WARP == 0) {
        largest[threadIdx.x / WARP] = mine.largest;
        sums[threadIdx.x / WARP] = mine.sum;
    }
    __syncthreads();
    struct partial all = {-INFINITY, 0};
    for (int w = 0; w < WARPS; w++)
        all = join(all, {largest[w], sums[w]});
    return all;
}

template <int V> static __global__ void cross_entropy_kernel(struct cross_entropy a)
{
    CUDA_SHARED(float, largest, WARPS);
    CUDA_SHARED(float, sums, WARPS);
    const size_t row = blockIdx.x, at = row * a.vocabulary, target = (size_t)a.targets[row];
    struct partial mine = {-INFINITY, 0};
    float x[V];
    for (size_t i = threadIdx.x * V; i < a.vocabulary; i += THREADS * V) {
        load_values<V>(x, a.logits, at + i);
        for (int j = 0; j < V; j++)
            mine = join(mine, {x[j], 1});
    }
    const struct partial all = join_block(mine, largest, sums);
    // The largest logit and the logarithm are never added: large logits would swallow it.
    if (threadIdx.x == 0)
        a.losses[row] = all.largest - load(a.logits, at + target) + logf(all.sum);
    if (!a.backward)
        return;
    __syncthreads(); // the target's logit has been read
    for (size_t i = threadIdx.x * V; i < a.vocabulary; i += THREADS * V) {
        load_values<V>(x, a.logits, at + i);
        for (int j = 0; j < V; j++)
            x[j] = (expf(x[j] - all.largest) / all.sum - (i + j == target)) * a.grad_scale;
        store_values<V>(a.logits, at + i, x);
    }
}

void cuda_cross_entropy(struct device *device, const struct cross_entropy *a)
{
    if (a->rows == 0)
        return;
    if (can_vectorize(&a->logits, 1, a->vocabulary))
        CUDA_LAUNCH(cross_entropy_kernel<8>, (unsigned)a->rows, THREADS, 0, cuda_of(device)->stream,
                    *a);
    else
        CUDA_LAUNCH(cross_entropy_kernel<1>, (unsigned)a->rows, THREADS, 0, cuda_of(device)->stream,
                    *a);
    cuda_launched(device, "cross_entropy");
}
