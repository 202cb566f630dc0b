// SPDX-License-Identifier: Apache-2.0
// Dense layers in eight bits: see kernels/ref/fp8.c. The product by cuBLASLt, which multiplies by
// both vectors of scales on Hopper only, or our own (gemm_tiles.cu); where neither can, one thread
// a result: correct and slow.
// Quantizing: a block takes a row, reads it twice (the second time from the cache) and writes half
// as many bytes.
#include "kernels/cuda/cuda.h"

#include "kernels/fp8.h"

enum { THREADS = 256, WARPS = THREADS / WARP, TILE = 16 };

// Codes of as many neighbours as a lane moves at once.
template <int COUNT>
static __device__ __forceinline__ void store_codes(uint8_t *to, const float *values, float scale)
{
    unsigned words[(COUNT + 3) / 4] = {};
#pragma unroll
    for (int j = 0; j < COUNT; j++)
        words[j / 4] |= (unsigned)fp8_encode(values[j] / scale) << 8 * (j % 4);
    if constexpr (COUNT == 8)
        *(uint2 *)to = {words[0], words[1]};
    else if constexpr (COUNT == 4)
        *(unsigned *)to = words[0];
    else
        *to = (uint8_t)words[0];
}

template <enum access A> static __global__ void quantize_rows_kernel(struct quantize_rows a)
{
    enum { COUNT = lane<A>::COUNT };
    CUDA_SHARED(float, slots, WARPS);
    const size_t row = blockIdx.x * a.width;
    float largest = 0, values[COUNT];
    for (size_t i = threadIdx.x * COUNT; i < a.width; i += THREADS * COUNT) {
        lane_widen(values, lane_load<A>(a.x, row + i));
#pragma unroll
        for (int j = 0; j < COUNT; j++)
            largest = fmaxf(largest, fabsf(values[j]));
    }
    largest = warp_max(largest);
    if (threadIdx.x % WARP == 0)
        slots[threadIdx.x / WARP] = largest;
    __syncthreads();
    for (int w = 0; w < WARPS; w++)
        largest = fmaxf(largest, slots[w]);
    const float scale = largest > 0 ? largest / FP8_LARGEST : 1;
    for (size_t i = threadIdx.x * COUNT; i < a.width; i += THREADS * COUNT) {
        lane_widen(values, lane_load<A>(a.x, row + i));
        store_codes<COUNT>(a.codes + row + i, values, scale);
    }
    if (threadIdx.x == 0)
        a.scales[blockIdx.x] = scale;
}

void cuda_quantize_rows(struct device *device, const struct quantize_rows *a)
{
    if (a->rows == 0)
        return;
    const bool aligned = (uintptr_t)a->codes % 8 == 0;
    const enum access access = aligned ? access_of(&a->x, 1, a->width) : ACCESS_ANY;
    CUDA_LAUNCH_ACCESS(access, quantize_rows_kernel, (unsigned)a->rows, THREADS, 0,
                       cuda_of(device)->stream, *a);
    cuda_launched(device, "quantize_rows");
}

static __global__ void product_fp8_kernel(struct gemm_call a)
{
    const size_t m = (size_t)blockIdx.y * TILE + threadIdx.y;
    const size_t n = (size_t)blockIdx.x * TILE + threadIdx.x;
    if (m >= a.m || n >= a.n)
        return;
    const uint8_t *x = (const uint8_t *)a.a.data + m * a.k;
    const uint8_t *weight = (const uint8_t *)a.b.data + n * a.k;
    float sum = 0;
    for (size_t k = 0; k < a.k; k++)
        sum += fp8_decode(x[k]) * fp8_decode(weight[k]);
    sum *= a.a_scales[m] * a.b_scales[n];
    sum += a.bias.data ? load(a.bias, n) : 0;
    sum += a.addend.data ? load(a.addend, m * a.n + n) : 0;
    store(a.c, m * a.n + n, sum);
}

void cuda_linear_fp8(struct device *device, const struct linear_fp8 *a)
{
    const struct linear *linear = a->linear;
    // Codes have no dtype of their own: the scales say what they are.
    const struct gemm_call call = {.c = a->out,
                                   .a = {(void *)a->x, DTYPE_F32},
                                   .b = {linear->codes, DTYPE_F32},
                                   .bias = linear->bias,
                                   .addend = a->residual,
                                   .m = a->rows,
                                   .n = linear->out_width,
                                   .k = linear->in_width,
                                   .a_transposed = false,
                                   .b_transposed = true,
                                   .a_scales = a->x_scales,
                                   .b_scales = linear->scales};
    if (call.m == 0 || call.n == 0)
        return;
    if (gemm_forward(device, &call) != 0)
        CUDA_LAUNCH(product_fp8_kernel, dim3(blocks_of(call.n, TILE), blocks_of(call.m, TILE)),
                    dim3(TILE, TILE), 0, cuda_of(device)->stream, call);
    cuda_launched(device, "linear_fp8");
}
