// SPDX-License-Identifier: Apache-2.0
// A device: where tensors live and which table of operations computes on them. Operations enqueue;
// only device_sync and device_copy_out wait. What failed inside an operation (a CUDA fault) is
// reported by the next of these two.
#ifndef MEMO_KERNELS_DEVICE_H
#define MEMO_KERNELS_DEVICE_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Of inline functions that CUDA kernels call too.
#ifdef __CUDACC__
#define HOST_DEVICE __host__ __device__
#else
#define HOST_DEVICE
#endif

enum dtype { DTYPE_F32, DTYPE_BF16, DTYPE_F16 };

size_t dtype_bytes(enum dtype dtype);
const char *dtype_name(enum dtype dtype); // "f32", "bf16", "f16"

// Conversions on the host. Rounding is to nearest, ties to even; NaN stays NaN. What
// convert_to_f32 reads need not be aligned.
float bf16_to_f32(uint16_t bits);
uint16_t bf16_from_f32(float value);
float f16_to_f32(uint16_t bits);
uint16_t f16_from_f32(float value);
void convert_to_f32(float *out, const void *in, enum dtype dtype, size_t count);
void convert_from_f32(void *out, enum dtype dtype, const float *in, size_t count);

// A view: the shape is an argument of the operation, rows are contiguous unless a stride is given.
struct tensor {
    void *data;
    enum dtype dtype;
};

struct kernels;
struct backend;

struct device {
    const struct kernels *ops;
    const struct backend *backend; // memory and life cycle, see backend.h
    int threads;
    void *state; // the backend's own
};

#define BACKEND_CHOICES "ref|cpu|cuda"

// Who multiplies the matrices of dense layers' forward passes, where a backend has a choice (cuda).
enum products {
    PRODUCTS_FASTEST,   // the bits of a row may depend on how many rows there are
    PRODUCTS_INVARIANT, // they do not: a row is the same bits in every batch
    PRODUCTS_LIBRARY,   // the vendor's library wherever it can, for comparisons
};

struct device_options {
    const char *backend; // "ref", "cpu", "cuda"; NULL: the fastest that works here
    // cpu only: "plain", "avx2", "avx512", "avx512bf16"; NULL: the best this processor has
    const char *isa;
    int threads; // cpu only; 0: as many as this process may run on
    enum products products;
};

int device_create(const struct device_options *options, struct device **out, struct error *err);
void device_destroy(struct device *device);
// "cpu avx512, 2 threads"
void device_describe(const struct device *device, char *out, size_t out_bytes);
// Versions of what other people's code it computes with, on which bits may depend: "CUDA driver
// 13.0, runtime 13.0, cuBLASLt 130200", and " measured ..." with when its record of products was
// begun; "" when all of it is ours.
void device_libraries(const struct device *device, char *out, size_t out_bytes);

// From the next operation on. False: the backend has one way, which is invariant.
bool device_choose_products(struct device *device, enum products products);

// From now on the fastest of a library's algorithms is measured for every size of product when it
// comes first, kept in the file `path`, which is made where there is none, and used again by
// whoever names that file: equal bits in later runs. Without it the library chooses, which it does
// the same way every time. Does nothing where no library multiplies.
int device_record_products(struct device *device, const char *path, struct error *err);

// Where operations are enqueued: the cuda backend's cudaStream_t, for those that order other work
// of the GPU by it. NULL: operations are done when they return, in memory of the host.
void *device_stream(const struct device *device);

// The same device for one other thread, whose operations (kernels.h says which) and copies, zeroing
// and waits run beside those of `device`, in `stream`: a stream of the same GPU that stays the
// caller's, or NULL where device_stream gives NULL. Both work on the same memory, which `device`
// allocates; `device` outlives it. Nothing orders the two but what their callers do.
int device_create_beside(const struct device *device, void *stream, struct device **out,
                         struct error *err);

// Memory is 64-byte aligned and zeroed.
int device_alloc(struct device *device, size_t bytes, void **out, struct error *err);
void device_free(struct device *device, void *block);
void device_zero(struct device *device, void *block, size_t bytes);
// Like device_zero, for memory that may not be used again soon: where the system takes back pages
// it gets them.
void device_discard(struct device *device, void *block, size_t bytes);
bool device_gives_back(const struct device *device);                              // it does
void device_copy(struct device *device, void *out, const void *in, size_t bytes); // on the device
// The host memory is the caller's again when copy_in returns.
void device_copy_in(struct device *device, void *out, const void *host, size_t bytes);
int device_copy_out(struct device *device, void *host, const void *in, size_t bytes,
                    struct error *err);
int device_sync(struct device *device, struct error *err);

// Bytes of a device with memory of its own, whoever uses them; least_free: since it was created,
// after one of its allocations. All 0: not known.
struct device_memory {
    size_t total, free, least_free;
};
struct device_memory device_memory_usage(struct device *device);

// Work that comes again and again with the same arguments is captured once and then enqueued as one
// (a CUDA graph): what enqueue() tells the device, which may be operations, copies on the device
// and zeroing. Memory that it names must stay where it is. Not every backend can.
bool device_captures(const struct device *device);
int device_capture(struct device *device, void (*enqueue)(void *context), void *context, void **out,
                   struct error *err); // does none of the work
void device_replay(struct device *device, void *captured);
void device_forget(struct device *device, void *captured); // NULL is accepted

#endif
