// SPDX-License-Identifier: Apache-2.0
#include "kernels/bench.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/random.h"
#include "kernels/backend.h"
#include "kernels/cpu/cpu.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

enum {
    RUNS = 7,
    CALLS_LIMIT = 1000,               // between two waits
    READ_BYTES_PER_THREAD = 64 << 20, // beyond a thread's share of any last-level cache
    COPY_BYTES = 256 << 20,           // beyond the cache of any GPU
    COPY_BYTES_LIMIT = 1 << 30,
    PRODUCT_WIDTH = 64, // of square matrices, at least
    PRODUCT_WIDTH_LIMIT = 8192,
    TRIES = 3,
    NOISE_ELEMENTS = 1 << 16,
};

// A GPU gets to its clock within the first of its runs.
static const double run_seconds = 0.02, run_seconds_of_gpu = 0.1;
// A call that takes this long hides that it had to be launched.
static const double long_call_seconds = 0.25e-3;

// The first run waits after every call and learns how many a run has; later ones wait once, so that
// the wait (some 10 us) and the host's clock are below a thousandth of what is timed.
int bench_best_rate(struct device *device, struct bench_work work, double *out, struct error *err)
{
    size_t calls = 1;
    *out = 0;
    for (int run = 0; run < RUNS; run++) {
        double begin = clock_seconds(), seconds = 0, amount = 0;
        size_t done = 0;
        while (seconds < (device_stream(device) ? run_seconds_of_gpu : run_seconds)) {
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

// The shortest of a few calls; the first makes ready what later ones find.
static int shortest_call(struct device *device, struct bench_work work, double *out,
                         struct error *err)
{
    *out = INFINITY;
    for (int i = 0; i <= TRIES; i++) {
        const double begin = clock_seconds();
        (void)work.call(work.context);
        if (device_sync(device, err))
            return -1;
        if (i > 0)
            *out = fmin(*out, clock_seconds() - begin);
    }
    return 0;
}

void bench_fill_noise(struct device *device, struct tensor out, size_t count, double deviation)
{
    const size_t element = dtype_bytes(out.dtype);
    size_t filled = count < NOISE_ELEMENTS ? count : NOISE_ELEMENTS;
    float *noise = mem_alloc(NOISE_ELEMENTS * sizeof *noise);
    uint32_t *converted = mem_alloc(NOISE_ELEMENTS * sizeof *converted);
    for (size_t i = 0; i < filled; i++)
        noise[i] = (float)(deviation * random_normal(1, 0, i));
    convert_from_f32(converted, out.dtype, noise, filled);
    device_copy_in(device, out.data, converted, filled * element);
    while (filled < count) { // by copies on the device
        const size_t some = count - filled < filled ? count - filled : filled;
        device_copy(device, (char *)out.data + filled * element, out.data, some * element);
        filled += some;
    }
    free(noise);
    free(converted);
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

static int copy_rate_of(struct device *device, size_t bytes, double *rate, double *seconds,
                        struct error *err)
{
    void *block;
    if (device_alloc(device, bytes, &block, err))
        return -1;
    struct probe probe = {device, block, bytes / sizeof(float)};
    const struct bench_work work = {copy_half, &probe};
    const int rc = shortest_call(device, work, seconds, err) ||
                           (*seconds >= long_call_seconds || bytes == COPY_BYTES_LIMIT
                                ? bench_best_rate(device, work, rate, err)
                                : 0)
                       ? -1
                       : 0;
    device_free(device, block);
    return rc;
}

static int copy_rate(struct device *device, double *out, struct error *err)
{
    double seconds = 0;
    *out = 0;
    for (size_t bytes = COPY_BYTES; *out == 0; bytes *= 2)
        if (copy_rate_of(device, bytes, out, &seconds, err))
            return -1;
    return 0;
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

// Noise: multiplying zeros takes less power, so that a GPU does it at a higher clock.
static void fill_layer(struct layer *l, enum dtype weight)
{
    const struct bench_linear *s = l->shape;
    const enum dtype dtype = activations_of(l->device, s->weight);
    bench_fill_noise(l->device, (struct tensor){l->x, dtype}, s->rows * s->in_width, 1);
    bench_fill_noise(l->device, (struct tensor){l->out, dtype}, s->rows * s->out_width, 1);
    bench_fill_noise(l->device, (struct tensor){l->weight, weight}, s->out_width * s->in_width,
                     0.02);
}

// What measures a layer: the time of one call, or the best rate of many.
typedef int layer_measurement(struct device *device, struct bench_work work, double *out,
                              struct error *err);

static int with_layer(struct device *device, const struct bench_linear *shape,
                      layer_measurement *measure, double *out, struct error *err)
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
    fill_layer(&layer, weight);
    if (shape->pass == BENCH_FORWARD_PACKED)
        device->ops->linear_pack(device, &layer.linear);
    rc = measure(device, (struct bench_work){layer_call, &layer}, out, err);
    device->ops->linear_unpack(device, &layer.linear);
release:
    device_free(device, layer.x);
    device_free(device, layer.out);
    device_free(device, layer.weight);
    return rc;
}

int bench_linear(struct device *device, const struct bench_linear *shape, double *out,
                 struct error *err)
{
    return with_layer(device, shape, bench_best_rate, out, err);
}

// Of square matrices that take long enough, or are as large as it needs to fill a GPU.
static int product_rate(struct device *device, enum dtype dtype, double *out, struct error *err)
{
    struct bench_linear square = {BENCH_FORWARD, dtype, PRODUCT_WIDTH, PRODUCT_WIDTH,
                                  PRODUCT_WIDTH};
    double seconds = 0;
    while (square.rows < PRODUCT_WIDTH_LIMIT) {
        if (with_layer(device, &square, shortest_call, &seconds, err))
            return -1;
        if (seconds >= 4 * long_call_seconds)
            break;
        square.rows = square.out_width = square.in_width = 2 * square.rows;
    }
    return bench_linear(device, &square, out, err);
}

static int limits_by_operations(struct device *device, struct bench_limits *out, struct error *err)
{
    return product_rate(device, DTYPE_F32, &out->flops, err) ||
                   product_rate(device, DTYPE_BF16, &out->dot_flops, err) ||
                   copy_rate(device, &out->read_bytes, err)
               ? -1
               : 0;
}

int bench_limits(struct device *device, struct bench_limits *out, struct error *err)
{
    return device->backend == &backend_cpu ? limits_of_cpu(device, out, err)
                                           : limits_by_operations(device, out, err);
}
