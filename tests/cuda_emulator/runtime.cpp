// SPDX-License-Identifier: Apache-2.0
// The emulator's runtime: memory of the device in an address range of its own, closed to the host;
// streams that do everything at once, or keep it for a graph; errors that stay.
#include "cuda_runtime.h"
#include "tests/cuda_emulator/arrange.h"

#include <map>
#include <mutex>
#include <pthread.h>
#include <stdio.h>
#include <string>
#include <sys/mman.h>
#include <unistd.h>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(from, bytes) ((void)0)
#define ASAN_UNPOISON_MEMORY_REGION(from, bytes) ((void)0)
#endif

enum { PAGE = 4096 };
static const size_t RANGE_BYTES = (size_t)1 << 40; // never all used: addresses cost nothing

struct emulator_stream {
    bool capturing;
    bool broken; // something was asked for that cannot be captured
    std::vector<std::function<void()>> kept;
};

struct emulator_graph {
    std::vector<std::function<void()>> work;
};

static std::map<uintptr_t, size_t> device_blocks;  // of cudaMalloc, by their first byte
static std::map<uintptr_t, size_t> managed_blocks; // of cudaMallocManaged: ordinary memory
static char *range;
static size_t range_used, allocated_bytes;
static int openings;
static struct cudaDeviceProp device = {.name = "emulator",
                                       .totalGlobalMem = (size_t)1 << 33,
                                       .sharedMemPerBlockOptin = 227 << 10,
                                       .major = 9,
                                       .minor = 0,
                                       .multiProcessorCount = 4,
                                       .l2CacheSize = 1 << 20};
static cudaError_t last_error;
static std::string error_text;
static char failing[64]; // plain data, which may be arranged before the first constructor has run
static cudaError_t failing_error;
static unsigned failing_after; // calls
static int driver_version = 13000;
static unsigned graph_launches;
static std::map<std::string, unsigned> launches;

void emulator_set_device(int major, int minor, size_t memory_bytes)
{
    device.major = major;
    device.minor = minor;
    device.totalGlobalMem = memory_bytes;
}

void emulator_set_driver(int version)
{
    driver_version = version;
}

void emulator_fail_next(const char *function, cudaError_t error)
{
    emulator_fail_later(function, error, 0);
}

void emulator_fail_later(const char *function, cudaError_t error, unsigned calls)
{
    snprintf(failing, sizeof failing, "%s", function ? function : "");
    failing_error = error;
    failing_after = calls;
}

void emulator_count_launches(void)
{
    launches.clear();
}

void emulator_note_launch(const char *name)
{
    launches[name]++;
}

unsigned emulator_launches(void)
{
    unsigned sum = 0;
    for (const auto &each : launches)
        sum += each.second;
    return sum;
}

void emulator_print_launches(void)
{
    for (const auto &each : launches)
        printf("    %4u %s\n", each.second, each.first.c_str());
}

// Errors of a fault stay until the process ends; those of one call do not.
static cudaError_t injected(const char *function)
{
    if (strcmp(failing, function) != 0 || failing_after-- > 0)
        return last_error;
    failing[0] = '\0';
    if (failing_error >= cudaErrorIllegalAddress)
        emulator_set_error(failing_error, "");
    return failing_error;
}

void emulator_set_error(cudaError_t error, const char *text)
{
    if (last_error != cudaSuccess)
        return;
    last_error = error;
    error_text = text;
}

cudaError_t emulator_error(void)
{
    return last_error;
}

cudaError_t cudaGetLastError(void)
{
    const cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError(void)
{
    return injected("cudaPeekAtLastError");
}

static const struct {
    cudaError_t error;
    const char *name, *text;
} errors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress",
     "an illegal memory access was encountered"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
};

const char *cudaGetErrorString(cudaError_t error)
{
    if (error == last_error && !error_text.empty())
        return error_text.c_str();
    for (const auto &each : errors)
        if (each.error == error)
            return each.text;
    return "unknown error";
}

const char *cudaGetErrorName(cudaError_t error)
{
    for (const auto &each : errors)
        if (each.error == error)
            return each.name;
    return "cudaErrorUnknown";
}

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = 1;
    return injected("cudaGetDeviceCount");
}

cudaError_t cudaSetDevice(int number)
{
    return number == 0 ? injected("cudaSetDevice") : cudaErrorInvalidValue;
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *out, int number)
{
    (void)number;
    *out = device;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = driver_version;
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = 13000;
    return cudaSuccess;
}

// --- memory ---

void emulator_open_memory(void)
{
    if (openings++ == 0 && range_used > 0)
        mprotect(range, range_used, PROT_READ | PROT_WRITE);
}

void emulator_close_memory(void)
{
    if (--openings == 0 && range_used > 0)
        mprotect(range, range_used, PROT_NONE);
}

static bool capturing_anywhere;

// A page of distance to the next block.
cudaError_t cudaMalloc(void **out, size_t bytes)
{
    const size_t pages = (bytes + PAGE) / PAGE * PAGE;
    const cudaError_t error = injected("cudaMalloc");
    *out = NULL;
    if (error != cudaSuccess || capturing_anywhere)
        return error != cudaSuccess ? error : (cudaError_t)cudaErrorStreamCaptureUnsupported;
    if (allocated_bytes + bytes > device.totalGlobalMem)
        return cudaErrorMemoryAllocation;
    if (!range)
        range = (char *)mmap(NULL, RANGE_BYTES, PROT_NONE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (range == MAP_FAILED || range_used + pages > RANGE_BYTES)
        return cudaErrorMemoryAllocation;
    *out = range + range_used;
    device_blocks[(uintptr_t)*out] = bytes;
    allocated_bytes += bytes;
    ASAN_POISON_MEMORY_REGION((char *)*out + bytes, pages - bytes);
    if (openings > 0)
        mprotect(*out, pages, PROT_READ | PROT_WRITE);
    range_used += pages;
    return cudaSuccess;
}

// Every tensor of a test is an allocation of its own, so that the sanitizer sees its ends.
cudaError_t cudaMallocManaged(void **out, size_t bytes, unsigned flags)
{
    (void)flags;
    *out = aligned_alloc(64, (bytes + 63) / 64 * 64);
    if (!*out)
        return cudaErrorMemoryAllocation;
    managed_blocks[(uintptr_t)*out] = bytes;
    return cudaSuccess;
}

cudaError_t cudaFree(void *memory)
{
    const auto managed = managed_blocks.find((uintptr_t)memory);
    const auto block = device_blocks.find((uintptr_t)memory);
    if (!memory)
        return last_error;
    if (managed != managed_blocks.end()) {
        managed_blocks.erase(managed);
        free(memory);
        return last_error;
    }
    if (block == device_blocks.end())
        return cudaErrorInvalidValue;
    madvise(memory, block->second, MADV_DONTNEED);
    ASAN_POISON_MEMORY_REGION(memory, block->second);
    allocated_bytes -= block->second;
    device_blocks.erase(block);
    return last_error;
}

cudaError_t cudaMemGetInfo(size_t *free_bytes, size_t *total_bytes)
{
    *total_bytes = device.totalGlobalMem;
    *free_bytes = device.totalGlobalMem - allocated_bytes;
    return cudaSuccess;
}

bool emulator_is_device(const void *address)
{
    return range && (const char *)address >= range && (const char *)address < range + range_used;
}

static bool inside(const std::map<uintptr_t, size_t> &blocks, uintptr_t address)
{
    auto next = blocks.upper_bound(address);
    if (next == blocks.begin())
        return false;
    --next;
    return address <= next->first + next->second; // one behind the last is an address, too
}

extern "C" char __executable_start, _end;

// Of the stack, the heap (as far as it is one range) or the program itself.
static bool is_host(uintptr_t address)
{
    static uintptr_t stack_low, stack_high;
    if (!stack_high) {
        pthread_attr_t attributes;
        void *low;
        size_t bytes;
        pthread_getattr_np(pthread_self(), &attributes);
        pthread_attr_getstack(&attributes, &low, &bytes);
        pthread_attr_destroy(&attributes);
        stack_low = (uintptr_t)low;
        stack_high = stack_low + bytes;
    }
    return (address >= stack_low && address < stack_high) ||
           (address >= (uintptr_t)&__executable_start && address < (uintptr_t)sbrk(0));
}

void emulator_check_words(const char *kernel, const void *argument, size_t bytes)
{
    for (size_t at = 0; at + sizeof(uintptr_t) <= bytes; at += sizeof(uintptr_t)) {
        uintptr_t word;
        char text[256];
        memcpy(&word, (const char *)argument + at, sizeof word);
        const bool device_range =
            range && word >= (uintptr_t)range && word < (uintptr_t)range + RANGE_BYTES;
        if (device_range ? inside(device_blocks, word)
                         : !is_host(word) || inside(managed_blocks, word))
            continue;
        snprintf(text, sizeof text, "%s: an argument points to %s", kernel,
                 device_range ? "memory of the device that was freed" : "memory of the host");
        emulator_set_error(cudaErrorIllegalAddress, text);
    }
}

// --- streams ---

// Threads of a program take turns, as their work does on a stream.
static std::recursive_mutex turn;

void emulator_enqueue(cudaStream_t stream, std::function<void()> work)
{
    const std::lock_guard<std::recursive_mutex> mine(turn);
    if (stream && stream->capturing)
        stream->kept.push_back(work);
    else
        work();
}

cudaError_t cudaMemsetAsync(void *memory, int value, size_t bytes, cudaStream_t stream)
{
    emulator_enqueue(stream, [=]() {
        emulator_note_launch("cudaMemsetAsync");
        emulator_check_words("cudaMemsetAsync", &memory, sizeof memory);
        emulator_open_memory();
        if (last_error == cudaSuccess)
            memset(memory, value, bytes);
        emulator_close_memory();
    });
    return last_error;
}

// Whether the side of the device is memory of the device.
static void check_sides(void *out, const void *in, enum cudaMemcpyKind kind)
{
    if (kind != cudaMemcpyDeviceToHost)
        emulator_check_words("cudaMemcpyAsync", &out, sizeof out);
    if (kind != cudaMemcpyHostToDevice)
        emulator_check_words("cudaMemcpyAsync", &in, sizeof in);
}

// What the host has may be gone when a graph repeats the copy.
cudaError_t cudaMemcpyAsync(void *out, const void *in, size_t bytes, enum cudaMemcpyKind kind,
                            cudaStream_t stream)
{
    if (stream && stream->capturing && kind != cudaMemcpyDeviceToDevice) {
        stream->broken = true;
        return cudaErrorStreamCaptureUnsupported;
    }
    emulator_enqueue(stream, [=]() {
        emulator_note_launch("cudaMemcpyAsync");
        check_sides(out, in, kind);
        emulator_open_memory();
        if (last_error == cudaSuccess)
            memmove(out, in, bytes);
        emulator_close_memory();
    });
    return last_error;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *out, unsigned flags)
{
    (void)flags;
    *out = new emulator_stream();
    return injected("cudaStreamCreateWithFlags");
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    if (stream && stream->capturing) {
        stream->broken = true;
        return cudaErrorStreamCaptureUnsupported;
    }
    return injected("cudaStreamSynchronize");
}

// --- graphs ---

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode)
{
    (void)mode;
    const cudaError_t error = injected("cudaStreamBeginCapture");
    if (error != cudaSuccess)
        return error;
    stream->capturing = capturing_anywhere = true;
    stream->broken = false;
    stream->kept.clear();
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *out)
{
    stream->capturing = capturing_anywhere = false;
    *out = NULL;
    if (stream->broken)
        return cudaErrorStreamCaptureUnsupported;
    *out = new emulator_graph{stream->kept};
    return last_error;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *out, cudaGraph_t graph, unsigned long long flags)
{
    (void)flags;
    *out = new emulator_graph(*graph);
    return injected("cudaGraphInstantiate");
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream)
{
    const std::vector<std::function<void()>> &work = graph->work;
    graph_launches++;
    emulator_enqueue(stream, [work]() {
        for (const auto &each : work)
            each();
    });
    return injected("cudaGraphLaunch");
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph)
{
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    delete graph;
    return cudaSuccess;
}

unsigned emulator_graph_launches(void)
{
    return graph_launches;
}
