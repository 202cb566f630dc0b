// SPDX-License-Identifier: Apache-2.0
// Sums and maxima over many elements, each in one order whatever the launch. A thread has DEPTH
// loads of 16 bytes under way.
#include "kernels/cuda/cuda.h"

enum {
    THREADS = 256,
    WARPS = THREADS / WARP,
    SQUARES_BLOCKS = 528,
    DEPTH = 4,
    ARGMAX_THREADS = 1024
};

// A warp takes 32 columns of every eighth part; the warps' sums are added in ascending order.
static __global__ void reduce_parts_kernel(struct tensor out, const float *scratch, unsigned parts,
                                           size_t width)
{
    CUDA_SHARED(float, sums, THREADS);
    const size_t i = (size_t)blockIdx.x * WARP + threadIdx.x % WARP;
    float sum = 0;
    if (i < width)
#pragma unroll 4
        for (unsigned part = threadIdx.x / WARP; part < parts; part += WARPS)
            sum += scratch[part * width + i];
    sums[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x >= WARP || i >= width)
        return;
    sum = 0;
    for (int w = 0; w < WARPS; w++)
        sum += sums[w * WARP + threadIdx.x];
    store(out, i, load(out, i) + sum);
}

void reduce_parts(struct device *device, struct tensor out, unsigned parts, size_t width)
{
    CUDA_LAUNCH(reduce_parts_kernel, blocks_of(width, WARP), THREADS, 0, cuda_of(device)->stream,
                out, (const float *)cuda_of(device)->scratch, parts, width);
}

// The lower index on ties; -1 when all are NaN or -infinity.
struct best {
    float value;
    int index;
};

static __device__ __forceinline__ struct best better(struct best a, struct best b)
{
    if (b.index >= 0 &&
        (a.index < 0 || b.value > a.value || (b.value == a.value && b.index < a.index)))
        return b;
    return a;
}

template <enum access A>
static __global__ void __launch_bounds__(ARGMAX_THREADS)
    argmax_kernel(int32_t *out, struct tensor logits, size_t width)
{
    enum {
        COUNT = lane<A>::COUNT,
        STEP = ARGMAX_THREADS * COUNT,
        ARGMAX_WARPS = ARGMAX_THREADS / WARP
    };
    CUDA_SHARED(float, values, ARGMAX_WARPS);
    CUDA_SHARED(int, indices, ARGMAX_WARPS);
    const size_t at = (size_t)blockIdx.x * width;
    struct best mine = {-INFINITY, -1};
    struct lane<A> pieces[DEPTH];
    float x[COUNT];
    for (size_t i = threadIdx.x * COUNT; i < width; i += DEPTH * STEP) {
#pragma unroll
        for (int d = 0; d < DEPTH; d++)
            if (i + d * STEP < width)
                pieces[d] = lane_load<A>(logits, at + i + d * STEP);
#pragma unroll
        for (int d = 0; d < DEPTH; d++)
            if (i + d * STEP < width) {
                lane_widen(x, pieces[d]);
#pragma unroll
                for (int j = 0; j < COUNT; j++)
                    if (x[j] > mine.value)
                        mine = {x[j], (int)(i + d * STEP) + j};
            }
    }
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2) {
        const struct best other = {__shfl_xor_sync(0xffffffffu, mine.value, lanes),
                                   __shfl_xor_sync(0xffffffffu, mine.index, lanes)};
        mine = better(mine, other);
    }
    if (threadIdx.x % WARP == 0) {
        values[threadIdx.x / WARP] = mine.value;
        indices[threadIdx.x / WARP] = mine.index;
    }
    __syncthreads();
    if (threadIdx.x != 0)
        return;
    for (int w = 0; w < ARGMAX_WARPS; w++)
        mine = better(mine, {values[w], indices[w]});
    out[blockIdx.x] = mine.index < 0 ? 0 : mine.index;
}

void cuda_argmax(struct device *device, int32_t *out, struct tensor logits, size_t rows,
                 size_t width)
{
    if (rows == 0)
        return;
    CUDA_LAUNCH_ACCESS(access_of(&logits, 1, width), argmax_kernel, (unsigned)rows, ARGMAX_THREADS,
                       0, cuda_of(device)->stream, out, logits, width);
    cuda_launched(device, "argmax");
}

// A thread's and a block's partial sums cover fixed elements; one block adds the blocks' up.
static __device__ double block_sum_double(double value, shared_pointer<double> slots)
{
    for (int lanes = WARP / 2; lanes > 0; lanes /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, lanes);
    if (threadIdx.x % WARP == 0)
        slots[threadIdx.x / WARP] = value;
    __syncthreads();
    double sum = 0;
    for (int w = 0; w < WARPS; w++)
        sum += slots[w];
    return sum;
}

template <enum access A>
static __global__ void sum_squares_kernel(double *partials, struct tensor x, size_t count)
{
    enum { COUNT = lane<A>::COUNT };
    CUDA_SHARED(double, slots, WARPS);
    const size_t step = (size_t)gridDim.x * THREADS * COUNT;
    struct lane<A> pieces[DEPTH];
    float values[COUNT];
    double sum = 0;
    for (size_t i = ((size_t)blockIdx.x * THREADS + threadIdx.x) * COUNT; i < count;
         i += DEPTH * step) {
#pragma unroll
        for (int d = 0; d < DEPTH; d++)
            if (i + d * step < count)
                pieces[d] = lane_load<A>(x, i + d * step);
#pragma unroll
        for (int d = 0; d < DEPTH; d++)
            if (i + d * step < count) {
                lane_widen(values, pieces[d]);
#pragma unroll
                for (int j = 0; j < COUNT; j++)
                    sum += (double)values[j] * values[j];
            }
    }
    sum = block_sum_double(sum, slots);
    if (threadIdx.x == 0)
        partials[blockIdx.x] = sum;
}

static __global__ void sum_partials_kernel(double *out, const double *partials, unsigned count)
{
    CUDA_SHARED(double, slots, WARPS);
    double sum = 0;
    for (unsigned i = threadIdx.x; i < count; i += THREADS)
        sum += partials[i];
    sum = block_sum_double(sum, slots);
    if (threadIdx.x == 0)
        *out = sum;
}

void cuda_sum_squares(struct device *device, double *out, struct tensor x, size_t count)
{
    cudaStream_t stream = cuda_of(device)->stream;
    double *partials = (double *)cuda_of(device)->scratch;
    const unsigned wanted = blocks_of(count, THREADS * DEPTH), most = SQUARES_BLOCKS;
    const unsigned blocks = wanted < most ? wanted : most;
    if (blocks > 0)
        CUDA_LAUNCH_ACCESS(access_of(&x, 1, count), sum_squares_kernel, blocks, THREADS, 0, stream,
                           partials, x, count);
    CUDA_LAUNCH(sum_partials_kernel, 1, THREADS, 0, stream, out, (const double *)partials, blocks);
    cuda_launched(device, "sum_squares");
}
