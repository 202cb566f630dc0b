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
    TASK_COLUMNS = 256,    // of a task on packed panels
    COPY_ELEMENTS = 65536, // of a task that copies: fewer are not worth waking a thread
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
    part.a.data = (const char *)part.a.data + row * part.a.row * dtype_bytes(part.a.dtype);
    if (part.bias)
        part.bias += column;
    if (part.panels.data) {
        part.panels.data = (char *)part.panels.data + column / TILE_COLUMNS *
                                                          part.panels.panel_stride *
                                                          panel_bytes(part.panels.dtype);
    } else {
        part.b.data =
            (const char *)part.b.data + column * part.b.column * dtype_bytes(part.b.dtype);
    }
    struct scratch *scratch = &device_cpu(grid->device)->threads[thread];
    ISA(gemm)(&part, scratch_reserve(scratch, GEMM_SCRATCH_BYTES));
}

// Where nothing is packed twice, dividing further is free: a thread that lost its processor for a
// while then leaves the rest to the others. Undisturbed, all get the same share.
static size_t even_columns(const struct gemm *g, size_t threads)
{
    size_t most = g->panels.data ? TASK_COLUMNS : BLOCK_COLUMNS;
    size_t tasks = ceil_div(ceil_div(g->columns, most), threads) * threads;
    return ceil_div(ceil_div(g->columns, tasks), TILE_COLUMNS) * TILE_COLUMNS;
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
    if (gemm->a.column == 1 && parts == 1 && threads > 1)
        grid.column_step = even_columns(gemm, threads);
    grid.column_parts = ceil_div(gemm->columns, grid.column_step);
    cpu_run(device, ceil_div(gemm->rows, grid.row_step) * grid.column_parts, grid_task, &grid);
}

static struct matrix matrix_of(struct tensor tensor, size_t row, size_t column)
{
    return (struct matrix){
        .data = tensor.data, .dtype = tensor.dtype, .row = row, .column = column};
}

static bool is_half(struct tensor tensor)
{
    return tensor.dtype == DTYPE_F16;
}

// Operands in a form that the product does not read, and results that it does not write, are copied
// to the shared scratch and from there.
struct copies {
    float *bias, *out, *x, *y;
};

static size_t copy_room(size_t count)
{
    return ceil_div(count, 16) * 16; // floats of whole cache lines
}

static struct copies copies_reserve(const struct device *device, size_t bias, size_t out, size_t x,
                                    size_t y)
{
    size_t floats = copy_room(bias) + copy_room(out) + copy_room(x) + copy_room(y);
    struct copies copies = {
        .bias = scratch_reserve(&device_cpu(device)->shared, floats * sizeof(float))};
    copies.out = copies.bias + copy_room(bias);
    copies.x = copies.out + copy_room(out);
    copies.y = copies.x + copy_room(x);
    return copies;
}

static size_t copy_count(struct tensor tensor, size_t count)
{
    return tensor.data && tensor.dtype != DTYPE_F32 ? count : 0;
}

struct copy_job {
    struct tensor in;
    struct tensor out; // one of the two is float32; pairs when there is
    size_t stride;     // of out, in pairs; 0: it has the shape of in
    size_t rows, width;
    size_t step; // rows of a task
};

static void copy_task(void *argument, size_t task, int thread)
{
    (void)thread;
    const struct copy_job *job = argument;
    size_t row = task * job->step, rows = min_size(job->step, job->rows - row);
    const size_t in_bytes = dtype_bytes(job->in.dtype), out_bytes = dtype_bytes(job->out.dtype);
    const char *in = (const char *)job->in.data + row * job->width * in_bytes;
    char *out = (char *)job->out.data + row * (job->stride ? job->stride : job->width) * out_bytes;
    if (job->stride)
        ISA(gemm_pair_rows)
    ((uint32_t *)out, job->stride, (struct matrix){in, job->in.dtype, job->width, 1}, rows,
     job->width);
    else if (job->out.dtype == DTYPE_F32)
        convert_to_f32((float *)out, in, job->in.dtype, rows * job->width);
    else convert_from_f32(out, job->out.dtype, (const float *)in, rows * job->width);
}

static void copy_run(const struct device *device, struct copy_job job)
{
    job.step = job.width >= COPY_ELEMENTS || job.width == 0 ? 1 : COPY_ELEMENTS / job.width;
    cpu_run(device, ceil_div(job.rows, job.step), copy_task, &job);
}

// In float32: the tensor itself, or a copy.
static struct tensor widen(const struct device *device, struct tensor tensor, float *copy,
                           size_t rows, size_t width)
{
    if (!tensor.data || tensor.dtype == DTYPE_F32)
        return tensor;
    struct tensor wide = {.data = copy, .dtype = DTYPE_F32};
    copy_run(device, (struct copy_job){.in = tensor, .out = wide, .rows = rows, .width = width});
    return wide;
}

// Rows of pairs lie an odd number of cache lines apart, so that those of a tile fall into different
// sets of the cache.
static size_t pairs_stride(size_t width)
{
    return (ceil_div(ceil_div(width, 2), 16) | 1) * 16;
}

static struct matrix pairs_of(const struct device *device, struct tensor x, float *copy,
                              size_t rows, size_t width)
{
    struct copy_job job = {.in = x,
                           .out = {.data = copy, .dtype = DTYPE_F32},
                           .stride = pairs_stride(width),
                           .rows = rows,
                           .width = width};
    copy_run(device, job);
    return matrix_of(job.out, job.stride, 1);
}

// The product into a tensor of any dtype.
static void product_run(const struct device *device, struct gemm *gemm, struct tensor out,
                        float *copy)
{
    gemm->c = out.dtype == DTYPE_F32 ? out.data : copy;
    if (gemm->keep)
        widen(device, out, copy, gemm->rows, gemm->columns);
    grid_run(device, gemm);
    if (out.dtype != DTYPE_F32)
        copy_run(device, (struct copy_job){.in = {.data = copy, .dtype = DTYPE_F32},
                                           .out = out,
                                           .rows = gemm->rows,
                                           .width = gemm->columns});
}

// bfloat16 stays so in panels: half the memory to read. Pairs along the rows of a weight need an
// even number of elements.
static enum dtype panels_dtype(const struct linear *linear)
{
    bool odd = bf16_products && linear->in_width % 2;
    return linear->weight.dtype == DTYPE_BF16 && !odd ? DTYPE_BF16 : DTYPE_F32;
}

static struct panels panels_of(const struct linear *linear, void *data)
{
    enum dtype dtype = panels_dtype(linear);
    return (struct panels){.data = data,
                           .dtype = data || bf16_products ? dtype : DTYPE_F32,
                           .panel_stride = panel_depth(dtype, linear->in_width) * TILE_COLUMNS};
}

// The product is added to a copy of what it is added to.
static void add_to_residual(struct device *device, const struct linear_forward *a)
{
    struct linear_forward onto = *a;
    onto.residual.data = NULL;
    onto.accumulate = true;
    if (a->residual.data != a->out.data)
        device_copy(device, a->out.data, a->residual.data,
                    a->rows * a->linear->out_width * dtype_bytes(a->out.dtype));
    ISA(linear_forward)(device, &onto);
}

void ISA(linear_forward)(struct device *device, const struct linear_forward *a)
{
    const struct linear *linear = a->linear;
    if (is_half(a->out) || is_half(a->x)) {
        ref_linear_forward(device, a);
        return;
    }
    if (a->residual.data) {
        add_to_residual(device, a);
        return;
    }
    bool pairs = bf16_products && panels_dtype(linear) == DTYPE_BF16;
    size_t width = linear->in_width;
    struct copies copies = copies_reserve(
        device, copy_count(linear->bias, linear->out_width),
        copy_count(a->out, a->rows * linear->out_width),
        pairs ? a->rows * pairs_stride(width) : copy_count(a->x, a->rows * width), 0);
    struct gemm gemm = {
        .c_stride = linear->out_width,
        .b = matrix_of(linear->weight, 1, width),
        .panels = panels_of(linear, linear->packed),
        .rows = a->rows,
        .columns = linear->out_width,
        .depth = width,
        .keep = a->accumulate,
        .bias = widen(device, linear->bias, copies.bias, 1, linear->out_width).data,
    };
    gemm.a = pairs ? pairs_of(device, a->x, copies.x, a->rows, width)
                   : matrix_of(widen(device, a->x, copies.x, a->rows, width), width, 1);
    product_run(device, &gemm, a->out, copies.out);
}

void ISA(linear_backward_input)(struct device *device, const struct linear_backward_input *a)
{
    const struct linear *linear = a->linear;
    if (is_half(a->grad_x) || is_half(a->grad_out)) {
        ref_linear_backward_input(device, a);
        return;
    }
    bool pairs = bf16_products && linear->weight.dtype == DTYPE_BF16;
    size_t width = linear->out_width;
    struct copies copies = copies_reserve(
        device, 0, copy_count(a->grad_x, a->rows * linear->in_width),
        pairs ? a->rows * pairs_stride(width) : copy_count(a->grad_out, a->rows * width), 0);
    struct gemm gemm = {
        .c_stride = linear->in_width,
        .b = matrix_of(linear->weight, linear->in_width, 1),
        .panels = {.dtype = pairs ? DTYPE_BF16 : DTYPE_F32},
        .rows = a->rows,
        .columns = linear->in_width,
        .depth = width,
        .keep = a->accumulate,
    };
    gemm.a = pairs ? pairs_of(device, a->grad_out, copies.x, a->rows, width)
                   : matrix_of(widen(device, a->grad_out, copies.x, a->rows, width), width, 1);
    product_run(device, &gemm, a->grad_x, copies.out);
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
    float *sum = a->grad_bias.data;
    size_t begin = task * columns->step, end = min_size(begin + columns->step, a->out_width);
    for (size_t row = 0; row < a->rows; row++)
        for (size_t i = begin; i < end; i++)
            sum[i] += load_any(a->grad_out.data, a->grad_out.dtype, row * a->out_width + i);
}

void ISA(linear_backward_weight)(struct device *device, const struct linear_backward_weight *a)
{
    if (a->grad_weight.dtype != DTYPE_F32 || is_half(a->grad_out) || is_half(a->x) ||
        (a->grad_bias.data && a->grad_bias.dtype != DTYPE_F32)) {
        ref_linear_backward_weight(device, a);
        return;
    }
    bool both = a->grad_out.dtype == DTYPE_BF16 && a->x.dtype == DTYPE_BF16;
    bool pairs = bf16_products && (both || a->product == DTYPE_BF16);
    struct tensor grad_out = a->grad_out, x = a->x;
    if (!pairs) {
        struct copies copies = copies_reserve(device, 0, 0, copy_count(x, a->rows * a->in_width),
                                              copy_count(grad_out, a->rows * a->out_width));
        x = widen(device, x, copies.x, a->rows, a->in_width);
        grad_out = widen(device, grad_out, copies.y, a->rows, a->out_width);
    }
    grid_run(device, &(struct gemm){
                         .c = a->grad_weight.data,
                         .c_stride = a->in_width,
                         .a = matrix_of(grad_out, 1, a->out_width),
                         .b = matrix_of(x, a->in_width, 1),
                         .panels = {.dtype = pairs ? DTYPE_BF16 : DTYPE_F32},
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
    enum dtype dtype = panels_dtype(linear);
    size_t bytes = panels_elements(linear->out_width, panel_depth(dtype, linear->in_width)) *
                   panel_bytes(dtype);
    void *block = NULL;
    bool huge = bytes >= HUGE_PAGE_BYTES;
    if (posix_memalign(&block, huge ? HUGE_PAGE_BYTES : 64, bytes) != 0)
        return; // a hint: without the copy the weight is packed at every call
    if (huge)
        madvise(block, bytes, MADV_HUGEPAGE); // a stream of small pages waits at each page's end
    struct panels panels = panels_of(linear, block);
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
