// SPDX-License-Identifier: Apache-2.0
// Tiles of bf16 rows in shared memory, and the fragments that tensor cores multiply. A row of D
// elements takes D + 8, so that the eight rows of a matrix lie in different banks.
#ifndef MEMO_KERNELS_CUDA_ATTENTION_TILES_H
#define MEMO_KERNELS_CUDA_ATTENTION_TILES_H

#include "kernels/cuda/cuda.h"

enum { TILE_ROWS = 64, TILE_PAD = 8, TILE_WARPS = 4, WARP_ROWS = 16 };

template <int D> struct tile {
    enum { ELEMENTS = TILE_ROWS * (D + TILE_PAD) };
};

// Row i of the tile from row(i), which gives NULL for a row of zeros; zeros from element `width`
// on. `any` is an address that may be read. All THREADS threads of the block call it.
template <int D, int ROWS, int THREADS, typename Row>
static __device__ __forceinline__ void tile_gather(shared_pointer<bf16> tile, size_t width,
                                                   const bf16 *any, Row row)
{
    const int per_row = D / 8;
    for (int i = threadIdx.x; i < ROWS * per_row; i += THREADS) {
        const int column = i % per_row * 8;
        const bf16 *from = row(i / per_row);
        const bool valid = from && (size_t)column < width;
        async_copy8(tile + (i / per_row * (D + TILE_PAD) + column), valid ? from + column : any,
                    valid);
    }
}

// Rows first..first + TILE_ROWS of x, `stride` elements apart; zeros from row `end` on.
template <int D, int THREADS>
static __device__ void tile_load(shared_pointer<bf16> tile, const bf16 *x, size_t first, size_t end,
                                 size_t stride, size_t width)
{
    tile_gather<D, TILE_ROWS, THREADS>(tile, width, x, [=](int i) {
        return first + i < end ? x + (first + i) * stride : (const bf16 *)NULL;
    });
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

// sums[16, N] of this warp: rows `row`..+16 of left times the first N rows of right, transposed.
template <int D, int N>
static __device__ void multiply_tiles(float sums[N / 8][4], shared_pointer<bf16> left, int row,
                                      shared_pointer<bf16> right)
{
#pragma unroll
    for (int n = 0; n < N / 8; n++)
        for (int i = 0; i < 4; i++)
            sums[n][i] = 0;
#pragma unroll
    for (int k = 0; k < D; k += 16) {
        uint32_t a[4], b[4];
        tile_left<D>(a, left, row, k);
#pragma unroll
        for (int n = 0; n < N / 16; n++) {
            tile_right<D>(b, right, n * 16, k);
            multiply_16x8x16(sums[2 * n], a, b[0], b[1]);
            multiply_16x8x16(sums[2 * n + 1], a, b[2], b[3]);
        }
    }
}

// sums[16, COLUMNS] += factors[16, K] tile[K, first..first + COLUMNS]; factors as multiply_tiles
// leaves them, rounded to bf16.
template <int D, int COLUMNS, int K>
static __device__ void multiply_factors(float sums[COLUMNS / 8][4], const float factors[K / 8][4],
                                        shared_pointer<bf16> tile, int first)
{
#pragma unroll
    for (int k = 0; k < K / 16; k++) {
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

// The softmax of rows whose keys come piece by piece.
struct running {
    float largest[2], sum[2]; // of the two rows that a lane holds parts of
};

// Scales the scores of N keys, with -infinity where seen(n, i) is false, turns them into weights,
// and returns how much what was summed before shrinks. A row that sees nothing keeps its bits.
template <int N, typename Seen>
static __device__ __forceinline__ void soften(float scores[N / 8][4], struct running *r,
                                              float shrink[2], float scale, Seen seen)
{
    float largest[2] = {r->largest[0], r->largest[1]}, sum[2] = {0, 0};
#pragma unroll
    for (int n = 0; n < N / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            scores[n][i] = seen(n, i) ? scores[n][i] * scale : -INFINITY;
            largest[i / 2] = fmaxf(largest[i / 2], scores[n][i]);
        }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        largest[h] = row_max(largest[h]);
        shrink[h] = largest[h] == r->largest[h] ? 1 : expf(r->largest[h] - largest[h]);
        r->largest[h] = largest[h];
    }
#pragma unroll
    for (int n = 0; n < N / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            scores[n][i] = largest[i / 2] == -INFINITY ? 0 : expf(scores[n][i] - largest[i / 2]);
            sum[i / 2] += scores[n][i];
        }
#pragma unroll
    for (int h = 0; h < 2; h++)
        r->sum[h] = r->sum[h] * shrink[h] + row_sum(sum[h]);
}

// out[16, D] of the warp's rows, shrunk before more is added.
template <int D>
static __device__ __forceinline__ void shrink_rows(float out[D / 8][4], const float shrink[2])
{
#pragma unroll
    for (int n = 0; n < D / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            out[n][i] *= shrink[i / 2];
}

static __device__ __forceinline__ bool visible(size_t key, size_t query, size_t window)
{
    return key <= query && (window == 0 || query - key < window);
}

// Rows of x that are multiples of 16 bytes, so that tile_load may copy them.
static inline bool can_tile(struct tensor x, size_t stride, size_t width)
{
    return x.dtype == DTYPE_BF16 && (uintptr_t)x.data % 16 == 0 && stride % 8 == 0 &&
           width % 8 == 0;
}

#endif
