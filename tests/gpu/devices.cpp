// SPDX-License-Identifier: Apache-2.0
// The devices that tests/kernels compares with ref: here the GPU, twice, because some cases compare
// two devices with one another. Also compiled with the emulator in place of the runtime. Memory of
// the tests is managed, so that host and GPU both reach it; every operation is waited for, because
// the tests look at results at once.
#include <cuda_runtime.h>

extern "C" {
#include "tests/kernels/harness.h"

#include "base/mem.h"
#include "kernels/backend.h"
}

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern "C" const struct backend backend_cuda;

enum { SKIPPED = 77 };

static const struct kernels *real; // of the cuda backend
static struct kernels waiting;     // the same, each followed by a wait

static void wait_for(struct device *device)
{
    struct error err;
    if (device_sync(device, &err))
        fail_msg("%s", err.text);
}

#define WAITING(operation)                                                                         \
    [](struct device *device, const struct operation *a) {                                         \
        real->operation(device, a);                                                                \
        wait_for(device);                                                                          \
    }

static void fill_table(void)
{
    waiting = *real;
    waiting.embedding_forward = WAITING(embedding_forward);
    waiting.embedding_backward = WAITING(embedding_backward);
    waiting.rmsnorm_forward = WAITING(rmsnorm_forward);
    waiting.rmsnorm_backward = WAITING(rmsnorm_backward);
    waiting.linear_forward = WAITING(linear_forward);
    waiting.linear_backward_input = WAITING(linear_backward_input);
    waiting.linear_backward_weight = WAITING(linear_backward_weight);
    waiting.quantize_rows = WAITING(quantize_rows);
    waiting.linear_fp8 = WAITING(linear_fp8);
    waiting.rope = WAITING(rope);
    waiting.attention_forward = WAITING(attention_forward);
    waiting.attention_backward = WAITING(attention_backward);
    waiting.kv_write = WAITING(kv_write);
    waiting.rope_kv_write = WAITING(rope_kv_write);
    waiting.sample = WAITING(sample);
    waiting.attention_cached = WAITING(attention_cached);
    waiting.gated_forward = WAITING(gated_forward);
    waiting.gated_backward = WAITING(gated_backward);
    waiting.short_conv_forward = WAITING(short_conv_forward);
    waiting.short_conv_backward = WAITING(short_conv_backward);
    waiting.short_conv_cached = WAITING(short_conv_cached);
    waiting.cross_entropy = WAITING(cross_entropy);
    waiting.rows_gather = WAITING(rows_gather);
    waiting.rows_scatter_add = WAITING(rows_scatter_add);
    waiting.dropout = WAITING(dropout);
    waiting.accumulate = WAITING(accumulate);
    waiting.adamw = WAITING(adamw);
    waiting.adamw_compact = WAITING(adamw_compact);
    waiting.fixed_accumulate = WAITING(fixed_accumulate);
    waiting.fixed_add = WAITING(fixed_add);
    waiting.fixed_value = WAITING(fixed_value);
    waiting.argmax = [](struct device *device, int32_t *out, struct tensor logits, size_t rows,
                        size_t width) {
        real->argmax(device, out, logits, rows, width);
        wait_for(device);
    };
    waiting.sum_squares = [](struct device *device, double *out, struct tensor x, size_t count) {
        real->sum_squares(device, out, x, count);
        wait_for(device);
    };
}

static struct device *gpu_create(void)
{
    struct device *device = (struct device *)mem_calloc(1, sizeof *device);
    const struct device_options options = {};
    struct error err;
    device->backend = &backend_cuda;
    if (backend_cuda.create(device, &options, &err)) {
        printf("skipped: %s\n", err.text);
        exit(SKIPPED);
    }
    real = device->ops;
    fill_table();
    device->ops = &waiting;
    return device;
}

extern "C" int devices_create(void **state)
{
    struct devices *devices = (struct devices *)mem_calloc(1, sizeof *devices);
    *state = devices;
    devices->ref = device_named("ref", NULL, 0);
    devices->cpu[0] = gpu_create();
    devices->cpu[1] = gpu_create();
    devices->count = 2;
    return 0;
}

extern "C" int devices_destroy(void **state)
{
    struct devices *devices = (struct devices *)*state;
    struct error err;
    device_destroy(devices->ref);
    for (size_t i = 0; i < devices->count; i++) {
        if (device_sync(devices->cpu[i], &err))
            fail_msg("%s", err.text);
        device_destroy(devices->cpu[i]);
    }
    free(devices);
    return 0;
}

extern "C" void *devices_memory(size_t bytes)
{
    void *block = NULL;
    if (cudaMallocManaged(&block, bytes) != cudaSuccess)
        fail_msg("cannot allocate %zu bytes of managed memory", bytes);
    return block;
}

extern "C" void devices_free(void *block)
{
    (void)cudaFree(block);
}

// Products of float32 and bfloat16 are those of float32 here; the tensor cores' have tests of their
// own.
extern "C" bool multiplies_bf16(const struct device *device)
{
    (void)device;
    return false;
}

// cuBLASLt chooses another algorithm for another number of rows, and for another type.
extern "C" bool keeps_product_bits(const struct device *device)
{
    char text[128];
    device_describe(device, text, sizeof text);
    return strstr(text, "cuda") == NULL || strstr(text, "emulator") != NULL;
}
