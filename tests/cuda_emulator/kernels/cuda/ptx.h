// SPDX-License-Identifier: Apache-2.0
// The emulator's counterpart of kernels/cuda/ptx.h, from the fragment layouts of the PTX ISA.
#ifndef MEMO_KERNELS_CUDA_PTX_H
#define MEMO_KERNELS_CUDA_PTX_H

#include <cuda_runtime.h>

struct bf16 {
    uint16_t bits;
};

struct f16 {
    uint16_t bits;
};

bf16 bf16_round(float value);
f16 f16_round(float value);
float f16_widen(f16 value);
uint32_t bf16_pair(float low, float high);
float exp2_approx(float x);

// Copies happen at async_wait, not before: who forgets to wait reads what was there.
void async_copy8(shared_pointer<bf16> to, const bf16 *from, bool valid);
void async_commit(void);
void emulator_async_wait(unsigned groups);
template <int groups> void async_wait(void)
{
    emulator_async_wait(groups);
}

void load_matrices(uint32_t out[4], shared_pointer<bf16> row);
void load_matrices_transposed(uint32_t out[4], shared_pointer<bf16> row);
void multiply_16x8x16(float sum[4], const uint32_t a[4], uint32_t b0, uint32_t b1);
void multiply_codes_16x8x32(float sum[4], const uint32_t a[4], uint32_t b0, uint32_t b1);

// Blocks run one after another.
static inline void memory_fence(void)
{
}

static inline unsigned count_arrival(unsigned *counter)
{
    return (*counter)++;
}

static inline float load_shared_by_blocks(const float *from)
{
    return *from;
}

#endif
