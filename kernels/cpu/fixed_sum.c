// SPDX-License-Identifier: Apache-2.0
// Sums over ranks: see kernels/ref/fixed_sum.c. Every element by itself, so that threads share them
// in any way.
#include "kernels/cpu/isa.h"

#include <math.h>

enum { TASK_ELEMENTS = 16384 };

static size_t tasks_of(size_t count)
{
    return ceil_div(count, TASK_ELEMENTS);
}

struct fixed_piece {
    int64_t *restrict sums;
    size_t count;
    float limit;
};

static bool accumulate_f32(struct fixed_piece to, const float *restrict values)
{
    bool fit = true;
    for (size_t i = 0; i < to.count; i++) {
        const bool fits = fabsf(values[i]) < to.limit;
        to.sums[i] += fits ? (int64_t)rint((double)values[i] * FIXED_SCALE) : 0;
        fit &= fits;
    }
    return fit;
}

static bool accumulate_bf16(struct fixed_piece to, const uint16_t *restrict bits)
{
    enum { BLOCK = 256 };
    bool fit = true;
    for (size_t at = 0; at < to.count; at += BLOCK) {
        float values[BLOCK];
        const size_t count = min_size(BLOCK, to.count - at);
        for (size_t i = 0; i < count; i++)
            values[i] = bf16_to_f32(bits[at + i]);
        fit &= accumulate_f32((struct fixed_piece){to.sums + at, count, to.limit}, values);
    }
    return fit;
}

static void accumulate_task(void *argument, size_t task, int thread)
{
    (void)thread;
    const struct fixed_accumulate *a = argument;
    const size_t begin = task * TASK_ELEMENTS;
    const struct fixed_piece to = {a->sums + begin, min_size(TASK_ELEMENTS, a->count - begin),
                                   a->limit};
    const bool fit = a->values.dtype == DTYPE_F32
                         ? accumulate_f32(to, (const float *)a->values.data + begin)
                         : accumulate_bf16(to, (const uint16_t *)a->values.data + begin);
    if (!fit)
        __atomic_store_n(a->unfit, 1, __ATOMIC_RELAXED); // by several threads
}

void ISA(fixed_accumulate)(struct device *device, const struct fixed_accumulate *a)
{
    if (a->values.dtype == DTYPE_F16) {
        ref_fixed_accumulate(device, a);
        return;
    }
    cpu_run(device, tasks_of(a->count), accumulate_task, (void *)a);
}

static void fixed_add_task(void *argument, size_t task, int thread)
{
    (void)thread;
    const struct fixed_add *a = argument;
    const size_t begin = task * TASK_ELEMENTS, count = min_size(TASK_ELEMENTS, a->count - begin);
    uint64_t *restrict sums = (uint64_t *)a->sums + begin; // unsigned: it may wrap around
    const uint64_t *restrict terms = (const uint64_t *)a->terms + begin;
    for (size_t i = 0; i < count; i++)
        sums[i] += terms[i];
}

void ISA(fixed_add)(struct device *device, const struct fixed_add *a)
{
    cpu_run(device, tasks_of(a->count), fixed_add_task, (void *)a);
}

static void fixed_value_task(void *argument, size_t task, int thread)
{
    (void)thread;
    const struct fixed_value *a = argument;
    const size_t begin = task * TASK_ELEMENTS, count = min_size(TASK_ELEMENTS, a->count - begin);
    float *restrict out = a->out + begin;
    const int64_t *restrict sums = a->sums + begin;
    for (size_t i = 0; i < count; i++)
        out[i] = (float)((double)sums[i] * (1 / FIXED_SCALE));
}

void ISA(fixed_value)(struct device *device, const struct fixed_value *a)
{
    cpu_run(device, tasks_of(a->count), fixed_value_task, (void *)a);
}
