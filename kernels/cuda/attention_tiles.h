// SPDX-License-Identifier: Apache-2.0
// Tiles of bf16 rows in shared memory, and the fragments that tensor cores multiply. A row of D
// elements takes D + 8, so that the eight rows of a matrix lie in different banks.
//
// Weights are powers of two: with factor = scale log2(e), exp(scale s - L) = 2^(factor s - L log2
// e), one fused multiply-add and one instruction of the special unit a score. factor is positive.
#ifndef MEMO_KERNELS_CUDA_ATTENTION_TILES_H
#define MEMO_KERNELS_CUDA_ATTENTION_TILES_H

#include "kernels/cuda/cuda.h"

enum { TILE_ROWS = 64, TILE_PAD = 8, TILE_WARPS = 4, WARP_ROWS = 16 };

#define LOG2_E 1.4426950408889634f
#define LN_2 0.6931471805599453f

template <int D, int ROWS = TILE_ROWS> struct tile {
    enum { ELEMENTS = ROWS * (D + TILE_PAD) };
};

// What a thread copies of a tile: eight elements of every step-th row.
template <int D, int THREADS> struct copying {
    enum { STEP = THREADS / (D / 8) };
    int row, column; // the first
};

template <int D, int THREADS>
static __device__ __forceinline__ struct copying<D, THREADS> copying_of_thread(void) {
    return {(int)threadIdx.x / (D / 8), (int)threadIdx.x % (D / 8) * 8};
}

// Row i of the tile from row(i), which gives NULL for a row of zeros; zeros from element `width`
// on. All THREADS threads of the block call it.
template <int D, int ROWS, int THREADS, typename Row>
static __device__ __forceinline__ void tile_gather(shared_pointer<bf16> tile, size_t width, Row row)
{
    const struct copying<D, THREADS> c = copying_of_thread<D, THREADS>();
    const shared_pointer<bf16> to = tile + (c.row * (D + TILE_PAD) + c.column);
#pragma unroll
    for (int i = 0; i < ROWS; i += c.STEP) {
        const bf16 *from = row(c.row + i);
        async_copy8(to + i * (D + TILE_PAD), from + c.column, from && (size_t)c.column < width);
    }
}

// Rows first..first + ROWS of x, `stride` elements apart; zeros from row `end` on.
template <int D, int ROWS, int THREADS>
static __device__ __forceinline__ void tile_load(shared_pointer<bf16> tile, const bf16 *x,
                                                 size_t first, size_t end, size_t stride,
                                                 size_t width)
{
    const struct copying<D, THREADS> c = copying_of_thread<D, THREADS>();
    const shared_pointer<bf16> to = tile + (c.row * (D + TILE_PAD) + c.column);
    const int rows = (size_t)c.column < width && first < end ? (int)(end - first) - c.row : 0;
    const bf16 *from = x + (first + c.row) * stride + c.column;
#pragma unroll
    for (int i = 0; i < ROWS; i += c.STEP, from += c.STEP * stride)
        async_copy8(to + i * (D + TILE_PAD), from, i < rows);
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

// sums[16 M, N] of this warp: 16 M rows times the first N rows of right, transposed, where
// left(a, m, k) gives the left operand of 16 rows and elements. A right operand is loaded once for
// all rows.
template <int D, int M, int N, typename Left>
static __device__ __forceinline__ void multiply_rows(float sums[M][N / 8][4],
                                                     shared_pointer<bf16> right, Left left)
{
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N / 8; n++)
            for (int i = 0; i < 4; i++)
                sums[m][n][i] = 0;
#pragma unroll
    for (int k = 0; k < D; k += 16) {
        uint32_t a[M][4], b[4];
#pragma unroll
        for (int m = 0; m < M; m++)
            left(a[m], m, k);
#pragma unroll
        for (int n = 0; n < N / 16; n++) {
            tile_right<D>(b, right, n * 16, k);
#pragma unroll
            for (int m = 0; m < M; m++) {
                multiply_16x8x16(sums[m][2 * n], a[m], b[0], b[1]);
                multiply_16x8x16(sums[m][2 * n + 1], a[m], b[2], b[3]);
            }
        }
    }
}

// With rows row..row + 16 M of a tile on the left.
template <int D, int M, int N>
static __device__ __forceinline__ void multiply_tiles(float sums[M][N / 8][4],
                                                      shared_pointer<bf16> tile, int row,
                                                      shared_pointer<bf16> right)
{
    multiply_rows<D, M, N>(sums, right, [&](uint32_t a[4], int m, int k) {
        tile_left<D>(a, tile, row + m * WARP_ROWS, k);
    });
}

// sums[16 M, COLUMNS] += factors[16 M, K] tile[K, first..first + COLUMNS]; factors as multiply_rows
// leaves them, rounded to bf16.
template <int D, int M, int COLUMNS, int K>
static __device__ __forceinline__ void multiply_factors(float sums[M][COLUMNS / 8][4],
                                                        const float factors[M][K / 8][4],
                                                        shared_pointer<bf16> tile, int first)
{
#pragma unroll
    for (int k = 0; k < K / 16; k++) {
        uint32_t a[M][4];
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                a[m][i] = bf16_pair(factors[m][2 * k + i / 2][i % 2 * 2],
                                    factors[m][2 * k + i / 2][i % 2 * 2 + 1]);
#pragma unroll
        for (int n = 0; n < COLUMNS / 16; n++) {
            uint32_t b[4];
            tile_right_rows<D>(b, tile, k * 16, first + n * 16);
#pragma unroll
            for (int m = 0; m < M; m++) {
                multiply_16x8x16(sums[m][2 * n], a[m], b[0], b[1]);
                multiply_16x8x16(sums[m][2 * n + 1], a[m], b[2], b[3]);
            }
        }
    }
}

// Row and column of element i of fragment n, inside 16 rows.
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

// The softmax of rows whose keys come piece by piece, of the two rows of which a lane holds parts.
struct running {
    float largest[2]; // factor times the largest score
    float sum[2];     // of the weights that this lane has seen: row_sum gives that of the row
};

static __device__ __forceinline__ struct running running_begin(void)
{
    return {{-INFINITY, -INFINITY}, {0, 0}};
}

// What was summed up to `largest` shrinks by this when the largest grows to `next`.
static __device__ __forceinline__ float shrink_of(float largest, float next)
{
    return largest == next ? 1 : exp2_approx(largest - next);
}

// Turns the scores of N keys into weights, -infinity into 0, and shrinks out[16, COLUMNS]
// accordingly. A row that sees nothing keeps its bits.
template <int N, int COLUMNS>
static __device__ __forceinline__ void soften(float scores[N / 8][4], struct running *r,
                                              float out[COLUMNS / 8][4], float factor)
{
    float largest[2] = {-INFINITY, -INFINITY}, base[2], shrink[2];
#pragma unroll
    for (int n = 0; n < N / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            largest[i / 2] = fmaxf(largest[i / 2], scores[n][i]);
#pragma unroll
    for (int h = 0; h < 2; h++) {
        const float next = fmaxf(r->largest[h], row_max(largest[h]) * factor);
        shrink[h] = shrink_of(r->largest[h], next);
        base[h] = next == -INFINITY ? 0 : next;
        r->largest[h] = next;
        r->sum[h] *= shrink[h];
    }
#pragma unroll
    for (int n = 0; n < N / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            scores[n][i] = exp2_approx(fmaf(scores[n][i], factor, -base[i / 2]));
            r->sum[i / 2] += scores[n][i];
        }
    // After the first keys the largest seldom grows.
    if (!__any_sync(0xffffffffu, shrink[0] != 1 || shrink[1] != 1))
        return;
#pragma unroll
    for (int n = 0; n < COLUMNS / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            out[n][i] *= shrink[i / 2];
}

// -infinity for the scores of keys, numbered from the first on, outside [first, end) of their row.
template <int N>
static __device__ __forceinline__ void hide(float scores[N / 8][4], const int first[2],
                                            const int end[2])
{
#pragma unroll
    for (int n = 0; n < N / 8; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int key = fragment_column(n, i);
            if (key < first[i / 2] || key >= end[i / 2])
                scores[n][i] = -INFINITY;
        }
}

// Hides, of the keys from key0 on, what the 16 queries from query0 on do not see.
template <int KEYS>
static __device__ __forceinline__ void hide_keys(float scores[KEYS / 8][4], size_t key0,
                                                 size_t query0, size_t window)
{
    int first[2], end[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        end[h] = (int)(query0 - key0) + fragment_row(2 * h) + 1;
        const ptrdiff_t from = (ptrdiff_t)end[h] - (ptrdiff_t)window;
        first[h] = window > 0 && from > 0 ? (int)from : 0;
    }
    hide<KEYS>(scores, first, end);
}

// Where the keys of a tile stand towards a warp's queries query0..last_query.
static __device__ __forceinline__ bool sees_some(size_t key0, size_t keys, size_t query0,
                                                 size_t last_query, size_t window)
{
    return key0 <= last_query && (window == 0 || key0 + keys - 1 + window > query0);
}

static __device__ __forceinline__ bool sees_all(size_t key0, size_t keys, size_t query0,
                                                size_t last_query, size_t window)
{
    return key0 + keys - 1 <= query0 && (window == 0 || last_query < key0 + window);
}

// Elements i and i + 1, where i is even.
static __device__ __forceinline__ void store_pair(struct tensor t, size_t i, float x, float y)
{
    if (t.dtype == DTYPE_BF16) {
        *(uint32_t *)((bf16 *)t.data + i) = bf16_pair(x, y);
        return;
    }
    store(t, i, x);
    store(t, i + 1, y);
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

// Results that store_pair may write.
static inline bool can_tile_out(struct tensor x)
{
    return (uintptr_t)x.data % 4 == 0;
}

// Lets a kernel have more than 48 KiB of shared memory.
template <typename F> static inline void allow_shared(F *kernel, size_t bytes)
{
    (void)cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes);
}

#endif
