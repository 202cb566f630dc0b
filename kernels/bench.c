// SPDX-License-Identifier: Apache-2.0
#include "kernels/bench.h"

#include "base/clock.h"
#include "kernels/backend.h"
#include "kernels/cpu/cpu.h"

#include <stdint.h>

enum {
    RUNS = 7,
    READ_BYTES_PER_THREAD = 64 << 20, // beyond a thread's share of any last-level cache
};

static const double run_seconds = 0.02;

struct work {
    double (*call)(void *context); // returns the amount done: operations or bytes
    void *context;
};

// The best rate of RUNS runs, each repeated until it takes run_seconds.
static double best_rate(struct work work)
{
    double best = 0;
    for (int run = 0; run < RUNS; run++) {
        double begin = clock_seconds(), seconds = 0, amount = 0;
        while (seconds < run_seconds) {
            amount += work.call(work.context);
            seconds = clock_seconds() - begin;
        }
        if (amount / seconds > best)
            best = amount / seconds;
    }
    return best;
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

int bench_limits(struct device *device, struct bench_limits *out, struct error *err)
{
    if (device->backend != &backend_cpu)
        return error_set(err, "cannot measure the limits of backend '%s': use 'cpu'",
                         device->backend->name);
    size_t bytes = (size_t)device->threads * READ_BYTES_PER_THREAD;
    void *block;
    if (device_alloc(device, bytes, &block, err) != 0)
        return -1;
    struct probe probe = {.device = device, .block = block, .count = bytes / sizeof(float)};
    out->flops = best_rate((struct work){probe_fma, &probe});
    out->dot_flops =
        device_cpu(device)->probes->dot ? best_rate((struct work){probe_dot, &probe}) : 0;
    out->read_bytes = best_rate((struct work){probe_read, &probe});
    device_free(device, block);
    return 0;
}

struct layer {
    struct device *device;
    const struct bench_linear *shape;
    struct linear linear;
    void *x, *out, *weight; // device blocks
};

static double layer_call(void *context)
{
    const struct layer *l = context;
    const struct bench_linear *s = l->shape;
    struct tensor x = {.data = l->x, .dtype = DTYPE_F32},
                  out = {.data = l->out, .dtype = DTYPE_F32};
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
    *out = best_rate((struct work){layer_call, &layer});
    device->ops->linear_unpack(device, &layer.linear);
    rc = device_sync(device, err);
release:
    device_free(device, layer.x);
    device_free(device, layer.out);
    device_free(device, layer.weight);
    return rc;
}
