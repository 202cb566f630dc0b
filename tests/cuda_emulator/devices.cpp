// SPDX-License-Identifier: Apache-2.0
// The devices that tests/kernels compares with ref: here the emulated GPU, twice, because some
// cases compare two devices with one another.
#include <cuda_runtime.h>

extern "C" {
#include "tests/kernels/harness.h"

#include "base/mem.h"
#include "kernels/backend.h"
}

extern "C" const struct backend backend_cuda;

static struct device *emulated_device(void)
{
    struct device *device = (struct device *)mem_calloc(1, sizeof *device);
    const struct device_options options = {};
    struct error err;
    device->backend = &backend_cuda;
    if (backend_cuda.create(device, &options, &err))
        fail_msg("%s", err.text);
    return device;
}

static void set_order(void)
{
    const char *order = getenv("MEMO_EMULATOR_ORDER");
    if (order && strcmp(order, "descending") == 0)
        emulator_set_order(EMULATOR_DESCENDING, 0);
    else if (order && strcmp(order, "random") == 0)
        emulator_set_order(EMULATOR_RANDOM, 20260101);
    else
        emulator_set_order(EMULATOR_ASCENDING, 0);
}

extern "C" int devices_create(void **state)
{
    struct devices *devices = (struct devices *)mem_calloc(1, sizeof *devices);
    *state = devices;
    set_order();
    devices->ref = device_named("ref", NULL, 0);
    devices->cpu[0] = emulated_device();
    devices->cpu[1] = emulated_device();
    devices->count = 2;
    return 0;
}

// Products of float32 and bfloat16 are those of float32 here; the tensor cores' have tests of their
// own.
extern "C" bool multiplies_bf16(const struct device *device)
{
    (void)device;
    return false;
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
