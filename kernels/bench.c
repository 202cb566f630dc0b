// SPDX-License-Identifier: Apache-2.0
#include "kernels/bench.h"

#include "base/clock.h"
#include "kernels/backend.h"
#include "kernels/cpu/cpu.h"

#include <stdint.h>

enum {
    RUNS = 7,
    CALLS_LIMIT = 1000,               // between two waits
    READ_BYTES_PER_THREAD = 64 << 20, // beyond a thread's share of any last-level cache
    COPY_BYTES = 256 << 20,           // beyond the cache of any GPU
    PRODUCT_WIDTH = 8192,             // of square matrices that fill a GPU
    PRODUCT_WIDTH_ON_HOST = 128,
};

static const double run_seconds = 0.02;

// The first run waits after every call and learns how many a run has; later ones wait once.
int bench_best_rate(struct device *device, struct bench_work work, double *out, struct error *err)
{
    size_t calls = 1;
    *out = 0;
    for (int run = 0; run < RUNS; run++) {
        double begin = clock_seconds(), seconds = 0, amount = 0;
        size_t done = 0;
        while (seconds < run_seconds) {
            for (size_t i = 0; i < calls; i++)
                amount += work.call(work.context);
            if (device_sync(device, err))
                return -1;
            done += calls;
            seconds = clock_seconds() - begin;
        }
        if (run == 0)
            calls = done < CALLS_LIMIT ? done : CALLS_LIMIT;
        if (amount / seconds > *out)
            *out = amount / seconds;
    }
    return 0;
}

struct probe {
    struct device *device;
    const float *block;
    size_t count;
};

static double probe_fma(void *context)
{
    const struct probe *probe = context;
    return device_cpu(probe->device)->probes->fma(probe->device);
}

static double probe_dot(void *context)
{
    const struct probe *probe = context;
    return device_cpu(probe->device)->probes->dot(probe->device);
}

static double probe_read(void *context)
{
    const struct probe *probe = context;
    return device_cpu(probe->device)->probes->read(probe->device, probe->block, probe->count);
}

static int limits_of_cpu(struct device *device, struct bench_limits *out, struct error *err)
{
    size_t bytes = (size_t)device->threads * READ_BYTES_PER_THREAD;
    void *block;
    if (device_alloc(device, bytes, &block, err) != 0)
        return -1;
    struct probe probe = {.device = device, .block = block, .count = bytes / sizeof(float)};
    out->dot_flops = 0;
    const int rc =
        bench_best_rate(device, (struct bench_work){probe_fma, &probe}, &out->flops, err) ||
        (device_cpu(device)->probes->dot &&
         bench_best_rate(device, (struct bench_work){probe_dot, &probe}, &out->dot_flops, err)) ||
        bench_best_rate(device, (struct bench_work){probe_read, &probe}, &out->read_bytes, err);
    device_free(device, block);
    return rc ? -1 : 0;
}

static double copy_half(void *context)
{
    const struct probe *probe = context;
    const size_t bytes = probe->count / 2 * sizeof(float);
    device_copy(probe->device, (void *)(uintptr_t)probe->block, probe->block + probe->count / 2,
                bytes);
    return 2.0 * (double)bytes;
}

static int copy_rate(struct device *device, double *out, struct error *err)
{
    void *block;
    if (device_alloc(device, COPY_BYTES, &block, err))
        return -1;
    struct probe probe = {device, block, COPY_BYTES / sizeof(float)};
    const int rc = bench_best_rate(device, (struct bench_work){copy_half, &probe}, out, err);
    device_free(device, block);
    return rc;
}

struct layer {
    struct device *device;
    const struct bench_linear *shape;
    struct linear linear;
    void *x, *out, *weight; // device blocks
};

// As a model of such weights has them.
static enum dtype activations_of(const struct device *device, enum dtype weight)
{
    return device->ops->half_activations ? weight : DTYPE_F32;
}

static double layer_call(void *context)
{
    const struct layer *l = context;
    const struct bench_linear *s = l->shape;
    const enum dtype dtype = activations_of(l->device, s->weight);
    struct tensor x = {.data = l->x, .dtype = dtype}, out = {.data = l->out, .dtype = dtype};
    switch (s->pass) {
    case BENCH_FORWARD:
    case BENCH_FORWARD_PACKED:
        l->device->ops->linear_forward(
            l->device,
            &(struct linear_forward){.out = out, .x = x, .linear = &l->linear, .rows = s->rows});
        break;
    case BENCH_BACKWARD_INPUT:
        l->device->ops->linear_backward_input(
            l->device, &(struct linear_backward_input){
                           .grad_x = x, .grad_out = out, .linear = &l->linear, .rows = s->rows});
        break;
    case BENCH_BACKWARD_WEIGHT:
        l->device->ops->linear_backward_weight(
            l->device, &(struct linear_backward_weight){.grad_weight = l->linear.weight,
                                                        .grad_out = out,
                                                        .x = x,
                                                        .product = s->weight,
                                                        .rows = s->rows,
                                                        .out_width = s->out_width,
                                                        .in_width = s->in_width});
        break;
    }
    return 2.0 * (double)s->rows * (double)s->out_width * (double)s->in_width;
}

int bench_linear(struct device *device, const struct bench_linear *shape, double *out,
                 struct error *err)
{
    struct layer layer = {.device = device, .shape = shape};
    enum dtype weight = shape->pass == BENCH_BACKWARD_WEIGHT ? DTYPE_F32 : shape->weight;
    size_t weight_bytes = shape->out_width * shape->in_width * dtype_bytes(weight);
    int rc = -1;
    if (device_alloc(device, shape->rows * shape->in_width * sizeof(float), &layer.x, err) != 0 ||
        device_alloc(device, shape->rows * shape->out_width * sizeof(float), &layer.out, err) !=
            0 ||
        device_alloc(device, weight_bytes, &layer.weight, err) != 0)
        goto release;
    layer.linear = (struct linear){.weight = {.data = layer.weight, .dtype = weight},
                                   .out_width = shape->out_width,
                                   .in_width = shape->in_width};
    if (shape->pass == BENCH_FORWARD_PACKED)
        device->ops->linear_pack(device, &layer.linear);
    rc = bench_best_rate(device, (struct bench_work){layer_call, &layer}, out, err);
    device->ops->linear_unpack(device, &layer.linear);
release:
    device_free(device, layer.x);
    device_free(device, layer.out);
    device_free(device, layer.weight);
    return rc;
}

static int limits_by_operations(struct device *device, struct bench_limits *out, struct error *err)
{
    const size_t width = device->ops->half_activations ? PRODUCT_WIDTH : PRODUCT_WIDTH_ON_HOST;
    struct bench_linear square = {BENCH_FORWARD, DTYPE_F32, width, width, width};
    if (bench_linear(device, &square, &out->flops, err))
        return -1;
    square.weight = DTYPE_BF16;
    return bench_linear(device, &square, &out->dot_flops, err) ||
                   copy_rate(device, &out->read_bytes, err)
               ? -1
               : 0;
}

int bench_limits(struct device *device, struct bench_limits *out, struct error *err)
{
    return device->backend == &backend_cpu ? limits_of_cpu(device, out, err)
                                           : limits_by_operations(device, out, err);
}
