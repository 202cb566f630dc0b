// SPDX-License-Identifier: Apache-2.0
// sum_squares adds blocks of BLOCK_ELEMENTS, each in eight running sums, and then the blocks in
// order: the number of threads does not show.
#include "kernels/cpu/isa.h"
#include "kernels/cpu/simd.h"

#include <math.h>

struct argmax_job {
    int32_t *out;
    const float *logits;
    size_t rows, width, step;
};

// Per lane the first index of its largest value; then the lowest index among the largest lanes.
static int32_t argmax_row(const float *x, size_t width)
{
    vf largest = vf_set(-INFINITY);
    vi best = {0}, index = vi_lanes();
    size_t whole = width / VF_LANES * VF_LANES;
    for (size_t i = 0; i < whole; i += VF_LANES) {
        vf v = vf_load(x + i);
        vi above = v > largest;
        largest = vf_select(above, v, largest);
        best = (index & above) | (best & ~above);
        index += VF_LANES;
    }
    float value = -INFINITY;
    int32_t at = 0;
    for (size_t lane = 0; lane < VF_LANES; lane++)
        if (largest[lane] > value || (largest[lane] == value && best[lane] < at)) {
            value = largest[lane];
            at = best[lane];
        }
    for (size_t i = whole; i < width; i++)
        if (x[i] > value) {
            value = x[i];
            at = (int32_t)i;
        }
    return at;
}

static void argmax_task(void *argument, size_t task, int thread)
{
    (void)thread;
    const struct argmax_job *job = argument;
    size_t end = min_size((task + 1) * job->step, job->rows);
    for (size_t row = task * job->step; row < end; row++)
        job->out[row] = argmax_row(job->logits + row * job->width, job->width);
}

void ISA(argmax)(struct device *device, int32_t *out, struct tensor logits, size_t rows,
                 size_t width)
{
    if (logits.dtype != DTYPE_F32) {
        ref_argmax(device, out, logits, rows, width);
        return;
    }
    struct argmax_job job = {.out = out,
                             .logits = logits.data,
                             .rows = rows,
                             .width = width,
                             .step = rows_per_task(width)};
    cpu_run(device, ceil_div(rows, job.step), argmax_task, &job);
}

enum { BLOCK_ELEMENTS = 16384, SUMS = 8 };

struct squares_job {
    struct tensor x;
    size_t count;
    double *blocks;
};

static double block_squares(const float *x, size_t count)
{
    double sums[SUMS] = {0};
    size_t i = 0;
    for (; i + SUMS <= count; i += SUMS)
        for (size_t lane = 0; lane < SUMS; lane++)
            sums[lane] += (double)x[i + lane] * x[i + lane];
    for (; i < count; i++)
        sums[0] += (double)x[i] * x[i];
    double total = 0;
    for (size_t lane = 0; lane < SUMS; lane++)
        total += sums[lane];
    return total;
}

static void squares_task(void *argument, size_t block, int thread)
{
    (void)thread;
    const struct squares_job *job = argument;
    const size_t at = block * BLOCK_ELEMENTS;
    const size_t count = min_size(BLOCK_ELEMENTS, job->count - at);
    float wide[BLOCK_ELEMENTS];
    const float *x = wide;
    if (job->x.dtype == DTYPE_F32)
        x = (const float *)job->x.data + at;
    else
        convert_to_f32(wide, (const uint16_t *)job->x.data + at, job->x.dtype, count);
    job->blocks[block] = block_squares(x, count);
}

void ISA(sum_squares)(struct device *device, double *out, struct tensor x, size_t count)
{
    size_t blocks = ceil_div(count, BLOCK_ELEMENTS);
    struct squares_job job = {.x = x, .count = count};
    job.blocks = scratch_reserve(&device_cpu(device)->shared, blocks * sizeof *job.blocks);
    cpu_run(device, blocks, squares_task, &job);
    double total = 0;
    for (size_t block = 0; block < blocks; block++)
        total += job.blocks[block];
    *out = total;
}
