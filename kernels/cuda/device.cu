// SPDX-License-Identifier: Apache-2.0
// The cuda backend: one device, one stream. Operations and copies are enqueued in order; only sync
// and copy_out wait, and report the first thing that went wrong since.
#include "kernels/cuda/cuda.h"

extern "C" {
#include "kernels/backend.h"
}

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// The oldest compute capability, times ten, that this build has code for. bf16 mma and cp.async
// came with 8.0.
#ifndef MEMO_CUDA_OLDEST
#define MEMO_CUDA_OLDEST 80
#endif

extern "C" const struct kernels kernels_cuda;

static int cuda_check(cudaError_t status, const char *what, struct error *err)
{
    if (status == cudaSuccess)
        return 0;
    return error_set(err, "%s failed: %s (%s)", what, cudaGetErrorString(status),
                     cudaGetErrorName(status));
}

void cuda_keep_error(struct device *device, const char *operation, const char *text)
{
    struct cuda_state *state = cuda_of(device);
    if (state->problem[0] == '\0')
        snprintf(state->problem, sizeof state->problem, "%s: %s", operation, text);
}

void cuda_launched(struct device *device, const char *operation)
{
    const cudaError_t status = cudaPeekAtLastError();
    if (status == cudaSuccess)
        return;
    cuda_keep_error(device, operation, cudaGetErrorString(status));
    (void)cudaGetLastError();
}

static int reserve(size_t bytes, void **out, struct error *err)
{
    size_t available = 0, total = 0;
    *out = NULL;
    const cudaError_t status = cudaMalloc(out, bytes ? bytes : 1);
    if (status == cudaErrorMemoryAllocation) {
        (void)cudaGetLastError();
        (void)cudaMemGetInfo(&available, &total);
        return error_set(err,
                         "cannot allocate %zu bytes on the GPU: %zu of %zu are free; use a smaller "
                         "batch or cache, more GPUs, or end what else runs there",
                         bytes, available, total);
    }
    return cuda_check(status, "allocating GPU memory", err);
}

static struct device_memory cuda_usage(struct device *device)
{
    struct cuda_state *state = cuda_of(device);
    struct device_memory memory = {};
    if (cudaMemGetInfo(&memory.free, &memory.total) != cudaSuccess)
        return {};
    if (memory.free < state->least_free)
        state->least_free = memory.free;
    memory.least_free = state->least_free;
    return memory;
}

static int cuda_alloc(struct device *device, size_t bytes, void **out, struct error *err)
{
    if (reserve(bytes, out, err))
        return -1;
    (void)cuda_usage(device); // the least that was free
    cudaStream_t stream = cuda_of(device)->stream;
    return cuda_check(cudaMemsetAsync(*out, 0, bytes, stream), "zeroing GPU memory", err);
}

static void cuda_free(struct device *device, void *block)
{
    (void)device;
    (void)cudaFree(block); // waits for the stream
}

static void keep(struct device *device, cudaError_t status, const char *what)
{
    if (status != cudaSuccess)
        cuda_keep_error(device, what, cudaGetErrorString(status));
}

static void cuda_zero(struct device *device, void *block, size_t bytes)
{
    if (bytes > 0)
        keep(device, cudaMemsetAsync(block, 0, bytes, cuda_of(device)->stream), "zero");
}

static void cuda_copy(struct device *device, void *out, const void *in, size_t bytes)
{
    if (bytes > 0)
        keep(device,
             cudaMemcpyAsync(out, in, bytes, cudaMemcpyDeviceToDevice, cuda_of(device)->stream),
             "copy");
}

// From pageable memory the call returns once the driver has its own copy.
static void cuda_copy_in(struct device *device, void *out, const void *host, size_t bytes)
{
    if (bytes > 0)
        keep(device,
             cudaMemcpyAsync(out, host, bytes, cudaMemcpyHostToDevice, cuda_of(device)->stream),
             "copy to the GPU");
}

static int cuda_sync(struct device *device, struct error *err)
{
    struct cuda_state *state = cuda_of(device);
    const cudaError_t status = cudaStreamSynchronize(state->stream);
    if (status != cudaSuccess)
        cuda_keep_error(device, "some operation", cudaGetErrorString(status));
    if (state->problem[0] == '\0')
        return 0;
    return error_set(err,
                     "the GPU failed in %s, or before it; start again, and if it comes back, with "
                     "CUDA_LAUNCH_BLOCKING=1 to learn where, and look for Xid in the kernel's log "
                     "(dmesg)",
                     state->problem);
}

static int cuda_copy_out(struct device *device, void *host, const void *in, size_t bytes,
                         struct error *err)
{
    if (bytes > 0)
        keep(device,
             cudaMemcpyAsync(host, in, bytes, cudaMemcpyDeviceToHost, cuda_of(device)->stream),
             "copy from the GPU");
    return cuda_sync(device, err);
}

// --- captured work ---

static int end_capture(struct cuda_state *state, cudaGraphExec_t *out, struct error *err)
{
    cudaGraph_t graph = NULL;
    if (cuda_check(cudaStreamEndCapture(state->stream, &graph), "capturing work", err))
        return -1;
    const int rc = cuda_check(cudaGraphInstantiate(out, graph, 0), "making a graph of work", err);
    (void)cudaGraphDestroy(graph);
    return rc;
}

static int cuda_capture(struct device *device, void (*enqueue)(void *), void *context, void **out,
                        struct error *err)
{
    struct cuda_state *state = cuda_of(device);
    cudaGraphExec_t captured = NULL;
    *out = NULL;
    if (cuda_check(cudaStreamBeginCapture(state->stream, cudaStreamCaptureModeThreadLocal),
                   "beginning to capture work", err))
        return -1;
    state->capturing = true;
    enqueue(context);
    state->capturing = false;
    if (end_capture(state, &captured, err))
        return -1;
    if (state->problem[0] != '\0') {
        (void)cudaGraphExecDestroy(captured);
        return error_set(err, "capturing work: %s", state->problem);
    }
    *out = captured;
    return 0;
}

static void cuda_replay(struct device *device, void *captured)
{
    keep(device, cudaGraphLaunch((cudaGraphExec_t)captured, cuda_of(device)->stream),
         "captured work");
}

static void cuda_forget(struct device *device, void *captured)
{
    (void)cudaStreamSynchronize(cuda_of(device)->stream); // it may still be under way
    (void)cudaGraphExecDestroy((cudaGraphExec_t)captured);
}

static const struct memory memory_cuda = {
    .alloc = cuda_alloc,
    .free = cuda_free,
    .zero = cuda_zero,
    .discard = NULL, // memory of the GPU is never given back in between
    .copy = cuda_copy,
    .copy_in = cuda_copy_in,
    .copy_out = cuda_copy_out,
    .sync = cuda_sync,
    .usage = cuda_usage,
    .capture = cuda_capture,
    .replay = cuda_replay,
    .forget = cuda_forget,
};

// Versions are 1000 major + 10 minor.
static int check_driver(struct error *err)
{
    int count = 0, driver = 0, runtime = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    if (status == cudaSuccess && count > 0)
        return 0;
    (void)cudaDriverGetVersion(&driver);
    (void)cudaRuntimeGetVersion(&runtime);
    if (status == cudaErrorInsufficientDriver && driver == 0)
        return error_set(err, "there is no NVIDIA driver on this machine: run where nvidia-smi "
                              "lists a GPU, or use --backend cpu");
    if (status == cudaErrorInsufficientDriver)
        return error_set(err,
                         "the NVIDIA driver supports CUDA up to %d.%d, this build needs %d.%d: "
                         "update the driver, or build with an older CUDA",
                         driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    if (status != cudaSuccess && status != cudaErrorNoDevice)
        return cuda_check(status, "looking for a GPU", err);
    return error_set(err,
                     "no GPU is visible (CUDA_VISIBLE_DEVICES is %s%s%s): check with nvidia-smi, "
                     "ask Slurm for one (--gpus), or use --backend cpu",
                     visible ? "'" : "not set", visible ? visible : "", visible ? "'" : "");
}

static int check_hardware(struct cuda_state *state, struct error *err)
{
    if (check_driver(err) || cuda_check(cudaSetDevice(0), "cudaSetDevice", err) ||
        cuda_check(cudaGetDeviceProperties(&state->properties, 0), "cudaGetDeviceProperties", err))
        return -1;
    const int capability = state->properties.major * 10 + state->properties.minor;
    if (capability < MEMO_CUDA_OLDEST)
        return error_set(err,
                         "'%s' has compute capability %d.%d, this build is for %d.%d and newer: "
                         "build with -DCMAKE_CUDA_ARCHITECTURES=%d (at least 80)",
                         state->properties.name, capability / 10, capability % 10,
                         MEMO_CUDA_OLDEST / 10, MEMO_CUDA_OLDEST % 10, capability);
    return 0;
}

static int upload_codes(struct cuda_state *state, struct error *err)
{
    const struct moment_code codes[2] = {*moment_code_first(), *moment_code_second()};
    return cuda_check(cudaMemcpyAsync(state->codes, codes, sizeof codes, cudaMemcpyHostToDevice,
                                      state->stream),
                      "copying the codes of moments", err) ||
                   cuda_check(cudaStreamSynchronize(state->stream), "copying the codes", err)
               ? -1
               : 0;
}

static void cuda_destroy(struct device *device)
{
    struct cuda_state *state = cuda_of(device);
    gemm_destroy(state->gemm);
    (void)cudaFree(state->scratch);
    (void)cudaFree(state->arrivals);
    (void)cudaFree(state->codes);
    if (state->stream && !state->borrows_stream)
        (void)cudaStreamDestroy(state->stream);
    free(state);
}

static int cuda_create(struct device *device, const struct device_options *options,
                       struct error *err)
{
    if (options->isa)
        return error_set(err, "instruction set '%s' means nothing to it: leave it out or use 'cpu'",
                         options->isa);
    struct cuda_state *state = (struct cuda_state *)calloc(1, sizeof *state);
    if (!state)
        return error_set(err, "cannot allocate a device: out of memory");
    device->state = state;
    state->products = options->products;
    device->ops = &kernels_cuda;
    device->threads = 1;
    state->least_free = SIZE_MAX;
    if (check_hardware(state, err) ||
        cuda_check(cudaStreamCreateWithFlags(&state->stream, cudaStreamNonBlocking),
                   "cudaStreamCreate", err) ||
        reserve(SCRATCH_BYTES, &state->scratch, err) ||
        cuda_alloc(device, ARRIVALS * sizeof *state->arrivals, (void **)&state->arrivals, err) ||
        reserve(2 * sizeof *state->codes, (void **)&state->codes, err) ||
        upload_codes(state, err) || gemm_create(&state->gemm, err)) {
        cuda_destroy(device);
        device->state = NULL;
        return -1;
    }
    return 0;
}

// Without scratch, codes or cuBLASLt: what runs beside needs none of them.
static int cuda_create_beside(const struct device *device, void *stream, struct device *beside,
                              struct error *err)
{
    struct cuda_state *state = (struct cuda_state *)calloc(1, sizeof *state);
    if (!state)
        return error_set(err, "cannot allocate a device: out of memory");
    state->stream = (cudaStream_t)stream;
    state->borrows_stream = true;
    state->properties = ((const struct cuda_state *)device->state)->properties;
    beside->state = state;
    beside->ops = device->ops;
    beside->threads = 1;
    return 0;
}

static void cuda_describe(const struct device *device, char *out, size_t out_bytes)
{
    const struct cuda_state *state = (const struct cuda_state *)device->state;
    snprintf(out, out_bytes, "cuda, %s, %.1f GB", state->properties.name,
             (double)state->properties.totalGlobalMem / 1e9);
}

static void cuda_libraries(const struct device *device, char *out, size_t out_bytes)
{
    int driver = 0, runtime = 0;
    const char *record = gemm_record_id(((const struct cuda_state *)device->state)->gemm);
    (void)cudaDriverGetVersion(&driver);
    (void)cudaRuntimeGetVersion(&runtime);
    snprintf(out, out_bytes, "CUDA driver %d.%d, runtime %d.%d, cuBLASLt %zu%s%s", driver / 1000,
             driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10, gemm_library_version(),
             record[0] ? " measured " : "", record);
}

static void cuda_choose_products(struct device *device, enum products products)
{
    cuda_of(device)->products = products;
}

static int cuda_record_products(struct device *device, const char *path, struct error *err)
{
    struct cuda_state *state = cuda_of(device);
    return gemm_record(state->gemm, path, state->properties.name, err);
}

static void *cuda_stream(const struct device *device)
{
    return ((const struct cuda_state *)device->state)->stream;
}

extern "C" const struct backend backend_cuda = {
    .name = "cuda",
    .memory = &memory_cuda,
    .create = cuda_create,
    .destroy = cuda_destroy,
    .create_beside = cuda_create_beside,
    .describe = cuda_describe,
    .libraries = cuda_libraries,
    .stream = cuda_stream,
    .record_products = cuda_record_products,
    .choose_products = cuda_choose_products,
};
