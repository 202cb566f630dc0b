// SPDX-License-Identifier: Apache-2.0
// The backend "cpu": picks the table of the widest instruction set that the processor has, unless
// one is named.
#include "base/mem.h"
#include "kernels/backend.h"
#include "kernels/cpu/cpu.h"

#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct isa {
    const char *name;
    const struct kernels *ops;
    const struct probes *probes;
    bool (*works)(void);
};

static bool always(void)
{
    return true;
}

#if defined(__x86_64__)
static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c");
}

static bool has_avx512(void)
{
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

static bool has_avx512bf16(void)
{
    return has_avx512() && __builtin_cpu_supports("avx512bf16");
}
#endif

static const struct isa isas[] = {
#if defined(__x86_64__)
    {"avx512bf16", &kernels_cpu_avx512bf16, &cpu_probes_avx512bf16, has_avx512bf16},
    {"avx512", &kernels_cpu_avx512, &cpu_probes_avx512, has_avx512},
    {"avx2", &kernels_cpu_avx2, &cpu_probes_avx2, has_avx2},
#endif
    {"plain", &kernels_cpu_plain, &cpu_probes_plain, always},
};

enum { ISAS = sizeof isas / sizeof isas[0] };

static const struct isa *isa_choose(const char *name, struct error *err)
{
    for (size_t i = 0; i < ISAS; i++) {
        if (name && strcmp(name, isas[i].name) != 0)
            continue;
        if (isas[i].works())
            return &isas[i];
        if (name) {
            error_set(err, "this processor has no '%s': leave the instruction set out", name);
            return NULL;
        }
    }
    error_set(err, "unknown instruction set '%s': give 'plain', 'avx2', 'avx512' or 'avx512bf16'",
              name);
    return NULL;
}

static int processors_allowed(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        return 1;
    return CPU_COUNT(&set);
}

void *scratch_reserve(struct scratch *scratch, size_t bytes)
{
    if (bytes <= scratch->bytes)
        return scratch->block;
    size_t whole = (bytes + bytes / 2 + 63) / 64 * 64; // sizes vary a little from batch to batch
    free(scratch->block);
    scratch->block = aligned_alloc(64, whole);
    if (!scratch->block) {
        fprintf(stderr, "memo: out of memory: %zu bytes of scratch\n", whole);
        abort();
    }
    scratch->bytes = whole;
    return scratch->block;
}

static int start(struct device *device, const struct kernels *ops, const struct probes *probes,
                 int threads, struct error *err)
{
    struct cpu *cpu = mem_calloc(1, sizeof *cpu + (size_t)threads * sizeof cpu->threads[0]);
    if (pool_create(threads, &cpu->pool, err) != 0) {
        free(cpu);
        return -1;
    }
    cpu->probes = probes;
    device->ops = ops;
    device->threads = threads;
    device->state = cpu;
    return 0;
}

static int cpu_create(struct device *device, const struct device_options *options,
                      struct error *err)
{
    const struct isa *isa = isa_choose(options->isa, err);
    const int threads = options->threads > 0 ? options->threads : processors_allowed();
    return isa ? start(device, isa->ops, isa->probes, threads, err) : -1;
}

// Of one thread: the processors are the other one's.
static int cpu_create_beside(const struct device *device, void *stream, struct device *beside,
                             struct error *err)
{
    (void)stream;
    return start(beside, device->ops, device_cpu(device)->probes, 1, err);
}

static void cpu_destroy(struct device *device)
{
    struct cpu *cpu = device->state;
    pool_destroy(cpu->pool);
    for (int i = 0; i < device->threads; i++)
        free(cpu->threads[i].block);
    free(cpu->shared.block);
    free(cpu);
}

static void cpu_describe(const struct device *device, char *out, size_t out_bytes)
{
    const char *name = "";
    for (size_t i = 0; i < ISAS; i++)
        if (device->ops == isas[i].ops)
            name = isas[i].name;
    snprintf(out, out_bytes, "cpu %s, %d thread%s", name, device->threads,
             device->threads == 1 ? "" : "s");
}

const struct backend backend_cpu = {
    .name = "cpu",
    .memory = &memory_host,
    .create = cpu_create,
    .destroy = cpu_destroy,
    .create_beside = cpu_create_beside,
    .describe = cpu_describe,
};
