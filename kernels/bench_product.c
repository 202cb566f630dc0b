// SPDX-License-Identifier: Apache-2.0
#include "kernels/bench.h"

#include "kernels/kernels.h"

enum {
    COLD_BYTES = 256 << 20, // of all copies of a weight: several times any cache of a GPU
    COPIES_LIMIT = 1024,
};

struct product {
    struct device *device;
    const struct bench_product *shape;
    char *weights; // copies, one behind the other
    size_t weight_bytes, copies, turn;
    void *x, *out;
    float *scales; // of rows, then of the weight
};

static double multiply(void *context)
{
    struct product *p = context;
    const struct bench_product *s = p->shape;
    char *weight = p->weights + p->turn++ % p->copies * p->weight_bytes;
    const struct linear linear = {.weight = {weight, DTYPE_BF16},
                                  .out_width = s->out_width,
                                  .in_width = s->in_width,
                                  .codes = (uint8_t *)weight,
                                  .scales = p->scales + s->rows};
    const struct tensor out = {p->out, DTYPE_BF16};
    if (s->codes)
        p->device->ops->linear_fp8(
            p->device,
            &(struct linear_fp8){
                .out = out, .x = p->x, .x_scales = p->scales, .linear = &linear, .rows = s->rows});
    else
        p->device->ops->linear_forward(p->device, &(struct linear_forward){.out = out,
                                                                           .x = {p->x, DTYPE_BF16},
                                                                           .linear = &linear,
                                                                           .rows = s->rows});
    return (double)p->weight_bytes;
}

int bench_product(struct device *device, const struct bench_product *shape, double *out,
                  struct error *err)
{
    struct product p = {.device = device,
                        .shape = shape,
                        .weight_bytes =
                            shape->out_width * shape->in_width * (shape->codes ? 1 : 2)};
    void *weights = NULL, *scales = NULL;
    int rc = -1;
    p.copies = COLD_BYTES / p.weight_bytes + 1;
    if (p.copies > COPIES_LIMIT)
        p.copies = COPIES_LIMIT;
    if (device_alloc(device, p.copies * p.weight_bytes, &weights, err) == 0 &&
        device_alloc(device, shape->rows * shape->in_width * 2, &p.x, err) == 0 &&
        device_alloc(device, shape->rows * shape->out_width * 2, &p.out, err) == 0 &&
        device_alloc(device, (shape->rows + shape->out_width) * sizeof(float), &scales, err) == 0) {
        p.weights = weights;
        p.scales = scales;
        (void)device_choose_products(device, shape->products);
        rc = bench_best_rate(device, (struct bench_work){multiply, &p}, out, err);
        (void)device_choose_products(device, PRODUCTS_FASTEST);
    }
    device_free(device, weights);
    device_free(device, p.x);
    device_free(device, p.out);
    device_free(device, scales);
    return rc;
}
