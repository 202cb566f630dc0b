// SPDX-License-Identifier: Apache-2.0
#include "kernels/cpu/isa.h"
#include "kernels/moment_code.h"

#include <string.h>

enum { TASK_ELEMENTS = 1 << 16, PIECE_ELEMENTS = 1024 };

static void add_bf16(uint16_t *sums, const float *terms, size_t count, uint64_t first, int64_t draw)
{
    for (size_t i = 0; i < count; i++) {
        uint32_t bits = (uint32_t)sums[i] << 16;
        float sum;
        memcpy(&sum, &bits, sizeof sum);
        sum += terms[i];
        memcpy(&bits, &sum, sizeof bits);
        bits = (bits + (moment_random(first + i, draw) & 0xffffu)) >> 16;
        sums[i] = (uint16_t)(sum != sum ? 0x7fc0u : bits);
    }
}

static void add_f32(float *sums, const float *terms, size_t count)
{
    for (size_t i = 0; i < count; i++)
        sums[i] += terms[i];
}

static void accumulate_task(void *argument, size_t task, int thread)
{
    (void)thread;
    const struct accumulate *a = argument;
    const size_t end = min_size((task + 1) * TASK_ELEMENTS, a->count);
    float piece[PIECE_ELEMENTS];
    for (size_t at = task * TASK_ELEMENTS; at < end; at += PIECE_ELEMENTS) {
        const size_t count = min_size(PIECE_ELEMENTS, end - at);
        const float *terms = (const float *)a->terms.data + at;
        if (a->terms.dtype != DTYPE_F32) {
            convert_to_f32(piece, (const uint16_t *)a->terms.data + at, a->terms.dtype, count);
            terms = piece;
        }
        if (a->sums.dtype == DTYPE_F32)
            add_f32((float *)a->sums.data + at, terms, count);
        else
            add_bf16((uint16_t *)a->sums.data + at, terms, count, a->first + at, a->draw);
    }
}

void ISA(accumulate)(struct device *device, const struct accumulate *a)
{
    struct accumulate job = *a;
    assert(a->sums.dtype != DTYPE_F16);
    cpu_run(device, ceil_div(a->count, TASK_ELEMENTS), accumulate_task, &job);
}
