// SPDX-License-Identifier: Apache-2.0
#include "kernels/device.h"

#include "kernels/backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Fastest first: the order in which device_create tries when no backend is named. cuda comes last,
// and is so taken by name only, until its kernels have run on a GPU.
static const struct backend *const backends[] = {
    &backend_cpu,
    &backend_ref,
#ifdef MEMO_CUDA
    &backend_cuda,
#endif
};

enum {
    BACKENDS = sizeof backends / sizeof backends[0],
    THREADS_LIMIT = 4096, // above the processors of any machine: a slip of the pen
};

static int backend_start(const struct backend *backend, const struct device_options *options,
                         struct device **out, struct error *err)
{
    struct device *device = calloc(1, sizeof *device);
    if (!device)
        return error_set(err, "cannot allocate a device: out of memory");
    device->backend = backend;
    if (backend->create(device, options, err) != 0) {
        free(device);
        return error_prefix(err, "cannot start backend '%s'", backend->name);
    }
    *out = device;
    return 0;
}

int device_create(const struct device_options *options, struct device **out, struct error *err)
{
    *out = NULL;
    if (options->threads < 0 || options->threads > THREADS_LIMIT)
        return error_set(err, "wrong number of threads %d: give 0 (all) to %d", options->threads,
                         THREADS_LIMIT);
    // A named instruction set belongs to the cpu: nothing else would honour it.
    const char *name = options->backend ? options->backend : options->isa ? "cpu" : NULL;
    for (size_t i = 0; i < BACKENDS; i++) {
        if (name && strcmp(name, backends[i]->name) != 0)
            continue;
        if (backend_start(backends[i], options, out, err) == 0)
            return 0;
        if (name)
            return -1;
    }
    if (!name)
        return error_prefix(err, "no backend works here");
    char names[64] = "";
    for (size_t i = 0; i < BACKENDS; i++)
        snprintf(names + strlen(names), sizeof names - strlen(names), "%s'%s'", i ? ", " : "",
                 backends[i]->name);
    return error_set(err, "unknown backend '%s': this build has %s", options->backend, names);
}

int device_create_beside(const struct device *device, void *stream, struct device **out,
                         struct error *err)
{
    *out = NULL;
    struct device *beside = calloc(1, sizeof *beside);
    if (!beside)
        return error_set(err, "cannot allocate a device: out of memory");
    beside->backend = device->backend;
    if (device->backend->create_beside(device, stream, beside, err) != 0) {
        free(beside);
        return -1;
    }
    *out = beside;
    return 0;
}

void device_destroy(struct device *device)
{
    if (!device)
        return;
    device->backend->destroy(device);
    free(device);
}

void device_describe(const struct device *device, char *out, size_t out_bytes)
{
    device->backend->describe(device, out, out_bytes);
}

void device_libraries(const struct device *device, char *out, size_t out_bytes)
{
    out[0] = '\0';
    if (device->backend->libraries)
        device->backend->libraries(device, out, out_bytes);
}

bool device_choose_products(struct device *device, enum products products)
{
    if (!device->backend->choose_products)
        return false;
    device->backend->choose_products(device, products);
    return true;
}

int device_record_products(struct device *device, const char *path, struct error *err)
{
    return device->backend->record_products ? device->backend->record_products(device, path, err)
                                            : 0;
}

void *device_stream(const struct device *device)
{
    return device->backend->stream ? device->backend->stream(device) : NULL;
}

int device_alloc(struct device *device, size_t bytes, void **out, struct error *err)
{
    return device->backend->memory->alloc(device, bytes, out, err);
}

void device_free(struct device *device, void *block)
{
    if (block)
        device->backend->memory->free(device, block);
}

void device_zero(struct device *device, void *block, size_t bytes)
{
    device->backend->memory->zero(device, block, bytes);
}

void device_discard(struct device *device, void *block, size_t bytes)
{
    const struct memory *memory = device->backend->memory;
    (memory->discard ? memory->discard : memory->zero)(device, block, bytes);
}

bool device_gives_back(const struct device *device)
{
    return device->backend->memory->discard != NULL;
}

void device_copy(struct device *device, void *out, const void *in, size_t bytes)
{
    device->backend->memory->copy(device, out, in, bytes);
}

void device_copy_in(struct device *device, void *out, const void *host, size_t bytes)
{
    device->backend->memory->copy_in(device, out, host, bytes);
}

int device_copy_out(struct device *device, void *host, const void *in, size_t bytes,
                    struct error *err)
{
    return device->backend->memory->copy_out(device, host, in, bytes, err);
}

int device_sync(struct device *device, struct error *err)
{
    return device->backend->memory->sync(device, err);
}

struct device_memory device_memory_usage(struct device *device)
{
    const struct memory *memory = device->backend->memory;
    return memory->usage ? memory->usage(device) : (struct device_memory){0};
}

bool device_captures(const struct device *device)
{
    return device->backend->memory->capture != NULL;
}

int device_capture(struct device *device, void (*enqueue)(void *context), void *context, void **out,
                   struct error *err)
{
    return device->backend->memory->capture(device, enqueue, context, out, err);
}

void device_replay(struct device *device, void *captured)
{
    device->backend->memory->replay(device, captured);
}

void device_forget(struct device *device, void *captured)
{
    if (captured)
        device->backend->memory->forget(device, captured);
}
