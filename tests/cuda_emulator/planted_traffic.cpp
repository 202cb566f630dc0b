// SPDX-License-Identifier: Apache-2.0
#include "tests/cuda_emulator/planted_traffic.h"

#include "kernels/cuda/adamw.h"
#include "kernels/cuda/cuda.h"

static inline dim3 strided_index(void)
{
    const unsigned i = emulator_current->number;
    return dim3(i % 32 * 8 + i / 32);
}

namespace strided
{
#undef threadIdx
#define threadIdx strided_index()
#define cuda_adamw planted_adamw
#include "kernels/cuda/adamw.cu"
#undef cuda_adamw
#undef threadIdx
#define threadIdx (emulator_current->index)
} // namespace strided

namespace narrow
{
#define access_of(tensors, ...) ((void)(tensors), ACCESS_ANY)
#define cuda_gated_forward planted_gated_forward
#define cuda_gated_backward planted_gated_backward
#include "kernels/cuda/gated.cu"
#undef cuda_gated_backward
#undef cuda_gated_forward
#undef access_of
} // namespace narrow

namespace rereading
{
#define blocks_of(...) 0u // pieces beyond those in registers
#define cuda_cross_entropy planted_cross_entropy
#include "kernels/cuda/cross_entropy.cu"
#undef cuda_cross_entropy
#undef blocks_of
} // namespace rereading

void planted_strided_adamw(struct device *device, const struct adamw *a)
{
    strided::planted_adamw(device, a);
}

void planted_narrow_gated_forward(struct device *device, const struct gated_forward *a)
{
    narrow::planted_gated_forward(device, a);
}

void planted_rereading_cross_entropy(struct device *device, const struct cross_entropy *a)
{
    rereading::planted_cross_entropy(device, a);
}

template <int PAD> static __global__ void tile_kernel(const bf16 *x, float *out)
{
    enum { WIDTH = 64, ROW = WIDTH + PAD };
    CUDA_SHARED(bf16, tile, WIDTH * ROW);
    for (int i = threadIdx.x; i < WIDTH * WIDTH / 8; i += WARP)
        async_copy8(tile + (i / 8 * ROW + i % 8 * 8), x + i * 8, true);
    async_commit();
    async_wait<0>();
    __syncthreads();
    uint32_t bits = 0;
    for (int row = 0; row < WIDTH; row += 16)
        for (int k = 0; k < WIDTH; k += 16) {
            uint32_t matrices[4];
            load_matrices(matrices,
                          tile + ((row + threadIdx.x % 16) * ROW + k + threadIdx.x / 16 * 8));
            bits ^= matrices[0] ^ matrices[1] ^ matrices[2] ^ matrices[3];
        }
    out[threadIdx.x] = (float)bits;
}

void planted_tile(struct device *device, struct tensor x, bool padded)
{
    float *out = (float *)cuda_of(device)->scratch;
    if (padded)
        CUDA_LAUNCH(tile_kernel<8>, 1, WARP, 0, cuda_of(device)->stream, (const bf16 *)x.data, out);
    else
        CUDA_LAUNCH(tile_kernel<0>, 1, WARP, 0, cuda_of(device)->stream, (const bf16 *)x.data, out);
    cuda_launched(device, "planted");
}
