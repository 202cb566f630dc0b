// SPDX-License-Identifier: Apache-2.0
// What a backend gives besides its operations: a life cycle, memory, and waiting. The public
// functions of device.h forward here.
#ifndef MEMO_KERNELS_BACKEND_H
#define MEMO_KERNELS_BACKEND_H

#include "kernels/device.h"

struct memory {
    int (*alloc)(struct device *, size_t bytes, void **out, struct error *);
    void (*free)(struct device *, void *block);
    void (*zero)(struct device *, void *block, size_t bytes);
    void (*discard)(struct device *, void *block, size_t bytes); // NULL: as zero
    void (*copy)(struct device *, void *out, const void *in, size_t bytes);
    void (*copy_in)(struct device *, void *out, const void *host, size_t bytes);
    int (*copy_out)(struct device *, void *host, const void *in, size_t bytes, struct error *);
    int (*sync)(struct device *, struct error *);
    struct device_memory (*usage)(struct device *); // NULL: it is not known
    // Of device_capture; NULL: there is none.
    int (*capture)(struct device *, void (*enqueue)(void *), void *context, void **out,
                   struct error *);
    void (*replay)(struct device *, void *captured);
    void (*forget)(struct device *, void *captured);
};

struct backend {
    const char *name;
    const struct memory *memory;
    // Fills device->ops, ->threads and ->state. On failure nothing is left to destroy.
    int (*create)(struct device *, const struct device_options *, struct error *);
    void (*destroy)(struct device *);
    // Fills `beside` as create does, see device_create_beside.
    int (*create_beside)(const struct device *, void *stream, struct device *beside,
                         struct error *);
    void (*describe)(const struct device *, char *out, size_t out_bytes);
    void (*libraries)(const struct device *, char *out, size_t out_bytes); // NULL: it uses none
    void *(*stream)(const struct device *); // NULL: work and memory are the host's
    // Of device_record_products; NULL: no library multiplies.
    int (*record_products)(struct device *, const char *path, struct error *);
    void (*choose_products)(struct device *, enum products); // NULL: there is no choice
};

extern const struct memory memory_host; // for backends that compute on the host
extern const struct backend backend_ref;
extern const struct backend backend_cpu;
extern const struct backend backend_cuda; // in builds with CUDA

#endif
