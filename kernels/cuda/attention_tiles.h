// SPDX-License-Identifier: Apache-2.0
// Tiles of bf16 rows in shared memory, and the fragments that tensor cores multiply. Every tile has
// ROWS rows of D elements; a row takes D + 8, so that the eight rows of a matrix lie in different
// banks.
#ifndef MEMO_KERNELS_CUDA_ATTENTION_TILES_H
#define MEMO_KERNELS_CUDA_ATTENTION_TILES_H

#include "kernels/cuda/cuda.h"

enum { TILE_ROWS = 64, TILE_PAD = 8, TILE_WARPS = 4, WARP_ROWS = 16 };

template <int D> struct tile {
    enum { ELEMENTS = TILE_ROWS * (D + TILE_PAD) };
};

// Rows first..first + TILE_ROWS of x, `stride` elements apart; zeros from row `end` on and from
// element `width` on. All THREADS threads of the block call it.
template <int D, int THREADS>
static __device__ void tile_load(shared_pointer<bf16> tile, const bf16 *x, size_t first, size_t end,
                                 size_t stride, size_t width)
{
    const int per_row = D / 8;
    for (int i = threadIdx.x; i < TILE_ROWS * per_row; i += THREADS) {
        const int row = i / per_row, column = i % per_row * 8;
        const bool valid = first + row < end && (size_t)column < width;
        async_copy8(tile + (row * (D + TILE_PAD) + column),
                    x + (valid ? (first + row) * stride + column : 0), valid);
    }
}

// Rows `row`..+16, elements k..k + 16, as the left operand.
template <int D>
static __device__ __forceinline__ void tile_left(uint32_t out[4], shared_pointer<bf16> tile,
                                                 int row, int k)
{
    const int lane = threadIdx.x % WARP;
    load_matrices(out, tile + ((row + lane % 16) * (D + TILE_PAD) + k + lane / 16 * 8));
}

// The right operand of x tile^T: two fragments, for columns (rows of the tile) n..n + 8 in out[0],
// out[1] and n + 8..n + 16 in out[2], out[3], elements k..k + 16.
template <int D>
static __device__ __forceinline__ void tile_right(uint32_t out[4], shared_pointer<bf16> tile, int n,
                                                  int k)
{
    const int lane = threadIdx.x % WARP;
    load_matrices(out,
                  tile + ((n + lane / 16 * 8 + lane % 8) * (D + TILE_PAD) + k + lane / 8 % 2 * 8));
}

// The right operand of x tile: rows k..k + 16 of the tile, columns n..n + 8 and n + 8..n + 16.
template <int D>
static __device__ __forceinline__ void tile_right_rows(uint32_t out[4], shared_pointer<bf16> tile,
                                                       int k, int n)
{
    const int lane = threadIdx.x % WARP;
    load_matrices_transposed(out, tile + ((k + lane % 16) * (D + TILE_PAD) + n + lane / 16 * 8));
}

// sums[16, 64] of this warp: rows `row`..+16 of left times all rows of right, transposed.
template <int D>
static __device__ void multiply_tiles(float sums[TILE_ROWS / 8][4], shared_pointer<bf16> left,
                                      int row, shared_pointer<bf16> right)
{
#pragma unroll
    for (int n = 0; n < TILE_ROWS / 8; n++)
        for (int i = 0; i < 4; i++)
            sums[n][i] = 0;
#pragma unroll
    for (int k = 0; k < D; k += 16) {
        uint32_t a[4], b[4];
        tile_left<D>(a, left, row, k);
#pragma unroll
        for (int n = 0; n < TILE_ROWS / 16; n++) {
            tile_right<D>(b, right, n * 16, k);
            multiply_16x8x16(sums[2 * n], a, b[0], b[1]);
            multiply_16x8x16(sums[2 * n + 1], a, b[2], b[3]);
        }
    }
}

// sums[16, COLUMNS] += factors[16, 64] tile[64, first..first + COLUMNS]; factors as multiply_tiles
// leaves them, rounded to bf16.
template <int D, int COLUMNS>
static __device__ void multiply_factors(float sums[COLUMNS / 8][4],
                                        const float factors[TILE_ROWS / 8][4],
                                        shared_pointer<bf16> tile, int first)
{
#pragma unroll
    for (int k = 0; k < TILE_ROWS / 16; k++) {
        const uint32_t a[4] = {bf16_pair(factors[2 * k][0], factors[2 * k][1]),
                               bf16_pair(factors[2 * k][2], factors[2 * k][3]),
                               bf16_pair(factors[2 * k + 1][0], factors[2 * k + 1][1]),
                               bf16_pair(factors[2 * k + 1][2], factors[2 * k + 1][3])};
#pragma unroll
        for (int n = 0; n < COLUMNS / 16; n++) {
            uint32_t b[4];
            tile_right_rows<D>(b, tile, k * 16, first + n * 16);
            multiply_16x8x16(sums[2 * n], a, b[0], b[1]);
            multiply_16x8x16(sums[2 * n + 1], a, b[2], b[3]);
        }
    }
}

// Row and column of element i of fragment n, inside the warp's 16 rows.
static __device__ __forceinline__ int fragment_row(int i)
{
    return threadIdx.x % WARP / 4 + i / 2 * 8;
}

static __device__ __forceinline__ int fragment_column(int n, int i)
{
    return n * 8 + threadIdx.x % WARP % 4 * 2 + i % 2;
}

// Over the four lanes that share a row.
static __device__ __forceinline__ float row_sum(float value)
{
    value += __shfl_xor_sync(0xffffffffu, value, 1);
    return value + __shfl_xor_sync(0xffffffffu, value, 2);
}

static __device__ __forceinline__ float row_max(float value)
{
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 1));
    return fmaxf(value, __shfl_xor_sync(0xffffffffu, value, 2));
}

// Rows of x that are multiples of 16 bytes, so that tile_load may copy them.
static inline bool can_tile(struct tensor x, size_t stride, size_t width)
{
    return x.dtype == DTYPE_BF16 && (uintptr_t)x.data % 16 == 0 && stride % 8 == 0 &&
           width % 8 == 0;
}

#endif
