// SPDX-License-Identifier: Apache-2.0
// Operands brought into the order in which tiles read them.
#include "kernels/cpu/gemm.h"

#include <assert.h>

// out[i] = the pair of even[i] and odd[i], or of even[i] and 0.
static void pair_columns(void *out, const void *even, const void *odd, enum dtype dtype,
                         size_t count)
{
    size_t i = 0;
    while (i < count && count >= VF_LANES) {
        i = min_size(i, count - VF_LANES); // the last vector covers some elements again
        vh low = vh_load_any(even, dtype, i), high = odd ? vh_load_any(odd, dtype, i) : (vh){0};
        vi pairs = vi_pairs(low, high);
        memcpy((uint32_t *)out + i, &pairs, sizeof pairs);
        i += VF_LANES;
    }
    for (; i < count; i++) {
        uint32_t low = bf16_from_f32(load_any(even, dtype, i));
        uint32_t high = odd ? bf16_from_f32(load_any(odd, dtype, i)) : 0;
        ((uint32_t *)out)[i] = low | high << 16;
    }
}

void ISA(gemm_pair_row)(void *out, struct matrix m, size_t k, size_t depth, size_t columns)
{
    const void *odd = k + 1 < depth ? matrix_at(m, k + 1, 0) : NULL;
    pair_columns(out, matrix_at(m, k, 0), odd, m.dtype, columns);
}

#if defined(__AVX2__)
// out[k * TILE_COLUMNS + i] = in[i * stride + k] for 8 x 8 elements.
static void transpose_8x8(float *out, const float *in, size_t stride)
{
    __m256 r[8], s[8];
    for (size_t i = 0; i < 8; i++)
        r[i] = _mm256_loadu_ps(in + i * stride);
    for (size_t i = 0; i < 8; i += 2) {
        s[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
        s[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    for (size_t i = 0; i < 8; i += 4)
        for (size_t j = 0; j < 2; j++) {
            r[i + 2 * j] = _mm256_shuffle_ps(s[i + j], s[i + j + 2], 0x44);
            r[i + 2 * j + 1] = _mm256_shuffle_ps(s[i + j], s[i + j + 2], 0xee);
        }
    for (size_t i = 0; i < 4; i++) {
        _mm256_storeu_ps(out + i * TILE_COLUMNS, _mm256_permute2f128_ps(r[i], r[i + 4], 0x20));
        _mm256_storeu_ps(out + (i + 4) * TILE_COLUMNS,
                         _mm256_permute2f128_ps(r[i], r[i + 4], 0x31));
    }
}
#else
static void transpose_8x8(float *out, const float *in, size_t stride)
{
    for (size_t i = 0; i < 8; i++)
        for (size_t k = 0; k < 8; k++)
            out[k * TILE_COLUMNS + i] = in[i * stride + k];
}
#endif

// A full panel of float32, or of pairs that pass as such, whose columns are contiguous in memory (a
// weight stored [out, in]).
static void pack_columns(float *out, const float *b, size_t stride, size_t depth)
{
    size_t whole = depth / 8 * 8;
    for (size_t k = 0; k < whole; k += 8)
        for (size_t j = 0; j < TILE_COLUMNS; j += 8)
            transpose_8x8(out + k * TILE_COLUMNS + j, b + j * stride + k, stride);
    for (size_t k = whole; k < depth; k++)
        for (size_t j = 0; j < TILE_COLUMNS; j++)
            out[k * TILE_COLUMNS + j] = load_any(b, DTYPE_F32, j * stride + k);
}

// Any panel, element by element.
static void pack_any(void *out, enum dtype dtype, struct matrix b, size_t depth, size_t columns)
{
    for (size_t k = 0; k < depth; k++)
        for (size_t j = 0; j < TILE_COLUMNS; j++) {
            size_t at = k * TILE_COLUMNS + j, from = k * b.row + j * b.column;
            if (dtype == DTYPE_F32)
                ((float *)out)[at] = j < columns ? load_any(b.data, b.dtype, from) : 0;
            else
                ((uint16_t *)out)[at] = j < columns ? ((const uint16_t *)b.data)[from] : 0;
        }
}

// A panel of pairs, from rows that are contiguous.
static void pack_pairs(float *out, struct matrix b, size_t depth, size_t columns)
{
    for (size_t k = 0; k < depth; k += 2, out += TILE_COLUMNS) {
        ISA(gemm_pair_row)(out, b, k, depth, columns);
        memset(out + columns, 0, (TILE_COLUMNS - columns) * sizeof *out);
    }
}

static void pack_panel(void *out, enum dtype dtype, struct matrix b, size_t depth, size_t columns)
{
    if (is_pairs(dtype))
        pack_pairs(out, b, depth, columns);
    else if (dtype != b.dtype || columns < TILE_COLUMNS || b.dtype != DTYPE_F32)
        pack_any(out, dtype, b, depth, columns);
    else if (b.row == 1)
        pack_columns(out, b.data, b.column, depth);
    else
        for (size_t k = 0; k < depth; k++)
            memcpy((float *)out + k * TILE_COLUMNS, (const float *)b.data + k * b.row,
                   TILE_COLUMNS * sizeof(float));
}

void ISA(gemm_pack)(const struct panels *panels, struct matrix b, size_t depth, size_t columns)
{
    enum dtype dtype = panels->dtype;
    size_t element = panel_bytes(dtype);
    assert(dtype == b.dtype || dtype == DTYPE_F32 || (is_pairs(dtype) && b.column == 1));
    if (is_pairs(dtype) && b.column != 1) {
        // The pairs lie side by side already and are moved as if each were a float32.
        assert(depth % 2 == 0 && b.column % 2 == 0);
        b = (struct matrix){b.data, DTYPE_F32, 1, b.column / 2};
        depth /= 2;
        dtype = DTYPE_F32;
    }
    for (size_t column = 0; column < columns; column += TILE_COLUMNS) {
        struct matrix from = b;
        from.data = matrix_at(b, 0, column);
        size_t at = column / TILE_COLUMNS * panels->panel_stride;
        void *out = (char *)panels->data + at * element;
        pack_panel(out, dtype, from, depth, min_size(TILE_COLUMNS, columns - column));
    }
}

void ISA(gemm_pair_rows)(uint32_t *out, size_t stride, struct matrix a, size_t rows, size_t depth)
{
    for (size_t row = 0; row < rows; row++) {
        uint16_t *to = (uint16_t *)(out + row * stride);
        size_t from = row * a.row, k = 0;
        for (; k + VF_LANES <= depth; k += VF_LANES) {
            vh v = vh_load_any(a.data, a.dtype, from + k);
            memcpy(to + k, &v, sizeof v);
        }
        for (; k < depth; k++)
            to[k] = bf16_from_f32(load_any(a.data, a.dtype, from + k));
        if (depth % 2)
            to[depth] = 0;
    }
}
