// SPDX-License-Identifier: Apache-2.0
// Matrix products in float32, single-threaded; linear.c spreads them over threads and attention.c
// calls them on small blocks.
//
// Every element of a product is one chain of fused multiply-adds in ascending k,
//     c = fma(a[k], b[k], c),
// begun from what c held, from a bias or from 0. Blocking, edges, threads and the other rows of the
// call never change the chain, so a row's result is the same bits alone and in any batch, and the
// same with 8 and with 16 lanes (plain C rounds the product, too, and differs from them in the last
// places).
#ifndef MEMO_KERNELS_CPU_GEMM_H
#define MEMO_KERNELS_CPU_GEMM_H

#include "kernels/cpu/isa.h"
#include "kernels/cpu/simd.h"

enum {
    TILE_COLUMNS = 2 * VF_LANES, // of a packed panel
#if VF_LANES == 16
    TILE_ROWS = 12, // 24 of 32 registers accumulate
    BLOCK_DEPTH = 192,
#else
    TILE_ROWS = 6, // 12 of 16
    BLOCK_DEPTH = 256,
#endif
    // A panel of BLOCK_DEPTH rows takes 8 to 24 KiB of the first cache; BLOCK_ROWS of A and
    // BLOCK_COLUMNS of B share the second.
    BLOCK_ROWS = 120,
    BLOCK_COLUMNS = 512,
    FEW_ROWS = 4 * TILE_ROWS,
    GEMM_SCRATCH_BYTES = BLOCK_DEPTH * BLOCK_COLUMNS * 4,
};

// Element (i, j) is data[i * row + j * column]; one of the two strides is 1.
struct matrix {
    const void *data;
    enum dtype dtype;
    size_t row;
    size_t column;
};

// B in panels of TILE_COLUMNS columns: element (k, p TILE_COLUMNS + j) lies at
// p panel_stride + k TILE_COLUMNS + j. What the last panel has beyond the columns of B is 0.
struct panels {
    void *data;       // NULL: not packed
    enum dtype dtype; // float32, or bfloat16 that is widened when read
    size_t panel_stride;
};

// c [rows, columns] = a [rows, depth] b [depth, columns] + bias, or c += with keep.
struct gemm {
    float *c;
    size_t c_stride;
    struct matrix a; // float32
    struct matrix b; // read unless there are
    struct panels panels;
    size_t rows, columns, depth;
    bool keep;
    const float *bias; // [columns]; NULL: none
};

// scratch: GEMM_SCRATCH_BYTES, 64-byte aligned; may be NULL when b is given in float32 panels.
void ISA(gemm)(const struct gemm *gemm, void *scratch);

// Fills panels->data, of panels_elements(columns, depth) elements when the panels lie back to back.
// Their dtype is float32 or that of b.
void ISA(gemm_pack)(const struct panels *panels, struct matrix b, size_t depth, size_t columns);

static inline size_t panels_elements(size_t columns, size_t depth)
{
    return ceil_div(columns, TILE_COLUMNS) * TILE_COLUMNS * depth;
}

#endif
