// SPDX-License-Identifier: Apache-2.0
// Gated short convolution: see kernels/ref/short_conv.c. One thread a channel of a token; taps of
// neighbouring tokens come from the cache. Forward moves 4 T D elements, backward 7 T D.
#include "kernels/cuda/cuda.h"

enum { THREADS = 256 };

struct span {
    size_t begin, end;
};

// The sequence that holds token t.
static __device__ struct span find_sequence(struct sequences sequences, size_t t)
{
    size_t low = 0, high = sequences.count;
    while (high - low > 1) {
        const size_t middle = (low + high) / 2;
        if ((size_t)sequences.offsets[middle] <= t)
            low = middle;
        else
            high = middle;
    }
    return {(size_t)sequences.offsets[low], (size_t)sequences.offsets[low + 1]};
}

// u of a channel, rounded to the type of bcx.
static __device__ __forceinline__ float gated_input(struct tensor bcx, size_t width, size_t t,
                                                    size_t i)
{
    const size_t at = t * 3 * width + i;
    const float u = load(bcx, at) * load(bcx, at + 2 * width);
    if (bcx.dtype == DTYPE_BF16)
        return bf16_widen(bf16_round(u));
    return bcx.dtype == DTYPE_F16 ? f16_widen(f16_round(u)) : u;
}

static __device__ float convolved(struct tensor bcx, struct tensor weight, size_t width,
                                  size_t taps, size_t begin, size_t t, size_t i)
{
    float sum = 0;
    for (size_t k = 0; k < taps; k++) {
        const size_t back = taps - 1 - k;
        if (t - begin >= back)
            sum += load(weight, i * taps + k) * gated_input(bcx, width, t - back, i);
    }
    return sum;
}

static __global__ void short_conv_forward_kernel(struct short_conv_forward a)
{
    const size_t t = blockIdx.x, i = (size_t)blockIdx.y * THREADS + threadIdx.x;
    if (i >= a.width)
        return;
    const struct span sequence = find_sequence(a.sequences, t);
    const float y = convolved(a.bcx, a.weight, a.width, a.taps, sequence.begin, t, i);
    store(a.out, t * a.width + i, load(a.bcx, t * 3 * a.width + a.width + i) * y);
}

void cuda_short_conv_forward(struct device *device, const struct short_conv_forward *a)
{
    if (a->tokens == 0 || a->sequences.count == 0)
        return;
    const dim3 grid((unsigned)a->tokens, blocks_of(a->width, THREADS));
    CUDA_LAUNCH(short_conv_forward_kernel, grid, THREADS, 0, cuda_of(device)->stream, *a);
    cuda_launched(device, "short_conv_forward");
}

static __global__ void short_conv_backward_kernel(struct short_conv_backward a)
{
    const size_t t = blockIdx.x, i = (size_t)blockIdx.y * THREADS + threadIdx.x, width = a.width;
    if (i >= width)
        return;
    const struct span sequence = find_sequence(a.sequences, t);
    const size_t at = t * 3 * width + i;
    float grad_u = 0;
    for (size_t k = 0; k < a.taps; k++) {
        const size_t later = t + a.taps - 1 - k;
        if (later < sequence.end)
            grad_u += load(a.weight, i * a.taps + k) * load(a.grad_out, later * width + i) *
                      load(a.bcx, later * 3 * width + width + i);
    }
    const float y = convolved(a.bcx, a.weight, width, a.taps, sequence.begin, t, i);
    store(a.grad_bcx, at, grad_u * load(a.bcx, at + 2 * width));
    store(a.grad_bcx, at + width, load(a.grad_out, t * width + i) * y);
    store(a.grad_bcx, at + 2 * width, grad_u * load(a.bcx, at));
}

// scratch[part, i, k] = sum over the part's tokens of h[t] u[t - (K - 1) + k].
static __global__ void short_conv_weight_kernel(struct short_conv_backward a, float *scratch)
{
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x, part = blockIdx.y;
    const size_t per_part = (a.tokens + gridDim.y - 1) / gridDim.y;
    const size_t end = (part + 1) * per_part < a.tokens ? (part + 1) * per_part : a.tokens;
    if (i >= a.width)
        return;
    float sums[SHORT_CONV_TAPS_LIMIT] = {0};
    for (size_t t = part * per_part; t < end; t++) {
        const struct span sequence = find_sequence(a.sequences, t);
        const float h =
            load(a.grad_out, t * a.width + i) * load(a.bcx, t * 3 * a.width + a.width + i);
        for (size_t k = 0; k < SHORT_CONV_TAPS_LIMIT; k++)
            if (k < a.taps && t - sequence.begin >= a.taps - 1 - k)
                sums[k] += h * gated_input(a.bcx, a.width, t - (a.taps - 1 - k), i);
    }
    for (size_t k = 0; k < SHORT_CONV_TAPS_LIMIT; k++)
        if (k < a.taps)
            scratch[(part * a.width + i) * a.taps + k] = sums[k];
}

void cuda_short_conv_backward(struct device *device, const struct short_conv_backward *a)
{
    if (a->tokens == 0 || a->sequences.count == 0)
        return;
    cudaStream_t stream = cuda_of(device)->stream;
    const unsigned parts = reduction_parts(a->tokens, a->width * a->taps);
    CUDA_LAUNCH(short_conv_weight_kernel, dim3(blocks_of(a->width, THREADS), parts), THREADS, 0,
                stream, *a, (float *)cuda_of(device)->scratch);
    reduce_parts(device, a->grad_weight, parts, a->width * a->taps);
    CUDA_LAUNCH(short_conv_backward_kernel, dim3((unsigned)a->tokens, blocks_of(a->width, THREADS)),
                THREADS, 0, stream, *a);
    cuda_launched(device, "short_conv_backward");
}

// Where the state of one position of a token's sequence begins.
static __device__ __forceinline__ size_t state_row(const struct short_conv_cached *a, size_t t,
                                                   size_t position)
{
    const size_t kept = a->taps - 1, at = (size_t)a->sequences[t] * a->tables.stride;
    const size_t block = (size_t)a->tables.blocks[at + position / KV_BLOCK_TOKENS];
    return (block * kept + position % kept) * a->width;
}

// One thread a channel, tokens one after another, as the state demands.
static __global__ void short_conv_cached_kernel(struct short_conv_cached a)
{
    const size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x, kept = a.taps - 1;
    if (i >= a.width)
        return;
    for (size_t t = 0; t < a.tokens; t++) {
        const size_t position = (size_t)a.positions[t];
        const float now = gated_input(a.bcx, a.width, t, i);
        float sum = 0;
        for (size_t k = 0; k < kept; k++)
            if (position >= kept - k)
                sum += load(a.weight, i * a.taps + k) *
                       load(a.state, state_row(&a, t, position - (kept - k)) + i);
        sum += load(a.weight, i * a.taps + kept) * now;
        if (kept > 0)
            store(a.state, state_row(&a, t, position) + i, now);
        store(a.out, t * a.width + i, load(a.bcx, t * 3 * a.width + a.width + i) * sum);
    }
}

void cuda_short_conv_cached(struct device *device, const struct short_conv_cached *a)
{
    if (a->tokens == 0 || a->width == 0)
        return;
    CUDA_LAUNCH(short_conv_cached_kernel, blocks_of(a->width, THREADS), THREADS, 0,
                cuda_of(device)->stream, *a);
    cuda_launched(device, "short_conv_cached");
}
