// SPDX-License-Identifier: Apache-2.0
// Loops that reach the processor's limits and compute nothing of use, one task per thread.
#include "kernels/cpu/isa.h"
#include "kernels/cpu/simd.h"

enum {
    CHAINS = 12, // two pipes with a latency of 4 to 6 need them; more would not fit 16 registers
    ROUNDS = 100000,
};

// Hides a value from the optimiser, which would otherwise compute the loop once.
static void use(vf v)
{
    volatile float sink = vf_sum(v);
    (void)sink;
}

static void fma_task(void *argument, size_t task, int thread)
{
    (void)thread;
    const volatile float *factor = argument;
    vf chains[CHAINS], a = vf_set(*factor), b = vf_set((float)task);
    for (size_t i = 0; i < CHAINS; i++)
        chains[i] = vf_set((float)i);
    for (size_t round = 0; round < ROUNDS; round++) {
#pragma GCC unroll 16
        for (size_t i = 0; i < CHAINS; i++)
            chains[i] = vf_fma(chains[i], a, b);
    }
    for (size_t i = 0; i < CHAINS; i++)
        use(chains[i]);
}

static double probe_fma(struct device *device)
{
    volatile float factor = 0.5f;
    cpu_run(device, (size_t)device->threads, fma_task, (void *)&factor);
    return 2.0 * VF_LANES * CHAINS * ROUNDS * device->threads;
}

#if defined(__AVX512BF16__)
static void dot_task(void *argument, size_t task, int thread)
{
    (void)thread;
    const volatile int32_t *factor = argument;
    vf chains[CHAINS];
    vi a = *factor - (vi){0}, b = *factor + (int32_t)task - (vi){0};
    for (size_t i = 0; i < CHAINS; i++)
        chains[i] = vf_set((float)i);
    for (size_t round = 0; round < ROUNDS; round++) {
#pragma GCC unroll 16
        for (size_t i = 0; i < CHAINS; i++)
            chains[i] = vf_dot(a, b, chains[i]);
    }
    for (size_t i = 0; i < CHAINS; i++)
        use(chains[i]);
}

static double probe_dot(struct device *device)
{
    volatile int32_t factor = 0x3a003a00; // a pair of small numbers
    cpu_run(device, (size_t)device->threads, dot_task, (void *)&factor);
    return 4.0 * VF_LANES * CHAINS * ROUNDS * device->threads;
}
#else
#define probe_dot NULL
#endif

struct read_job {
    const float *block;
    size_t count; // of a task
};

static void read_task(void *argument, size_t task, int thread)
{
    (void)thread;
    const struct read_job *job = argument;
    const float *block = job->block + task * job->count;
    vf sums[4] = {0};
    for (size_t i = 0; i + 4 * VF_LANES <= job->count; i += 4 * VF_LANES) {
#pragma GCC unroll 4
        for (size_t j = 0; j < 4; j++)
            sums[j] += vf_load(block + i + j * VF_LANES);
    }
    use(sums[0] + sums[1] + sums[2] + sums[3]);
}

static double probe_read(struct device *device, const float *block, size_t count)
{
    struct read_job job = {.block = block, .count = count / (size_t)device->threads};
    cpu_run(device, (size_t)device->threads, read_task, &job);
    return (double)(job.count * sizeof *block) * device->threads;
}

const struct probes ISA(probes) = {.fma = probe_fma, .dot = probe_dot, .read = probe_read};
