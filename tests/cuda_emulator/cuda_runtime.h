// SPDX-License-Identifier: Apache-2.0
// Runs the kernels of kernels/cuda on the CPU, for tests: this directory stands in front of CUDA's
// include path, so that <cuda_runtime.h> is this file. Blocks run one after another; the threads of
// a block are fibers that meet at __syncthreads, at warp shuffles and votes, in an order that the
// test chooses. Shared memory knows who wrote and read each element last, and between which
// barriers: a race is an error whatever the order. Streams are synchronous. What is wrong (a race,
// a barrier that some threads never reach, a read of shared memory that nobody wrote) becomes the
// sticky error of the runtime, with a text that names kernel, block and thread.
//
// The host cannot touch what cudaMalloc gave (it faults), and a kernel's arguments may not point to
// the host's stack, heap or static data, nor to device memory that was freed: checked at every
// launch, and again whenever a graph repeats it.
#ifndef MEMO_TESTS_CUDA_EMULATOR_H
#define MEMO_TESTS_CUDA_EMULATOR_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <functional>
#include <tuple>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_)
    {
    }
};

// Assigned as a whole, as the GPU stores it.
struct alignas(16) uint4 {
    unsigned x, y, z, w;
    uint4 &operator=(const uint4 &other)
    {
        typedef unsigned vector __attribute__((vector_size(16), may_alias));
        *(vector *)this = *(const vector *)&other;
        return *this;
    }
};
struct alignas(8) uint2 {
    unsigned x, y;
    uint2 &operator=(const uint2 &other)
    {
        typedef uint64_t vector __attribute__((may_alias));
        *(vector *)this = *(const vector *)&other;
        return *this;
    }
};

// --- threads ---

enum { EMULATOR_WARP = 32, EMULATOR_THREADS_LIMIT = 1024 };

struct emulated_block;

struct emulated_thread {
    struct emulated_block *block;
    dim3 index;
    unsigned number; // in the block
};

struct emulated_launch {
    const char *kernel;
    dim3 grid, block;
    size_t shared_bytes;
};

extern struct emulated_thread *emulator_current;
extern struct emulated_launch emulator_launched;
extern dim3 emulator_block_index;

#define threadIdx (emulator_current->index)
#define blockIdx emulator_block_index
#define blockDim (emulator_launched.block)
#define gridDim (emulator_launched.grid)

enum emulator_order { EMULATOR_ASCENDING, EMULATOR_DESCENDING, EMULATOR_RANDOM };
void emulator_set_order(enum emulator_order order, uint64_t seed);

typedef struct emulator_stream *cudaStream_t;

typedef void (*emulator_body)(void *arguments);
void emulator_run(const char *kernel, dim3 grid, dim3 block, size_t shared_bytes,
                  emulator_body body, void *arguments);

// Does it now, or keeps it for the graph that the stream is being captured into.
void emulator_enqueue(cudaStream_t stream, std::function<void()> work);

// Fails the launch of `kernel` when one of the words is an address that it must not have.
void emulator_check_words(const char *kernel, const void *argument, size_t bytes);

// What lies between members may be anything, also addresses.
template <typename T> void emulator_check_argument(const char *kernel, T argument)
{
    __builtin_clear_padding(&argument);
    emulator_check_words(kernel, &argument, sizeof argument);
}

template <typename F, typename... A> struct emulator_call {
    F *function;
    std::tuple<A...> arguments;

    static void run(void *call)
    {
        std::apply(((emulator_call *)call)->function, ((emulator_call *)call)->arguments);
    }
};

// Arguments are copied when the launch is enqueued, as CUDA does.
template <typename F, typename... A>
void emulator_launch(const char *kernel, dim3 grid, dim3 block, size_t shared_bytes,
                     cudaStream_t stream, F *function, std::tuple<A...> arguments)
{
    emulator_call<F, A...> call = {function, arguments};
    emulator_enqueue(stream, [=]() mutable {
        std::apply([&](const A &...each) { (emulator_check_argument(kernel, each), ...); },
                   call.arguments);
        emulator_run(kernel, grid, block, shared_bytes, call.run, &call);
    });
}

#define CUDA_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                \
    emulator_launch(#kernel, grid, block, shared_bytes, stream, kernel,                            \
                    std::make_tuple(__VA_ARGS__))

// A block begins: what asynchronous copies an earlier one left pending never comes.
void emulator_forget_copies(void);

// Ends the launch with this text, prefixed with where. Does not return.
[[noreturn]] void emulator_fail(const char *format, ...) __attribute__((format(printf, 1, 2)));

void __syncthreads(void);
void __syncwarp(unsigned mask = 0xffffffffu);

// Every lane of the mask gives 32 bytes at most and sees what the others gave: each writes its slot
// of the warp, meets the others, and reads theirs.
enum { EMULATOR_EXCHANGE_BYTES = 32 };
unsigned char (*emulator_slots(void))[EMULATOR_EXCHANGE_BYTES];
void emulator_meet(unsigned mask, const char *what);
const void *emulator_exchange(unsigned mask, const void *value, size_t bytes, const char *what);
const void *emulator_lane(const void *exchanged, unsigned lane);

template <typename T> T __shfl_sync(unsigned mask, T value, int lane)
{
    static_assert(sizeof(T) <= EMULATOR_EXCHANGE_BYTES, "more than a slot");
    unsigned char(*slots)[EMULATOR_EXCHANGE_BYTES] = emulator_slots();
    T out;
    memcpy(slots[emulator_current->number % EMULATOR_WARP], &value, sizeof value);
    emulator_meet(mask, "__shfl_sync");
    memcpy(&out, slots[(unsigned)lane % EMULATOR_WARP], sizeof out);
    return out;
}

template <typename T> T __shfl_xor_sync(unsigned mask, T value, int lane_mask)
{
    unsigned lane = emulator_current->number % EMULATOR_WARP;
    return __shfl_sync(mask, value, (int)(lane ^ (unsigned)lane_mask));
}

template <typename T> T __shfl_up_sync(unsigned mask, T value, unsigned delta)
{
    unsigned lane = emulator_current->number % EMULATOR_WARP;
    return __shfl_sync(mask, value, (int)(lane >= delta ? lane - delta : lane));
}

template <typename T> T __shfl_down_sync(unsigned mask, T value, unsigned delta)
{
    unsigned lane = emulator_current->number % EMULATOR_WARP;
    return __shfl_sync(mask, value, (int)(lane + delta < EMULATOR_WARP ? lane + delta : lane));
}

unsigned __ballot_sync(unsigned mask, int predicate);
static inline int __any_sync(unsigned mask, int predicate)
{
    return __ballot_sync(mask, predicate) != 0;
}

// --- shared memory ---

// Who touched an element last, and how many barriers of the block and of the warp lay before.
struct emulator_touch {
    int thread; // -1: nobody
    unsigned block_barriers, warp_barriers;
};

struct emulator_element {
    struct emulator_touch write, read;
    unsigned block;       // of the launch, from 1; touches in another one count no more
    bool atomic;          // the last write was
    bool read_by_several; // of different threads since the last barrier of the block
};

struct emulator_shared {
    void *data;
    struct emulator_element *elements;
    size_t count, element_bytes;
    unsigned block; // of the launch, whose data it has
};

// The block's array of that name, the same for all its threads.
struct emulator_shared *emulator_shared_array(const char *name, size_t count, size_t element_bytes);
void emulator_shared_read(struct emulator_shared *shared, ptrdiff_t i);
void emulator_shared_write(struct emulator_shared *shared, ptrdiff_t i);
void emulator_shared_atomic(struct emulator_shared *shared, ptrdiff_t i);

template <typename T> struct shared_reference {
    struct emulator_shared *shared;
    ptrdiff_t i;

    operator T() const
    {
        emulator_shared_read(shared, i);
        return ((T *)shared->data)[i];
    }
    T operator=(T value) const
    {
        emulator_shared_write(shared, i);
        return ((T *)shared->data)[i] = value;
    }
    T operator=(const shared_reference &other) const
    {
        return *this = (T)other;
    }
    T operator+=(T value) const
    {
        return *this = (T)(*this) + value;
    }
    T operator*=(T value) const
    {
        return *this = (T)(*this) * value;
    }
};

template <typename T> struct shared_pointer {
    struct emulator_shared *shared;
    ptrdiff_t offset;

    shared_reference<T> operator[](ptrdiff_t i) const
    {
        return {shared, offset + i};
    }
    shared_pointer operator+(ptrdiff_t by) const
    {
        return {shared, offset + by};
    }
};

// Of one element, among other atomic operations: a barrier lies before and behind all of them.
template <typename T> void atomicAdd(shared_pointer<T> at, T value)
{
    emulator_shared_atomic(at.shared, at.offset);
    ((T *)at.shared->data)[at.offset] += value;
}

#define CUDA_SHARED(type, name, count)                                                             \
    shared_pointer<type> name = {emulator_shared_array(#name, count, sizeof(type)), 0}
// Of the launch's shared_bytes.
#define CUDA_SHARED_DYNAMIC(type, name)                                                            \
    shared_pointer<type> name = {                                                                  \
        emulator_shared_array(#name, emulator_launched.shared_bytes / sizeof(type), sizeof(type)), \
        0}

// --- the runtime, as far as kernels/cuda uses it ---

typedef int cudaError_t;
enum {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorMemoryAllocation = 2,
    cudaErrorInsufficientDriver = 35,
    cudaErrorNoDevice = 100,
    cudaErrorIllegalAddress = 700,
    cudaErrorLaunchFailure = 719,
    cudaErrorStreamCaptureUnsupported = 900,
};
enum cudaMemcpyKind {
    cudaMemcpyHostToDevice = 1,
    cudaMemcpyDeviceToHost = 2,
    cudaMemcpyDeviceToDevice = 3
};
enum { cudaStreamNonBlocking = 1, cudaMemAttachGlobal = 1 };

struct cudaDeviceProp {
    char name[256];
    size_t totalGlobalMem;
    size_t sharedMemPerBlockOptin;
    int major, minor;
    int multiProcessorCount;
    int l2CacheSize;
};

cudaError_t cudaGetDeviceCount(int *count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *out, int device);
cudaError_t cudaDriverGetVersion(int *version);
cudaError_t cudaRuntimeGetVersion(int *version);
cudaError_t cudaMalloc(void **out, size_t bytes);
cudaError_t cudaMallocManaged(void **out, size_t bytes, unsigned flags = cudaMemAttachGlobal);
cudaError_t cudaFree(void *block);
cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes);
cudaError_t cudaMemsetAsync(void *block, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaMemcpyAsync(void *out, const void *in, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaGetLastError(void);
cudaError_t cudaPeekAtLastError(void);
const char *cudaGetErrorString(cudaError_t error); // after a failed launch: what the emulator found
const char *cudaGetErrorName(cudaError_t error);

typedef struct emulator_graph *cudaGraph_t;
typedef struct emulator_graph *cudaGraphExec_t;
enum cudaStreamCaptureMode { cudaStreamCaptureModeThreadLocal = 1 };
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
template <typename F> cudaError_t cudaFuncSetAttribute(F *, enum cudaFuncAttribute, int)
{
    return cudaSuccess;
}

// --- of the emulator itself ---

// The runtime's sticky error, with a text of its own.
void emulator_set_error(cudaError_t error, const char *text);
cudaError_t emulator_error(void);
void emulator_note_launch(const char *name);
// The device's memory is touched in between only.
void emulator_open_memory(void);
void emulator_close_memory(void);

bool emulator_is_device(const void *address); // of cudaMalloc

// Told what kernels do, where one is set; `at` is the instruction (see traffic.h).
struct emulator_observer {
    void (*begin_launch)(const char *kernel, unsigned threads);
    void (*end_block)(void);
    void (*end_launch)(void);
    void (*global)(const void *at, const void *address, size_t bytes, bool write);
    void (*shared)(const void *at, size_t offset, size_t bytes, bool write);
};
extern const struct emulator_observer *emulator_observed;

// --- device functions ---

static inline float __int_as_float(int bits)
{
    float out;
    memcpy(&out, &bits, sizeof out);
    return out;
}
static inline int __float_as_int(float value)
{
    int out;
    memcpy(&out, &value, sizeof out);
    return out;
}
static inline int __clz(int value) // not of 0
{
    return __builtin_clz((unsigned)value);
}
static inline unsigned __float_as_uint(float value)
{
    return (unsigned)__float_as_int(value);
}
static inline float __uint_as_float(unsigned bits)
{
    return __int_as_float((int)bits);
}

#endif
