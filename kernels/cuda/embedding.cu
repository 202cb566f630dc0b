// SPDX-License-Identifier: Apache-2.0
// Embedding: see kernels/ref/embedding.c.
// Forward: one block a token, DEPTH loads of 16 bytes under way in each thread; reads and writes T
// D elements once. Backward without atomics, by sorted segments: every token counts how many stand
// before it in the order of (id, token), in T^2 comparisons with ids in shared memory (16,384
// tokens: 40 us of 132 multiprocessors; 65,536: 0.6 ms beside a step of seconds), and writes itself
// there. Then a block takes a piece of the row of each id that occurs, holds its sums in registers
// and adds the tokens of that id in ascending order, DEPTH of them read at once. Moves T D elements
// of grad_out and the rows of the ids that occur twice.
#include "kernels/cuda/cuda.h"

enum { THREADS = 256, SORT_THREADS = 128, ADD_THREADS = 128, DEPTH = 4 };

template <enum access A> static __global__ void embedding_forward_kernel(struct embedding_forward a)
{
    enum { COUNT = lane<A>::COUNT, STEP = THREADS * COUNT };
    const size_t to = blockIdx.x * a.width, from = (size_t)a.ids[blockIdx.x] * a.width;
    struct lane<A> x[DEPTH];
    float values[COUNT];
    for (size_t i = threadIdx.x * COUNT; i < a.width; i += DEPTH * STEP) {
#pragma unroll
        for (int d = 0; d < DEPTH; d++)
            if (i + d * STEP < a.width)
                x[d] = lane_load<A>(a.weight, from + i + d * STEP);
#pragma unroll
        for (int d = 0; d < DEPTH; d++)
            if (i + d * STEP < a.width) {
                lane_widen(values, x[d]);
#pragma unroll
                for (int j = 0; j < COUNT; j++)
                    values[j] *= a.scale;
                lane_store<A>(a.out, to + i + d * STEP, values);
            }
    }
}

void cuda_embedding_forward(struct device *device, const struct embedding_forward *a)
{
    if (a->tokens == 0)
        return;
    const struct tensor tensors[] = {a->out, a->weight};
    CUDA_LAUNCH_ACCESS(access_of(tensors, 2, a->width), embedding_forward_kernel,
                       (unsigned)a->tokens, THREADS, 0, cuda_of(device)->stream, *a);
    cuda_launched(device, "embedding_forward");
}

// order[how many (id, token) are smaller] = token
static __global__ void sort_tokens_kernel(int32_t *order, const int32_t *ids, int tokens)
{
    CUDA_SHARED(int32_t, tile, SORT_THREADS);
    const int t = blockIdx.x * SORT_THREADS + threadIdx.x, id = t < tokens ? ids[t] : -1;
    int before = 0;
    for (int first = 0; first < tokens; first += SORT_THREADS) {
        const int mine = first + threadIdx.x;
        tile[threadIdx.x] = mine < tokens ? ids[mine] : INT32_MAX;
        __syncthreads();
#pragma unroll 8
        for (int i = 0; i < SORT_THREADS; i++) {
            const int32_t other = tile[i];
            before += other < id || (other == id && first + i < t);
        }
        __syncthreads();
    }
    if (t < tokens)
        order[before] = t;
}

// The sum so far, as if it had been stored and read again.
static __device__ __forceinline__ float kept(enum dtype dtype, float sum)
{
    if (dtype == DTYPE_F32)
        return sum;
    return dtype == DTYPE_BF16 ? bf16_widen(bf16_round(sum)) : f16_widen(f16_round(sum));
}

// COUNT 4 or 1, of a type that only the launch knows.
template <int COUNT>
static __device__ __forceinline__ void load_sums(float *sums, struct tensor t, size_t i)
{
    if (COUNT == 4 && t.dtype == DTYPE_F32)
        lane_widen(sums, lane_load<ACCESS_F32>(t, i));
    else if (COUNT == 4)
        lane_widen(sums, lane_load<ACCESS_BF16_SHORT>(t, i));
    else
        sums[0] = load(t, i);
}

template <int COUNT>
static __device__ __forceinline__ void store_sums(struct tensor t, size_t i, const float *sums)
{
    if (COUNT == 4 && t.dtype == DTYPE_F32)
        lane_store<ACCESS_F32>(t, i, sums);
    else if (COUNT == 4)
        lane_store<ACCESS_BF16_SHORT>(t, i, sums);
    else
        store(t, i, sums[0]);
}

// Elements [i, i + COUNT) of the row of the id whose first token in the order is at `first`.
template <enum access A>
static __device__ void add_segment(const struct embedding_backward *a, const int32_t *order,
                                   size_t first, size_t i)
{
    enum { COUNT = lane<A>::COUNT };
    const int32_t id = a->ids[order[first]];
    const size_t row = (size_t)id * a->width + i;
    float sums[COUNT], values[COUNT];
    load_sums<COUNT>(sums, a->grad_weight, row);
    for (size_t at = first; at < a->tokens; at += DEPTH) {
        struct lane<A> grads[DEPTH];
        bool same[DEPTH];
#pragma unroll
        for (int d = 0; d < DEPTH; d++) {
            const size_t token = at + d < a->tokens ? (size_t)order[at + d] : 0;
            same[d] = at + d < a->tokens && a->ids[token] == id;
            if (same[d])
                grads[d] = lane_load<A>(a->grad_out, token * a->width + i);
        }
#pragma unroll
        for (int d = 0; d < DEPTH; d++)
            if (same[d]) {
                lane_widen(values, grads[d]);
#pragma unroll
                for (int j = 0; j < COUNT; j++)
                    sums[j] = kept(a->grad_weight.dtype, sums[j] + values[j] * a->scale);
            }
        if (!same[DEPTH - 1])
            break;
    }
    store_sums<COUNT>(a->grad_weight, row, sums);
}

template <enum access A>
static __global__ void embedding_backward_kernel(struct embedding_backward a, const int32_t *order)
{
    const size_t at = blockIdx.x;
    const size_t i = ((size_t)blockIdx.y * ADD_THREADS + threadIdx.x) * lane<A>::COUNT;
    if (i >= a.width || (at > 0 && a.ids[order[at]] == a.ids[order[at - 1]]))
        return;
    add_segment<A>(&a, order, at, i);
}

// Gradients and sums may have different types: four elements of each.
static enum access short_access(const struct embedding_backward *a)
{
    if (access_of(&a->grad_out, 1, a->width) == ACCESS_ANY ||
        access_of(&a->grad_weight, 1, a->width) == ACCESS_ANY)
        return ACCESS_ANY;
    return a->grad_out.dtype == DTYPE_BF16 ? ACCESS_BF16_SHORT : ACCESS_F32;
}

void cuda_embedding_backward(struct device *device, const struct embedding_backward *a)
{
    if (a->tokens == 0)
        return;
    cudaStream_t stream = cuda_of(device)->stream;
    int32_t *order = (int32_t *)cuda_of(device)->scratch;
    assert(a->tokens <= SCRATCH_BYTES / sizeof *order);
    CUDA_LAUNCH(sort_tokens_kernel, blocks_of(a->tokens, SORT_THREADS), SORT_THREADS, 0, stream,
                order, a->ids, (int)a->tokens);
    const enum access access = short_access(a);
    const dim3 grid((unsigned)a->tokens,
                    blocks_of(a->width, ADD_THREADS * access_elements(access)));
    if (access == ACCESS_BF16_SHORT)
        CUDA_LAUNCH(embedding_backward_kernel<ACCESS_BF16_SHORT>, grid, ADD_THREADS, 0, stream, *a,
                    (const int32_t *)order);
    else if (access == ACCESS_F32)
        CUDA_LAUNCH(embedding_backward_kernel<ACCESS_F32>, grid, ADD_THREADS, 0, stream, *a,
                    (const int32_t *)order);
    else
        CUDA_LAUNCH(embedding_backward_kernel<ACCESS_ANY>, grid, ADD_THREADS, 0, stream, *a,
                    (const int32_t *)order);
    cuda_launched(device, "embedding_backward");
}
