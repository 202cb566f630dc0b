// SPDX-License-Identifier: Apache-2.0
// Embedding: see kernels/ref/embedding.c.
// Forward: one block a token; reads and writes T D elements once.
// Backward without atomics: block t stands for the first token of its id; it finds the later ones
// of that id in ascending order and adds their rows, so the order of the sum is fixed. Looking for
// them reads T^2 ids, out of the L2 cache: 65,536 tokens read 17 GB, milliseconds beside a step of
// seconds.
#include "kernels/cuda/cuda.h"

enum { THREADS = 256 };

template <int V> static __global__ void embedding_forward_kernel(struct embedding_forward a)
{
    const size_t t = blockIdx.x, row = (size_t)a.ids[t] * a.width;
    float values[V];
    for (size_t i = threadIdx.x * V; i < a.width; i += THREADS * V) {
        load_values<V>(values, a.weight, row + i);
        for (int j = 0; j < V; j++)
            values[j] *= a.scale;
        store_values<V>(a.out, t * a.width + i, values);
    }
}

void cuda_embedding_forward(struct device *device, const struct embedding_forward *a)
{
    if (a->tokens == 0)
        return;
    const struct tensor tensors[] = {a->out, a->weight};
    if (can_vectorize(tensors, 2, a->width))
        CUDA_LAUNCH(embedding_forward_kernel<8>, (unsigned)a->tokens, THREADS, 0,
                    cuda_of(device)->stream, *a);
    else
        CUDA_LAUNCH(embedding_forward_kernel<1>, (unsigned)a->tokens, THREADS, 0,
                    cuda_of(device)->stream, *a);
    cuda_launched(device, "embedding_forward");
}

// Whether any of ids[0, count) is id; for the whole block.
static __device__ bool seen_before(const int32_t *ids, size_t count, int32_t id,
                                   shared_pointer<int> found)
{
    int mine = 0;
    for (size_t i = threadIdx.x; i < count; i += THREADS)
        mine |= ids[i] == id;
    const int warp = __any_sync(0xffffffffu, mine);
    if (threadIdx.x % WARP == 0)
        found[threadIdx.x / WARP] = warp;
    __syncthreads();
    int any = 0;
    for (int w = 0; w < THREADS / WARP; w++)
        any |= found[w];
    __syncthreads();
    return any != 0;
}

static __device__ void add_row(const struct embedding_backward *a, size_t row, size_t t)
{
    for (size_t i = threadIdx.x; i < a->width; i += THREADS)
        store(a->grad_weight, row + i,
              load(a->grad_weight, row + i) + load(a->grad_out, t * a->width + i) * a->scale);
}

static __global__ void embedding_backward_kernel(struct embedding_backward a)
{
    CUDA_SHARED(int, found, THREADS / WARP);
    CUDA_SHARED(int, matches, THREADS);
    const size_t t = blockIdx.x;
    const int32_t id = a.ids[t];
    const size_t row = (size_t)id * a.width;
    if (seen_before(a.ids, t, id, found))
        return;
    for (size_t first = t; first < a.tokens; first += THREADS) {
        const size_t mine = first + threadIdx.x;
        matches[threadIdx.x] = mine < a.tokens && a.ids[mine] == id;
        __syncthreads();
        for (int i = 0; i < THREADS; i++)
            if (matches[i])
                add_row(&a, row, first + i);
        __syncthreads();
    }
}

void cuda_embedding_backward(struct device *device, const struct embedding_backward *a)
{
    if (a->tokens == 0)
        return;
    CUDA_LAUNCH(embedding_backward_kernel, (unsigned)a->tokens, THREADS, 0, cuda_of(device)->stream,
                *a);
    cuda_launched(device, "embedding_backward");
}
