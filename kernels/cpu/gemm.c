// SPDX-License-Identifier: Apache-2.0
// Register-tiled product (Goto and van de Geijn 2008): a tile of TILE_ROWS x TILE_COLUMNS of C
// stays in registers while k runs over a block of BLOCK_DEPTH; the panel of B it reads stays in the
// first cache for all tiles below each other. A is read where it lies when its rows are contiguous,
// and through a packed copy when its columns are (backward of the weight), as one element per cache
// line would be read otherwise.
#include "kernels/cpu/gemm.h"

#include <assert.h>

// What a tile reads and writes; begin is what its chains start from.
struct tile {
    const float *a;
    size_t a_row, a_column;
    const void *b;
    size_t panel_stride; // of the panels of b when the tile takes several
    float *c;
    size_t c_stride;
    const float *begin;
    size_t begin_stride;
    size_t depth;
    const char
        *ahead; // packed bfloat16: what to fetch into the second cache, ahead_step bytes per k
    size_t ahead_step;
};

enum { PANELS_LIMIT = 4, CACHE_LINE = 64 };

// VF_LANES elements of a panel.
static inline __attribute__((always_inline)) vf panel_load(const void *panel, enum dtype dtype,
                                                           size_t at)
{
    return dtype == DTYPE_F32 || bf16_products ? vf_load((const float *)panel + at)
                                               : vf_load_bf16((const uint16_t *)panel + at);
}

// c + a b for an element of A, a number or a pair.
static inline __attribute__((always_inline)) vf multiply_add(const float *a, vf b, vf c,
                                                             enum dtype dtype)
{
    if (!is_pairs(dtype))
        return vf_fma(vf_set(*a), b, c);
    int32_t pair;
    memcpy(&pair, a, sizeof pair);
    return vf_dot(pair - (vi){0}, (vi)b, c);
}

// One step of k. With one panel its two vectors stay while the rows pass; with several the few rows
// stay while the panels pass: either order alone would ask for more registers than there are.
static inline __attribute__((always_inline)) void tile_step(vf sum[][2 * PANELS_LIMIT],
                                                            const struct tile *t, size_t k,
                                                            size_t rows, size_t panels,
                                                            size_t a_row, size_t a_column,
                                                            enum dtype dtype)
{
    const float *a = t->a + k * a_column;
    size_t at = k * TILE_COLUMNS;
    if (panels == 1) {
        vf b0 = panel_load(t->b, dtype, at), b1 = panel_load(t->b, dtype, at + VF_LANES);
#pragma GCC unroll 16
        for (size_t i = 0; i < rows; i++) {
            sum[i][0] = multiply_add(a + i * a_row, b0, sum[i][0], dtype);
            sum[i][1] = multiply_add(a + i * a_row, b1, sum[i][1], dtype);
        }
        return;
    }
#pragma GCC unroll 8
    for (size_t j = 0; j < 2 * panels; j++) {
        vf b = panel_load(t->b, dtype, j / 2 * t->panel_stride + at + j % 2 * VF_LANES);
#pragma GCC unroll 2
        for (size_t i = 0; i < rows; i++)
            sum[i][j] = multiply_add(a + i * a_row, b, sum[i][j], dtype);
    }
}

// rows, panels and dtype are constants at every call, so that the accumulators are registers.
static inline __attribute__((always_inline)) void tile_compute(const struct tile *t, size_t rows,
                                                               size_t panels, size_t a_row,
                                                               size_t a_column, enum dtype dtype)
{
    vf sum[TILE_ROWS][2 * PANELS_LIMIT];
#pragma GCC unroll 16
    for (size_t i = 0; i < rows; i++)
#pragma GCC unroll 8
        for (size_t j = 0; j < 2 * panels; j++)
            sum[i][j] = vf_load(t->begin + i * t->begin_stride + j * VF_LANES);
    // All lines of a step, or, for few rows, which the processor's own prefetching almost serves,
    // every second one.
    const size_t step_bytes = panels * TILE_COLUMNS * panel_bytes(dtype);
    const size_t lines = ceil_div(step_bytes, rows < 6 ? 2 * CACHE_LINE : CACHE_LINE);
    for (size_t k = 0; k < t->depth; k++) {
#pragma GCC unroll 8
        for (size_t line = 0; dtype == DTYPE_BF16 && line < lines; line++)
            __builtin_prefetch(t->ahead + k * t->ahead_step + line * CACHE_LINE, 0, 2);
        tile_step(sum, t, k, rows, panels, a_row, a_column, dtype);
    }
#pragma GCC unroll 16
    for (size_t i = 0; i < rows; i++)
#pragma GCC unroll 8
        for (size_t j = 0; j < 2 * panels; j++)
            vf_store(t->c + i * t->c_stride + j * VF_LANES, sum[i][j]);
}

// A as it lies (a_column 1), or packed (a_row 1, TILE_ROWS rows interleaved).
static inline __attribute__((always_inline)) void tile_layout(const struct tile *t, size_t rows,
                                                              enum dtype dtype)
{
    if (t->a_column == 1)
        tile_compute(t, rows, 1, t->a_row, 1, dtype);
    else
        tile_compute(t, rows, 1, 1, TILE_ROWS, dtype);
}

static inline __attribute__((always_inline)) size_t tile_dtype(const struct tile *t, size_t rows,
                                                               enum dtype dtype)
{
    if (dtype == DTYPE_F32)
        tile_layout(t, rows, DTYPE_F32);
    else
        tile_layout(t, rows, DTYPE_BF16);
    return rows;
}

// Rows of the next tile when `rows` are left: as few tiles as possible, of even height, as a low
// one waits for the latency of its additions.
static size_t tile_rows(size_t rows)
{
    return ceil_div(rows, ceil_div(rows, TILE_ROWS));
}

// Computes the next tile; returns its rows.
static size_t tile_run(const struct tile *t, size_t rows, enum dtype dtype)
{
    switch (tile_rows(rows)) {
    case 1:
        return tile_dtype(t, 1, dtype);
    case 2:
        return tile_dtype(t, 2, dtype);
    case 3:
        return tile_dtype(t, 3, dtype);
    case 4:
        return tile_dtype(t, 4, dtype);
    case 5:
        return tile_dtype(t, 5, dtype);
#if VF_LANES == 16
    case 6:
        return tile_dtype(t, 6, dtype);
    case 7:
        return tile_dtype(t, 7, dtype);
    case 8:
        return tile_dtype(t, 8, dtype);
    case 9:
        return tile_dtype(t, 9, dtype);
    case 10:
        return tile_dtype(t, 10, dtype);
    case 11:
        return tile_dtype(t, 11, dtype);
    case 12:
        return tile_dtype(t, 12, dtype);
    case 13:
        return tile_dtype(t, 13, dtype);
#endif
    default:
        return tile_dtype(t, TILE_ROWS, dtype);
    }
}

// One or two rows of A as they lie, over PANELS_LIMIT / rows panels: one panel's two chains would
// wait for the latency of the addition, eight keep up with the memory. Returns the panels taken.
static size_t tile_run_wide(const struct tile *t, size_t rows, enum dtype dtype)
{
    if (rows == 1 && dtype == DTYPE_F32)
        tile_compute(t, 1, 4, t->a_row, 1, DTYPE_F32);
    else if (rows == 1)
        tile_compute(t, 1, 4, t->a_row, 1, DTYPE_BF16);
    else if (dtype == DTYPE_F32)
        tile_compute(t, 2, 2, t->a_row, 1, DTYPE_F32);
    else
        tile_compute(t, 2, 2, t->a_row, 1, DTYPE_BF16);
    return PANELS_LIMIT / rows;
}

// A tile that overhangs C: computed beside it, the columns that exist are copied.
static size_t tile_run_edge(const struct tile *t, size_t rows, size_t columns, enum dtype dtype)
{
    float begin[TILE_ROWS * TILE_COLUMNS] = {0}, c[TILE_ROWS * TILE_COLUMNS];
    for (size_t i = 0; i < tile_rows(rows); i++)
        memcpy(begin + i * TILE_COLUMNS, t->begin + i * t->begin_stride, columns * sizeof *begin);
    struct tile beside = *t;
    beside.begin = begin;
    beside.begin_stride = TILE_COLUMNS;
    beside.c = c;
    beside.c_stride = TILE_COLUMNS;
    size_t done = tile_run(&beside, rows, dtype);
    for (size_t i = 0; i < done; i++)
        memcpy(t->c + i * t->c_stride, c + i * TILE_COLUMNS, columns * sizeof *c);
    return done;
}

// The tile at (row, column) of a block.
static struct tile tile_at(const struct gemm *g, size_t row, size_t column, bool packed)
{
    static const float zeros[PANELS_LIMIT * TILE_COLUMNS];
    size_t panel = column / TILE_COLUMNS * g->panels.panel_stride;
    struct tile t = {
        .a = (const float *)g->a.data + row * g->a.row,
        .a_row = g->a.row,
        .a_column = g->a.column,
        .b = (const char *)g->panels.data + panel * panel_bytes(g->panels.dtype),
        .panel_stride = g->panels.panel_stride,
        .c = g->c + row * g->c_stride + column,
        .c_stride = g->c_stride,
        .begin_stride = g->keep ? g->c_stride : 0,
        .depth = panel_depth(g->panels.dtype, g->depth),
    };
    if (packed) {
        size_t group = row / TILE_ROWS * TILE_ROWS;
        t.a = (const float *)g->a.data + group * t.depth + (row - group);
        t.a_column = TILE_ROWS;
    }
    t.begin = g->keep ? t.c : g->bias ? g->bias + column : zeros;
    t.ahead = t.b;
    return t;
}

// While the rows pass one group of panels, the next comes from memory, evenly spread over them: the
// processor's own prefetching ends at every page, and would leave the memory idle during all tiles
// but the first.
static void tile_fetch_ahead(struct tile *t, const struct gemm *g, size_t row, size_t panels)
{
    size_t step_bytes = panels * TILE_COLUMNS * panel_bytes(g->panels.dtype); // per k
    t->ahead = (const char *)t->b + step_bytes * t->depth * (g->rows + row) / g->rows;
    t->ahead_step = ceil_div(step_bytes * tile_rows(g->rows - row), g->rows);
}

// While a tile is computed, what the next one begins from comes from memory.
static void fetch_next(const struct gemm *g, size_t row, size_t column)
{
    if (row >= g->rows) {
        row = 0;
        column += TILE_COLUMNS;
    }
    if (!g->keep || column >= g->columns)
        return;
    const float *c = g->c + row * g->c_stride + column;
    const size_t rows = min_size(TILE_ROWS, g->rows - row);
    for (size_t i = 0; i < rows; i++)
        for (size_t j = 0; j < TILE_COLUMNS; j += CACHE_LINE / sizeof *c)
            __builtin_prefetch(c + i * g->c_stride + j, 1, 3);
}

// One block of A (at most BLOCK_ROWS when packed) against panels; g describes the block alone.
static void block_run(const struct gemm *g, bool packed, bool few)
{
    size_t taken; // panels
    for (size_t column = 0; column < g->columns; column += taken * TILE_COLUMNS) {
        size_t columns = min_size(TILE_COLUMNS, g->columns - column);
        size_t wide = few && g->rows <= 2 ? PANELS_LIMIT / g->rows : 1;
        if (wide > 1 && g->columns - column >= wide * TILE_COLUMNS) {
            struct tile t = tile_at(g, 0, column, packed);
            if (g->columns - column >= 2 * wide * TILE_COLUMNS)
                tile_fetch_ahead(&t, g, 0, wide);
            taken = tile_run_wide(&t, g->rows, g->panels.dtype);
            continue;
        }
        taken = 1;
        for (size_t row = 0, done; row < g->rows; row += done) {
            struct tile t = tile_at(g, row, column, packed);
            size_t rows = g->rows - row;
            if (packed) // a tile stays inside its group of interleaved rows
                rows = min_size(rows, TILE_ROWS - row % TILE_ROWS);
            if (few && g->columns - column >= 2 * TILE_COLUMNS)
                tile_fetch_ahead(&t, g, row, 1);
            if (!few)
                fetch_next(g, row + tile_rows(rows), column);
            done = columns == TILE_COLUMNS ? tile_run(&t, rows, g->panels.dtype)
                                           : tile_run_edge(&t, rows, columns, g->panels.dtype);
        }
    }
}

// Rows of A interleaved by TILE_ROWS: element (i, k) of a group lies at k TILE_ROWS + i.
static void pack_rows(float *out, const struct gemm *g)
{
    size_t depth = panel_depth(g->panels.dtype, g->depth);
    float line[BLOCK_ROWS];
    struct matrix transposed = {g->a.data, g->a.dtype, g->a.column, g->a.row};
    for (size_t k = 0; k < depth; k++) {
        const float *a = (const float *)g->a.data + k * g->a.column;
        if (is_pairs(g->panels.dtype)) {
            ISA(gemm_pair_row)(line, transposed, 2 * k, g->depth, g->rows);
            a = line;
        }
        for (size_t row = 0; row < g->rows; row += TILE_ROWS) {
            float *to = out + row * depth + k * TILE_ROWS;
            if (g->rows - row >= TILE_ROWS)
                memcpy(to, a + row, TILE_ROWS * sizeof *to);
            else
                memcpy(to, a + row, (g->rows - row) * sizeof *to);
        }
    }
}

// Whether tiles read A where it lies. Rows of pairs are never one pair apart.
static bool rows_are_contiguous(const struct gemm *g)
{
    return is_pairs(g->panels.dtype) ? g->a.row != 1 : g->a.column == 1;
}

// All rows of A against one block of panels.
static void rows_run(const struct gemm *g, bool few)
{
    if (rows_are_contiguous(g)) {
        for (size_t row = 0; row < g->rows; row += BLOCK_ROWS) {
            struct gemm block = *g;
            block.rows = min_size(BLOCK_ROWS, g->rows - row);
            block.a.data = (const float *)g->a.data + row * g->a.row;
            block.c = g->c + row * g->c_stride;
            block_run(&block, false, few);
        }
        return;
    }
    _Alignas(64) float packed[BLOCK_ROWS * BLOCK_DEPTH];
    assert(g->a.row == 1 && panel_depth(g->panels.dtype, g->depth) <= BLOCK_DEPTH);
    for (size_t row = 0; row < g->rows; row += BLOCK_ROWS) {
        struct gemm block = *g;
        block.rows = min_size(BLOCK_ROWS, g->rows - row);
        block.a.data = matrix_at(g->a, row, 0);
        block.c = g->c + row * g->c_stride;
        pack_rows(packed, &block);
        block.a.data = packed;
        block_run(&block, true, false);
    }
}

// Panels of B for a block that starts at (k, column): a part of those given, in float32 when many
// rows will read bfloat16, or packed now.
static void block_panels(struct gemm *block, const struct gemm *g, size_t k, size_t column,
                         void *scratch)
{
    struct panels fresh = {.data = scratch,
                           .dtype = g->panels.dtype,
                           .panel_stride =
                               panel_depth(g->panels.dtype, block->depth) * TILE_COLUMNS};
    if (!g->panels.data) {
        struct matrix b = g->b;
        b.data = matrix_at(g->b, k, column);
        block->panels = fresh;
        ISA(gemm_pack)(&fresh, b, block->depth, block->columns);
        return;
    }
    size_t at = column / TILE_COLUMNS * g->panels.panel_stride +
                panel_depth(g->panels.dtype, k) * TILE_COLUMNS;
    block->panels.data = (char *)g->panels.data + at * panel_bytes(g->panels.dtype);
    if (g->panels.dtype == DTYPE_F32 || bf16_products || g->rows <= FEW_ROWS)
        return;
    fresh.dtype = DTYPE_F32;
    for (size_t panel = 0; panel < ceil_div(block->columns, TILE_COLUMNS); panel++) {
        const uint16_t *from = (uint16_t *)block->panels.data + panel * g->panels.panel_stride;
        float *to = (float *)scratch + panel * fresh.panel_stride;
        for (size_t i = 0; i < fresh.panel_stride; i += VF_LANES)
            vf_store(to + i, vf_load_bf16(from + i));
    }
    block->panels = fresh;
}

void ISA(gemm)(const struct gemm *gemm, void *scratch)
{
    const struct gemm *g = gemm;
    if (g->keep && g->bias)
        for (size_t row = 0; row < g->rows; row++)
            for (size_t i = 0; i < g->columns; i++)
                g->c[row * g->c_stride + i] += g->bias[i];
    // Few rows are bound by memory: they read each panel in one go, as it lies.
    bool few = g->panels.data && g->rows <= FEW_ROWS && rows_are_contiguous(g);
    size_t deepest = is_pairs(g->panels.dtype) ? 2 * BLOCK_DEPTH : BLOCK_DEPTH;
    size_t depth_step = few && g->depth > deepest ? g->depth : deepest;
    size_t column_step = few ? g->columns : rows_are_contiguous(g) ? BLOCK_COLUMNS : WIDE_COLUMNS;
    for (size_t column = 0; column < g->columns; column += column_step) {
        // A product of depth 0 still has its start to write.
        for (size_t k = 0; k == 0 || k < g->depth; k += depth_step) {
            struct gemm block = *g;
            block.columns = min_size(column_step, g->columns - column);
            block.depth = min_size(depth_step, g->depth - k);
            bool pairs = is_pairs(g->panels.dtype) && rows_are_contiguous(g);
            block.a.data = matrix_at(g->a, 0, pairs ? k / 2 : k);
            block.c = g->c + column;
            block.keep = g->keep || k > 0;
            block.bias = g->bias ? g->bias + column : NULL;
            block_panels(&block, g, k, column, scratch);
            rows_run(&block, few);
        }
    }
}
