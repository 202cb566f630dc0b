// SPDX-License-Identifier: Apache-2.0
// The state of a CPU device: its threads and their scratch memory, which grows to what the largest
// operation needs and is then reused, so that nothing is allocated inside a step loop after its
// first round.
#ifndef MEMO_KERNELS_CPU_CPU_H
#define MEMO_KERNELS_CPU_CPU_H

#include "kernels/cpu/pool.h"
#include "kernels/kernels.h"

struct scratch {
    void *block;
    size_t bytes;
};

// Loops for bench.c; they return the operations or bytes they did.
struct probes {
    double (*fma)(struct device *);
    double (*dot)(struct device *); // of bfloat16 pairs; NULL: the processor has none
    double (*read)(struct device *, const float *block, size_t count);
};

struct cpu {
    struct pool *pool;
    const struct probes *probes;
    struct scratch shared;    // of the calling thread, across the tasks of an operation
    struct scratch threads[]; // one per thread
};

static inline struct cpu *device_cpu(const struct device *device)
{
    return device->state;
}

// At least `bytes` bytes, 64-byte aligned, uninitialised, valid until the next call for the same
// scratch. Aborts when memory is out, like mem_alloc.
void *scratch_reserve(struct scratch *scratch, size_t bytes);

static inline void cpu_run(const struct device *device, size_t count,
                           void (*run)(void *argument, size_t task, int thread), void *argument)
{
    pool_run(device_cpu(device)->pool, count, run, argument);
}

// How many rows an elementwise task takes: enough to hide the cost of taking it, few enough to
// balance.
static inline size_t rows_per_task(size_t width)
{
    enum { TASK_ELEMENTS = 16384 };
    return width >= TASK_ELEMENTS || width == 0 ? 1 : TASK_ELEMENTS / width;
}

static inline size_t ceil_div(size_t a, size_t b)
{
    return (a + b - 1) / b;
}

static inline size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

extern const struct kernels kernels_cpu_plain;
extern const struct probes cpu_probes_plain;
#if defined(__x86_64__)
extern const struct kernels kernels_cpu_avx2;
extern const struct probes cpu_probes_avx2;
extern const struct kernels kernels_cpu_avx512;
extern const struct probes cpu_probes_avx512;
extern const struct kernels kernels_cpu_avx512bf16;
extern const struct probes cpu_probes_avx512bf16;
#endif

#endif
