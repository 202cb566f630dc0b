// SPDX-License-Identifier: Apache-2.0
#include "harness.h"

#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern const struct kernels kernels_cpu_lanes16;

struct variant {
    const char *isa;
    const struct kernels *ops; // instead of those of isa
};

static const struct variant variants[] = {
    {.isa = "plain"},
    {.isa = "avx2"},
    {.isa = "avx512"},
    {.isa = "avx512bf16"},
#if defined(__x86_64__)
    {.isa = "avx2", .ops = &kernels_cpu_lanes16},
#endif
};

int devices_create(void **state)
{
    struct devices *devices = mem_calloc(1, sizeof *devices);
    *state = devices;
    devices->ref = device_named("ref", NULL, 0);
    for (size_t i = 0; i < sizeof variants / sizeof variants[0]; i++)
        for (int threads = 1; threads <= 3; threads += 2) {
            struct device_options options = {
                .backend = "cpu", .isa = variants[i].isa, .threads = threads};
            struct device *device;
            struct error err;
            if (device_create(&options, &device, &err) == 0) {
                assert_true(devices->count < DEVICES_LIMIT);
                if (variants[i].ops)
                    device->ops = variants[i].ops;
                devices->cpu[devices->count++] = device;
            } else if (threads == 1) {
                printf("not tested: %s\n", err.text);
            }
        }
    return 0;
}

void *devices_memory(size_t bytes)
{
    void *block; // of just so many bytes: who goes beyond them is seen
    assert_int_equal(posix_memalign(&block, 64, bytes), 0);
    return block;
}

void devices_free(void *block)
{
    free(block);
}

bool keeps_product_bits(const struct device *device)
{
    (void)device;
    return true;
}

bool multiplies_bf16(const struct device *device)
{
    char text[64];
    device_describe(device, text, sizeof text);
#if defined(__x86_64__)
    if (device->ops == &kernels_cpu_lanes16)
        return true;
#endif
    return strstr(text, "bf16") != NULL;
}

int devices_destroy(void **state)
{
    struct devices *devices = *state;
    device_destroy(devices->ref);
    for (size_t i = 0; i < devices->count; i++)
        device_destroy(devices->cpu[i]);
    free(devices);
    return 0;
}
