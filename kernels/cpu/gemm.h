// SPDX-License-Identifier: Apache-2.0
// Matrix products, single-threaded; linear.c spreads them over threads and attention.c calls them
// on small blocks. They add in float32; the factors are float32, or bfloat16 where the processor
// multiplies pairs of those (BF16_PRODUCTS), in half the time.
//
// Every element of a product is one chain in ascending k, begun from what c held, from a bias or
// from 0:
//     float32   c = fma(a[k], b[k], c)
//     bfloat16  c = fma(a[k], b[k], fma(a[k + 1], b[k + 1], c)), k even; 0 follows an odd depth.
// Blocking, edges, threads and the other rows of the call never change the chain, so a row's result
// is the same bits alone and in any batch, and the same with 8 and with 16 lanes (plain C rounds
// the product, too, and differs from them in the last places).
#ifndef MEMO_KERNELS_CPU_GEMM_H
#define MEMO_KERNELS_CPU_GEMM_H

#include "kernels/cpu/isa.h"
#include "kernels/cpu/simd.h"

enum {
    TILE_COLUMNS = 2 * VF_LANES, // of a packed panel
#if VF_LANES == 16
    TILE_ROWS = 14, // 28 of 32 registers accumulate
    BLOCK_DEPTH = 448,
    BLOCK_ROWS = 126,
    BLOCK_COLUMNS = 256,
#else
    TILE_ROWS = 6, // 12 of 16
    BLOCK_DEPTH = 256,
    BLOCK_ROWS = 120,
    BLOCK_COLUMNS = 512,
#endif
    // BLOCK_ROWS of A and BLOCK_COLUMNS of B share the second cache. With 8 lanes a panel of
    // BLOCK_DEPTH rows, 16 KiB, stays in the first; with 16 lanes a tile asks the second for a
    // cache line every 14 cycles, and deeper blocks, which write C less often, gain more.
    FEW_ROWS = 4 * TILE_ROWS,
    // Where A is packed, too, a block of B is wider and lies in the third cache: each of its panels
    // is read once for all rows of a block of A, which is then packed seldom.
    WIDE_COLUMNS = 1024,
    GEMM_SCRATCH_BYTES = BLOCK_DEPTH * WIDE_COLUMNS * 4,
};

// Whether bfloat16 weights are multiplied as such. The tests say so of processors without the
// instruction, to cover its arithmetic anywhere.
#if defined(BF16_PRODUCTS) || defined(__AVX512BF16__)
static const bool bf16_products = true;
#else
static const bool bf16_products = false;
#endif

// Element (i, j) is data[i * row + j * column]; one of the two strides is 1.
struct matrix {
    const void *data;
    enum dtype dtype;
    size_t row;
    size_t column;
};

// B in panels of TILE_COLUMNS columns: element (k, p TILE_COLUMNS + j) lies at
// p panel_stride + k TILE_COLUMNS + j. What the last panel has beyond the columns of B is 0.
//
// bfloat16 panels are widened when read; with bf16_products they hold pairs instead: an element is
// those of an even k and of the next, so that there are half as many.
struct panels {
    void *data;       // NULL: not packed
    enum dtype dtype; // float32 or bfloat16
    size_t panel_stride;
};

// c [rows, columns] = a [rows, depth] b [depth, columns] + bias, or c += with keep.
//
// a is float32. With panels of pairs its rows are made of pairs (column 1, row counts pairs and is
// not 1; dtype, as large, float32), or its columns are float32 or bfloat16 (row 1), which are
// rounded.
struct gemm {
    float *c;
    size_t c_stride;
    struct matrix a;
    struct matrix b; // read unless there are panels; packed in their dtype
    struct panels panels;
    size_t rows, columns, depth;
    bool keep;
    const float *bias; // [columns]; NULL: none
};

// scratch: GEMM_SCRATCH_BYTES, 64-byte aligned; may be NULL when b is given in float32 panels.
void ISA(gemm)(const struct gemm *gemm, void *scratch);

// Fills panels->data, of panels_elements(columns, panel_depth(dtype, depth)) elements when the
// panels lie back to back. Their dtype is float32 or that of b. Pairs are made of a bfloat16 b of
// even depth and column stride, or of one whose rows are contiguous (column 1), float32 or
// bfloat16.
void ISA(gemm_pack)(const struct panels *panels, struct matrix b, size_t depth, size_t columns);

// Rows k and k + 1 of a matrix whose rows are contiguous, float32 or bfloat16, as one row of pairs;
// 0 follows the last of an odd depth.
void ISA(gemm_pair_row)(void *out, struct matrix m, size_t k, size_t depth, size_t columns);

// Rows of a dtype as rows of bfloat16 pairs, `stride` pairs apart.
void ISA(gemm_pair_rows)(uint32_t *out, size_t stride, struct matrix a, size_t rows, size_t depth);

static inline const void *matrix_at(struct matrix m, size_t i, size_t j)
{
    return (const char *)m.data + (i * m.row + j * m.column) * dtype_bytes(m.dtype);
}

static inline bool is_pairs(enum dtype panels)
{
    return panels == DTYPE_BF16 && bf16_products;
}

static inline size_t panel_bytes(enum dtype dtype) // of an element
{
    return dtype == DTYPE_F32 || bf16_products ? 4 : 2;
}

// Elements of a panel's column.
static inline size_t panel_depth(enum dtype dtype, size_t depth)
{
    return is_pairs(dtype) ? ceil_div(depth, 2) : depth;
}

static inline size_t panels_elements(size_t columns, size_t depth)
{
    return ceil_div(columns, TILE_COLUMNS) * TILE_COLUMNS * depth;
}

#endif
