// SPDX-License-Identifier: Apache-2.0
// Dense layers: see kernels/ref/linear.c. cuBLASLt (gemm.cu) or our own product (gemm_tiles.cu)
// where x, weight and out have types that these multiply; otherwise one thread a result, for any
// types: correct and slow.
#include "kernels/cuda/cuda.h"

enum {
    TILE = 16,
    THREADS = 256,
    // Up to so many rows our own product computes a forward pass. Reading the weight is then all
    // that matters, and it costs x a quarter of the weight's bytes at most, from the L2 cache.
    // `memo bench kernels` measures both products beside one another: where they cross belongs
    // here.
    OWN_ROWS = 16,
};

static __global__ void product_kernel(struct gemm_call a)
{
    const size_t m = (size_t)blockIdx.y * TILE + threadIdx.y;
    const size_t n = (size_t)blockIdx.x * TILE + threadIdx.x;
    if (m >= a.m || n >= a.n)
        return;
    float sum = a.bias.data ? load(a.bias, n) : 0;
    for (size_t k = 0; k < a.k; k++)
        sum += load(a.a, a.a_transposed ? k * a.m + m : m * a.k + k) *
               load(a.b, a.b_transposed ? n * a.k + k : k * a.n + n);
    store(a.c, m * a.n + n, sum + (a.addend.data ? load(a.addend, m * a.n + n) : 0));
}

int gemm_forward(struct device *device, const struct gemm_call *call)
{
    const enum products products = cuda_of(device)->products;
    const bool own =
        products == PRODUCTS_INVARIANT || (products == PRODUCTS_FASTEST && call->m <= OWN_ROWS);
    if (own && gemm_tiles_run(device, call) == 0)
        return 0;
    if (products != PRODUCTS_INVARIANT && gemm_run(device, call) == 0)
        return 0;
    return own ? -1 : gemm_tiles_run(device, call);
}

static void multiply(struct device *device, const struct gemm_call *call,
                     int (*run)(struct device *, const struct gemm_call *), const char *operation)
{
    if (call->m == 0 || call->n == 0)
        return;
    if (call->k == 0 || run(device, call) != 0)
        CUDA_LAUNCH(product_kernel, dim3(blocks_of(call->n, TILE), blocks_of(call->m, TILE)),
                    dim3(TILE, TILE), 0, cuda_of(device)->stream, *call);
    cuda_launched(device, operation);
}

void cuda_linear_forward(struct device *device, const struct linear_forward *a)
{
    const struct gemm_call call = {.c = a->out,
                                   .a = a->x,
                                   .b = a->linear->weight,
                                   .bias = a->linear->bias,
                                   .addend = a->accumulate ? a->out : a->residual,
                                   .m = a->rows,
                                   .n = a->linear->out_width,
                                   .k = a->linear->in_width,
                                   .a_transposed = false,
                                   .b_transposed = true,
                                   .a_scales = NULL,
                                   .b_scales = NULL};
    multiply(device, &call, gemm_forward, "linear_forward");
}

void cuda_linear_backward_input(struct device *device, const struct linear_backward_input *a)
{
    const struct tensor nothing = {NULL, a->grad_x.dtype};
    const struct gemm_call call = {.c = a->grad_x,
                                   .a = a->grad_out,
                                   .b = a->linear->weight,
                                   .bias = {NULL, DTYPE_F32},
                                   .addend = a->accumulate ? a->grad_x : nothing,
                                   .m = a->rows,
                                   .n = a->linear->in_width,
                                   .k = a->linear->out_width,
                                   .a_transposed = false,
                                   .b_transposed = false,
                                   .a_scales = NULL,
                                   .b_scales = NULL};
    multiply(device, &call, gemm_run, "linear_backward_input");
}

// scratch[part, n] = sum over the part's rows of grad_out, one thread a column.
static __global__ void column_sums_kernel(struct tensor grad_out, float *scratch, size_t rows,
                                          size_t width)
{
    const size_t n = (size_t)blockIdx.x * THREADS + threadIdx.x, part = blockIdx.y;
    const size_t per_part = (rows + gridDim.y - 1) / gridDim.y;
    const size_t end = (part + 1) * per_part < rows ? (part + 1) * per_part : rows;
    if (n >= width)
        return;
    float sum = 0;
    for (size_t row = part * per_part; row < end; row++)
        sum += load(grad_out, row * width + n);
    scratch[part * width + n] = sum;
}

static void add_column_sums(struct device *device, const struct linear_backward_weight *a)
{
    if (a->rows == 0 || a->out_width == 0)
        return;
    const unsigned parts = reduction_parts(a->rows, a->out_width);
    CUDA_LAUNCH(column_sums_kernel, dim3(blocks_of(a->out_width, THREADS), parts), THREADS, 0,
                cuda_of(device)->stream, a->grad_out, (float *)cuda_of(device)->scratch, a->rows,
                a->out_width);
    reduce_parts(device, a->grad_bias, parts, a->out_width);
}

void cuda_linear_backward_weight(struct device *device, const struct linear_backward_weight *a)
{
    const struct gemm_call call = {.c = a->grad_weight,
                                   .a = a->grad_out,
                                   .b = a->x,
                                   .bias = {NULL, DTYPE_F32},
                                   .addend = a->grad_weight,
                                   .m = a->out_width,
                                   .n = a->in_width,
                                   .k = a->rows,
                                   .a_transposed = true,
                                   .b_transposed = false,
                                   .a_scales = NULL,
                                   .b_scales = NULL};
    if (a->grad_bias.data)
        add_column_sums(device, a);
    if (a->rows > 0)
        multiply(device, &call, gemm_run, "linear_backward_weight");
}

// Both products read the weights as Hugging Face stores them.
void cuda_linear_pack(struct device *device, struct linear *linear)
{
    (void)device;
    linear->packed = NULL;
}

void cuda_linear_unpack(struct device *device, struct linear *linear)
{
    (void)device;
    linear->packed = NULL;
}
