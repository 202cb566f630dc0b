// SPDX-License-Identifier: Apache-2.0
// AdamW on few bits: see kernels/ref/adamw_compact.c. A block of threads takes a block of scales,
// one thread an element; the new scale is the largest of the block. Of each element it reads
// gradient, parameter and moments and writes all but the gradient: 4 + 2 (2 + 2 + 1 + 1) = 16 bytes
// with bf16 weights and 8-bit moments, 14 with bf16 gradients.
#include "kernels/cuda/cuda.h"

enum { THREADS = MOMENT_BLOCK, WARPS = THREADS / WARP };

static __device__ __forceinline__ float load_moment(const void *values, enum moment_kind kind,
                                                    const float *code, float scale, size_t i)
{
    if (kind == MOMENTS_F32)
        return ((const float *)values)[i];
    if (kind == MOMENTS_BF16)
        return bf16_widen(((const bf16 *)values)[i]);
    return code[((const uint8_t *)values)[i]] * scale;
}

static __device__ __forceinline__ float load_master(const struct adamw_compact *a, size_t i)
{
    if (!a->remainder)
        return ((const float *)a->parameter.data)[i];
    return __uint_as_float(master_bits(((const uint16_t *)a->parameter.data)[i], a->remainder[i]));
}

static __device__ __forceinline__ void store_master(const struct adamw_compact *a, size_t i,
                                                    float value)
{
    if (!a->remainder) {
        ((float *)a->parameter.data)[i] = value;
        return;
    }
    ((uint16_t *)a->parameter.data)[i] = master_upper(__float_as_uint(value));
    a->remainder[i] = master_remainder(__float_as_uint(value));
}

static __device__ __forceinline__ bf16 round_stochastically(float value, uint32_t random)
{
    return {(uint16_t)((__float_as_uint(value) + (random & 0xffffu)) >> 16)};
}

// As moment_encode: the nearest value, ties to the smaller one.
static __device__ uint8_t encode(const float *code, int magnitudes, bool keeps_above_zero, float x)
{
    const float size = fabsf(x);
    int low = 0, high = magnitudes - 1;
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (code[middle] <= size)
            low = middle;
        else
            high = middle;
    }
    int nearest = size > 0.5f * (code[low] + code[high]) ? high : low;
    if (nearest == 0 && size > 0 && keeps_above_zero)
        nearest = 1;
    return (uint8_t)(x < 0 ? magnitudes + nearest : nearest);
}

// The largest magnitude of the block, for all its threads.
static __device__ float block_largest(float value, shared_pointer<float> slots)
{
    value = warp_max(fabsf(value));
    if (threadIdx.x % WARP == 0)
        slots[threadIdx.x / WARP] = value;
    __syncthreads();
    float largest = 0;
    for (int w = 0; w < WARPS; w++)
        largest = fmaxf(largest, slots[w]);
    return largest;
}

static __device__ void store_code(void *codes, size_t i, bool mine, float *scale, float largest,
                                  const float *code, int magnitudes, bool keeps_above_zero, float x)
{
    if (mine)
        ((uint8_t *)codes)[i] =
            encode(code, magnitudes, keeps_above_zero, largest > 0 ? x / largest : 0);
    if (threadIdx.x == 0)
        *scale = largest;
}

static __global__ void adamw_compact_kernel(struct adamw_compact a, const struct moment_code *first,
                                            const struct moment_code *second, float rate,
                                            float root)
{
    CUDA_SHARED(float, slots1, WARPS);
    CUDA_SHARED(float, slots2, WARPS);
    // Threads are the elements of a block of the whole model; the first and last may be cut.
    const size_t skipped = a.first % MOMENT_BLOCK, block = blockIdx.x;
    const size_t place = block * MOMENT_BLOCK + threadIdx.x;
    const bool mine = place >= skipped && place - skipped < a.count;
    const size_t i = mine ? place - skipped : 0;
    const bool coded = a.moments == MOMENTS_8BIT;
    float m = 0, v = 0;
    if (mine) {
        const float scale1 = coded ? a.scale1[block] : 0, scale2 = coded ? a.scale2[block] : 0;
        const float g = load(a.grad, i) * a.grad_scale;
        m = load_moment(a.moment1, a.moments, first->values, scale1, i);
        v = load_moment(a.moment2, a.moments, second->values, scale2, i);
        m += (g - m) * (1 - a.beta1);
        v = a.beta2 * v + (1 - a.beta2) * g * g;
        const float p = load_master(&a, i) * (1 - a.learning_rate * a.weight_decay);
        store_master(&a, i, p - rate * m / (sqrtf(v) / root + a.epsilon));
    }
    if (coded) {
        const float largest1 = block_largest(m, slots1), largest2 = block_largest(v, slots2);
        store_code(a.moment1, i, mine, &a.scale1[block], largest1, first->values, 128, false, m);
        store_code(a.moment2, i, mine, &a.scale2[block], largest2, second->values, 256, true, v);
    } else if (mine && a.moments == MOMENTS_F32) {
        ((float *)a.moment1)[i] = m;
        ((float *)a.moment2)[i] = v;
    } else if (mine) {
        ((bf16 *)a.moment1)[i] = bf16_round(m);
        ((bf16 *)a.moment2)[i] = round_stochastically(v, moment_random(a.first + i, a.step));
    }
}

void cuda_adamw_compact(struct device *device, const struct adamw_compact *a)
{
    if (a->count == 0)
        return;
    const double rate = a->learning_rate / (1 - pow(a->beta1, (double)a->step));
    const double root = sqrt(1 - pow(a->beta2, (double)a->step));
    const struct moment_code *codes = cuda_of(device)->codes;
    CUDA_LAUNCH(adamw_compact_kernel, (unsigned)moment_blocks(a->first, a->count), THREADS, 0,
                cuda_of(device)->stream, *a, codes, codes + 1, (float)rate, (float)root);
    cuda_launched(device, "adamw_compact");
}
