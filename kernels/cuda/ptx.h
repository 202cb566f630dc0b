// SPDX-License-Identifier: Apache-2.0
// Everything of kernels/cuda that only an NVIDIA compiler understands: PTX, launches and shared
// memory. tests/cuda_emulator has a header of the same name that does the same on a CPU.
#ifndef MEMO_KERNELS_CUDA_PTX_H
#define MEMO_KERNELS_CUDA_PTX_H

#include <cuda_runtime.h>
#include <stddef.h>
#include <stdint.h>

#define CUDA_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                \
    kernel<<<grid, block, shared_bytes, stream>>>(__VA_ARGS__)

// Elements of shared memory are reached through shared_pointer<T> only.
template <typename T> using shared_pointer = T *;

#define CUDA_SHARED(type, name, count) __shared__ type name[count]
#define CUDA_SHARED_DYNAMIC(type, name)                                                            \
    extern __shared__ __align__(16) unsigned char name##_bytes[];                                  \
    type *name = (type *)name##_bytes

struct bf16 {
    uint16_t bits;
};

struct f16 {
    uint16_t bits;
};

// Round to nearest, ties to even.
__device__ __forceinline__ bf16 bf16_round(float value)
{
    bf16 out;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out.bits) : "f"(value));
    return out;
}

__device__ __forceinline__ f16 f16_round(float value)
{
    f16 out;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out.bits) : "f"(value));
    return out;
}

__device__ __forceinline__ float f16_widen(f16 value)
{
    float out;
    asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(value.bits));
    return out;
}

// low in the lower half.
__device__ __forceinline__ uint32_t bf16_pair(float low, float high)
{
    uint32_t out;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
}

// 2^x, to 2 units in the last place; 1 for 0, 0 for -infinity and below 2^-126.
__device__ __forceinline__ float exp2_approx(float x)
{
    float out;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
    return out;
}

// Copies 8 elements (16 bytes, both sides aligned) behind the caller's back; zeros when not valid.
// They are there after async_wait and a barrier.
__device__ __forceinline__ void async_copy8(shared_pointer<bf16> to, const bf16 *from, bool valid)
{
    const uint32_t address = (uint32_t)__cvta_generic_to_shared(to);
    const int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(from),
                 "r"(bytes)
                 : "memory");
}

__device__ __forceinline__ void async_commit(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most `groups` of the groups committed last are still under way.
template <int groups> __device__ __forceinline__ void async_wait(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(groups) : "memory");
}

// Four 8x8 matrices; lane l gives the address of row l % 8 of matrix l / 8. Register i of a lane
// holds row lane / 4, elements 2 (lane % 4) and the next, of matrix i.
__device__ __forceinline__ void load_matrices(uint32_t out[4], shared_pointer<bf16> row)
{
    const uint32_t address = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address)
                 : "memory");
}

// The same, each matrix transposed.
__device__ __forceinline__ void load_matrices_transposed(uint32_t out[4], shared_pointer<bf16> row)
{
    const uint32_t address = (uint32_t)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address)
                 : "memory");
}

// sum[16, 8] += a[16, 32] b[32, 8] of the codes of fp8.h, float32 sums. Bytes lie as the pairs of
// multiply_16x8x16 do: a register of a holds four codes of a row, from 4 (l % 4) on, that of a[2]
// and a[3] and of b1 the four that stand 16 behind (PTX ISA, mma.m16n8k32). Only from 8.9 on.
__device__ __forceinline__ void multiply_codes_16x8x32(float sum[4], const uint32_t a[4],
                                                       uint32_t b0, uint32_t b1)
{
#if __CUDA_ARCH__ >= 890
    asm volatile("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    asm volatile("trap;");
#endif
}

// sum[16, 8] += a[16, 16] b[16, 8], float32 sums. Lane l holds of sum rows l / 4 and l / 4 + 8,
// columns 2 (l % 4) and the next; a and b as load_matrices leaves them (PTX ISA, mma.m16n8k16).
__device__ __forceinline__ void multiply_16x8x16(float sum[4], const uint32_t a[4], uint32_t b0,
                                                 uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// --- between blocks ---

// What this thread stored is seen by whoever sees what it stores afterwards.
__device__ __forceinline__ void memory_fence(void)
{
    __threadfence();
}

// How many blocks have counted themselves before.
__device__ __forceinline__ unsigned count_arrival(unsigned *counter)
{
    return atomicAdd(counter, 1u);
}

// Of what another block of this launch has stored: not from this multiprocessor's cache.
__device__ __forceinline__ float load_shared_by_blocks(const float *from)
{
    return __ldcg(from);
}

#endif
