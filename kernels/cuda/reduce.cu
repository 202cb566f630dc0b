// SPDX-License-Identifier: Apache-2.0
// Sums and maxima over many elements, each in one order whatever the launch.
#include "kernels/cuda/cuda.h"

enum { THREADS = 256, WARPS = THREADS / WARP, SQUARES_BLOCKS = 512 };

static __global__ void reduce_parts_kernel(struct tensor out, const float *scratch, unsigned parts,
                                           size_t width)
{
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= width)
        return;
    float sum = 0;
    for (unsigned part = 0; part < parts; part++)
        sum += scratch[part * width + i];
    store(out, i, load(out, i) + sum);
}

void reduce_parts(struct device *device, struct tensor out, unsigned parts, size_t width)
{
    CUDA_LAUNCH(reduce_parts_kernel, blocks_of(width, THREADS), THREADS, 0, cuda_of(device)->stream,
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

static __global__ void argmax_kernel(int32_t *out, struct tensor logits, size_t width)
{
    CUDA_SHARED(float, values, WARPS);
    CUDA_SHARED(int, indices, WARPS);
    const size_t at = (size_t)blockIdx.x * width;
    struct best mine = {-INFINITY, -1};
    for (size_t i = threadIdx.x; i < width; i += THREADS) {
        const float value = load(logits, at + i);
        if (value > mine.value)
            mine = {value, (int)i};
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
    for (int w = 0; w < WARPS; w++)
        mine = better(mine, {values[w], indices[w]});
    out[blockIdx.x] = mine.index < 0 ? 0 : mine.index;
}

void cuda_argmax(struct device *device, int32_t *out, struct tensor logits, size_t rows,
                 size_t width)
{
    if (rows == 0)
        return;
    CUDA_LAUNCH(argmax_kernel, (unsigned)rows, THREADS, 0, cuda_of(device)->stream, out, logits,
                width);
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

static __global__ void sum_squares_kernel(double *partials, struct tensor x, size_t count)
{
    CUDA_SHARED(double, slots, WARPS);
    double sum = 0;
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < count;
         i += (size_t)SQUARES_BLOCKS * THREADS) {
        const double value = load(x, i);
        sum += value * value;
    }
    sum = block_sum_double(sum, slots);
    if (threadIdx.x == 0)
        partials[blockIdx.x] = sum;
}

static __global__ void sum_partials_kernel(double *out, const double *partials)
{
    CUDA_SHARED(double, slots, WARPS);
    double sum = 0;
    for (int i = threadIdx.x; i < SQUARES_BLOCKS; i += THREADS)
        sum += partials[i];
    sum = block_sum_double(sum, slots);
    if (threadIdx.x == 0)
        *out = sum;
}

void cuda_sum_squares(struct device *device, double *out, struct tensor x, size_t count)
{
    cudaStream_t stream = cuda_of(device)->stream;
    double *partials = (double *)cuda_of(device)->scratch;
    CUDA_LAUNCH(sum_squares_kernel, SQUARES_BLOCKS, THREADS, 0, stream, partials, x, count);
    CUDA_LAUNCH(sum_partials_kernel, 1, THREADS, 0, stream, out, (const double *)partials);
    cuda_launched(device, "sum_squares");
}
