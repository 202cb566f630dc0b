// SPDX-License-Identifier: Apache-2.0
// Dense layers, spread over threads in a grid of blocks of C.
//
// The product is our own because a row must have the same bits in every batch: dnnl_sgemm of oneDNN
// 2.6 (AVX2) gives a row of a batch of 1, 3, 7 or 33 other bits than the same row among 600. On the
// training shapes (2,000 rows, widths 256 to 4,096, one thread, FMA rate 90 GFLOP/s) it reaches 73
// to 79 forward and 30 to 74 for the weight's gradient, this 79 to 84 and 72 to 81.
#include "kernels/cpu/gemm.h"

#include "base/mem.h"

#include <stdlib.h>
#include <sys/mman.h>

enum {
    TASK_COLUMNS = BLOCK_COLUMNS / 2, // of a task on packed panels
    HUGE_PAGE_BYTES = 2 << 20,
};

struct grid {
    const struct device *device;
    struct gemm gemm;
    size_t row_step, column_step;
    size_t column_parts;
};

// Parts of C: as many as there are threads. Packing repeats the part's share of A and of B, so the
// parts are made as square as the shape allows.
static size_t row_parts(const struct gemm *g, size_t threads)
{
    size_t best = 1;
    double least = 0;
    for (size_t parts = 1; parts <= threads; parts++) {
        if (threads % parts != 0)
            continue;
        size_t rows = ceil_div(ceil_div(g->rows, parts), TILE_ROWS) * TILE_ROWS;
        size_t columns =
            ceil_div(ceil_div(g->columns, threads / parts), TILE_COLUMNS) * TILE_COLUMNS;
        double products = (double)rows * (double)columns;
        // A packed element costs about as much as these many products.
        double cost = products + 16.0 * (double)((g->a.column == 1 ? 0 : rows) +
                                                 (g->panels.data ? 0 : columns));
        if (parts == 1 || cost < least) {
            least = cost;
            best = parts;
        }
    }
    return best;
}

static void grid_task(void *argument, size_t task, int thread)
{
    const struct grid *grid = argument;
    size_t row = task / grid->column_parts * grid->row_step;
    size_t column = task % grid->column_parts * grid->column_step;
    struct gemm part = grid->gemm;
    part.rows = min_size(grid->row_step, part.rows - row);
    part.columns = min_size(grid->column_step, part.columns - column);
    part.c += row * part.c_stride + column;
    part.a.data = (const float *)part.a.data + row * part.a.row;
    if (part.bias)
        part.bias += column;
    if (part.panels.data) {
        part.panels.data = (char *)part.panels.data + column / TILE_COLUMNS *
                                                          part.panels.panel_stride *
                                                          dtype_bytes(part.panels.dtype);
    } else {
        part.b.data =
            (const char *)part.b.data + column * part.b.column * dtype_bytes(part.b.dtype);
    }
    struct scratch *scratch = &device_cpu(grid->device)->threads[thread];
    ISA(gemm)(&part, scratch_reserve(scratch, GEMM_SCRATCH_BYTES));
}

static void grid_run(const struct device *device, const struct gemm *gemm)
{
    if (gemm->rows == 0 || gemm->columns == 0)
        return;
    size_t threads = (size_t)device->threads, parts = row_parts(gemm, threads);
    struct grid grid = {.device = device, .gemm = *gemm};
    grid.row_step = ceil_div(ceil_div(gemm->rows, parts), TILE_ROWS) * TILE_ROWS;
    grid.column_step =
        ceil_div(ceil_div(gemm->columns, threads / parts), TILE_COLUMNS) * TILE_COLUMNS;
    // Packed panels cost nothing to divide further: a thread that lost its processor for a while
    // then leaves the rest to the others.
    if (gemm->panels.data && threads > 1)
        grid.column_step = min_size(grid.column_step, TASK_COLUMNS);
    grid.column_parts = ceil_div(gemm->columns, grid.column_step);
    cpu_run(device, ceil_div(gemm->rows, grid.row_step) * grid.column_parts, grid_task, &grid);
}

// bfloat16 stays so in panels: half the memory to read, and widening it is two instructions.
static enum dtype panels_dtype(struct tensor weight)
{
    return weight.dtype == DTYPE_BF16 ? DTYPE_BF16 : DTYPE_F32;
}

static struct matrix matrix_of(struct tensor tensor, size_t row, size_t column)
{
    return (struct matrix){
        .data = tensor.data, .dtype = tensor.dtype, .row = row, .column = column};
}

// The bias in float32: itself, or a converted copy in the shared scratch.
static const float *bias_of(const struct device *device, const struct linear *linear)
{
    if (!linear->bias.data || linear->bias.dtype == DTYPE_F32)
        return linear->bias.data;
    float *copy = scratch_reserve(&device_cpu(device)->shared, linear->out_width * sizeof *copy);
    convert_to_f32(copy, linear->bias.data, linear->bias.dtype, linear->out_width);
    return copy;
}

void ISA(linear_forward)(struct device *device, const struct linear_forward *a)
{
    const struct linear *linear = a->linear;
    if (a->out.dtype != DTYPE_F32 || a->x.dtype != DTYPE_F32) {
        ref_linear_forward(device, a);
        return;
    }
    grid_run(device, &(struct gemm){
                         .c = a->out.data,
                         .c_stride = linear->out_width,
                         .a = matrix_of(a->x, linear->in_width, 1),
                         .b = matrix_of(linear->weight, 1, linear->in_width),
                         .panels = {.data = linear->packed,
                                    .dtype = panels_dtype(linear->weight),
                                    .panel_stride = linear->in_width * TILE_COLUMNS},
                         .rows = a->rows,
                         .columns = linear->out_width,
                         .depth = linear->in_width,
                         .keep = a->accumulate,
                         .bias = bias_of(device, linear),
                     });
}

void ISA(linear_backward_input)(struct device *device, const struct linear_backward_input *a)
{
    const struct linear *linear = a->linear;
    if (a->grad_x.dtype != DTYPE_F32 || a->grad_out.dtype != DTYPE_F32) {
        ref_linear_backward_input(device, a);
        return;
    }
    grid_run(device, &(struct gemm){
                         .c = a->grad_x.data,
                         .c_stride = linear->in_width,
                         .a = matrix_of(a->grad_out, linear->out_width, 1),
                         .b = matrix_of(linear->weight, linear->in_width, 1),
                         .rows = a->rows,
                         .columns = linear->in_width,
                         .depth = linear->out_width,
                         .keep = a->accumulate,
                     });
}

// Column sums of grad_out, each in ascending row order.
struct columns {
    const struct linear_backward_weight *a;
    size_t step;
};

static void columns_task(void *argument, size_t task, int thread)
{
    (void)thread;
    const struct columns *columns = argument;
    const struct linear_backward_weight *a = columns->a;
    const float *grad = a->grad_out.data;
    float *sum = a->grad_bias.data;
    size_t begin = task * columns->step, end = min_size(begin + columns->step, a->out_width);
    for (size_t row = 0; row < a->rows; row++)
        for (size_t i = begin; i < end; i++)
            sum[i] += grad[row * a->out_width + i];
}

void ISA(linear_backward_weight)(struct device *device, const struct linear_backward_weight *a)
{
    if (a->grad_weight.dtype != DTYPE_F32 || a->grad_out.dtype != DTYPE_F32 ||
        a->x.dtype != DTYPE_F32 || (a->grad_bias.data && a->grad_bias.dtype != DTYPE_F32)) {
        ref_linear_backward_weight(device, a);
        return;
    }
    grid_run(device, &(struct gemm){
                         .c = a->grad_weight.data,
                         .c_stride = a->in_width,
                         .a = matrix_of(a->grad_out, 1, a->out_width),
                         .b = matrix_of(a->x, a->in_width, 1),
                         .rows = a->out_width,
                         .columns = a->in_width,
                         .depth = a->rows,
                         .keep = true,
                     });
    if (!a->grad_bias.data)
        return;
    struct columns columns = {.a = a, .step = 256};
    cpu_run(device, ceil_div(a->out_width, columns.step), columns_task, &columns);
}

void ISA(linear_pack)(struct device *device, struct linear *linear)
{
    (void)device;
    linear->packed = NULL;
    if (linear->in_width == 0)
        return;
    size_t bytes = panels_elements(linear->out_width, linear->in_width) *
                   dtype_bytes(panels_dtype(linear->weight));
    void *block = NULL;
    bool huge = bytes >= HUGE_PAGE_BYTES;
    if (posix_memalign(&block, huge ? HUGE_PAGE_BYTES : 64, bytes) != 0)
        return; // a hint: without the copy the weight is packed at every call
    if (huge)
        madvise(block, bytes, MADV_HUGEPAGE); // a stream of small pages waits at each page's end
    struct panels panels = {.data = block,
                            .dtype = panels_dtype(linear->weight),
                            .panel_stride = linear->in_width * TILE_COLUMNS};
    ISA(gemm_pack)
    (&panels, matrix_of(linear->weight, 1, linear->in_width), linear->in_width, linear->out_width);
    linear->packed = block;
}

void ISA(linear_unpack)(struct device *device, struct linear *linear)
{
    (void)device;
    free(linear->packed);
    linear->packed = NULL;
}
