// SPDX-License-Identifier: Apache-2.0
// Tasks of COLUMNS channels: a channel's tokens are visited in order by one thread, so that states
// need no locks and the sums of grad_weight have one order for any number of threads. Each token
// reads its neighbours' rows again, which are still in the first-level cache; what bounds the
// operation is reading bcx once.
#include "kernels/cpu/isa.h"
#include "kernels/cpu/simd.h"

enum { COLUMNS = 64 };

// weight[., k] of the task's channels, one tap after another.
static void transpose_taps(float *taps, struct tensor weight, size_t begin, size_t count, size_t k)
{
    for (size_t j = 0; j < k; j++)
        for (size_t i = 0; i < COLUMNS; i++)
            taps[j * COLUMNS + i] =
                i < count ? load_any(weight.data, weight.dtype, (begin + i) * k + j) : 0;
}

static inline vf load_columns(const float *from, size_t count)
{
    return count == VF_LANES ? vf_load(from) : vf_load_part(from, count);
}

static inline void store_columns(float *to, vf v, size_t count)
{
    if (count == VF_LANES)
        vf_store(to, v);
    else
        vf_store_part(to, v, count);
}

// B x of `count` channels; row points at B.
static inline vf gated_input(const float *row, size_t width, size_t count)
{
    return load_columns(row, count) * load_columns(row + 2 * width, count);
}

// Sums the taps from the oldest to the newest, as the cached form does. `row` is the token's, which
// has `before` earlier ones in its sequence.
static inline vf convolved(const float *taps, size_t k, const float *row, size_t width,
                           size_t before, size_t count)
{
    vf sum = vf_set(0);
    for (size_t back = before < k - 1 ? before : k - 1; back > 0; back--)
        sum = vf_fma(vf_load(taps + (k - 1 - back) * COLUMNS),
                     gated_input(row - back * 3 * width, width, count), sum);
    return vf_fma(vf_load(taps + (k - 1) * COLUMNS), gated_input(row, width, count), sum);
}

static void forward_task(void *argument, size_t task, int thread)
{
    (void)thread;
    const struct short_conv_forward *a = argument;
    size_t first = task * COLUMNS, columns = min_size(COLUMNS, a->width - first);
    float taps[SHORT_CONV_TAPS_LIMIT * COLUMNS];
    transpose_taps(taps, a->weight, first, columns, a->taps);
    for (size_t s = 0; s < a->sequences.count; s++) {
        size_t begin = (size_t)a->sequences.offsets[s], end = (size_t)a->sequences.offsets[s + 1];
        for (size_t t = begin; t < end; t++) {
            const float *row = (const float *)a->bcx.data + t * 3 * a->width + first;
            float *out = (float *)a->out.data + t * a->width + first;
            for (size_t i = 0; i < columns; i += VF_LANES) {
                size_t count = min_size(VF_LANES, columns - i);
                vf y = convolved(taps + i, a->taps, row + i, a->width, t - begin, count);
                store_columns(out + i, load_columns(row + a->width + i, count) * y, count);
            }
        }
    }
}

static bool is_plain_f32(struct tensor a, struct tensor b)
{
    return a.dtype == DTYPE_F32 && b.dtype == DTYPE_F32;
}

void ISA(short_conv_forward)(struct device *device, const struct short_conv_forward *a)
{
    if (!is_plain_f32(a->out, a->bcx)) {
        ref_short_conv_forward(device, a);
        return;
    }
    cpu_run(device, ceil_div(a->width, COLUMNS), forward_task, (void *)a);
}

struct backward_columns {
    const struct short_conv_backward *a;
    float *taps;      // [K, COLUMNS]
    float *grad_taps; // [K, COLUMNS]
    size_t first;     // channel
};

static void backward_part(const struct backward_columns *job, size_t begin, size_t end, size_t t,
                          size_t i, size_t count)
{
    const struct short_conv_backward *a = job->a;
    size_t width = a->width, k = a->taps, at = t * 3 * width + job->first + i;
    const float *row = (const float *)a->bcx.data + at;
    const float *grad_out = (const float *)a->grad_out.data + t * width + job->first + i;
    float *grad_bcx = (float *)a->grad_bcx.data + at;
    vf grad = load_columns(grad_out, count);
    vf h = grad * load_columns(row + width, count), grad_u = vf_set(0);
    for (size_t distance = 0; distance < k; distance++) {
        size_t tap = (k - 1 - distance) * COLUMNS + i;
        if (t + distance < end) {
            vf later = load_columns(grad_out + distance * width, count) *
                       load_columns(row + distance * 3 * width + width, count);
            grad_u = vf_fma(vf_load(job->taps + tap), later, grad_u);
        }
        if (t - begin >= distance) {
            vf u = gated_input(row - distance * 3 * width, width, count);
            vf_store(job->grad_taps + tap, vf_fma(h, u, vf_load(job->grad_taps + tap)));
        }
    }
    vf y = convolved(job->taps + i, k, row, width, t - begin, count);
    store_columns(grad_bcx, grad_u * load_columns(row + 2 * width, count), count);
    store_columns(grad_bcx + width, grad * y, count);
    store_columns(grad_bcx + 2 * width, grad_u * load_columns(row, count), count);
}

static void backward_task(void *argument, size_t task, int thread)
{
    (void)thread;
    const struct short_conv_backward *a = argument;
    size_t first = task * COLUMNS, columns = min_size(COLUMNS, a->width - first);
    float taps[SHORT_CONV_TAPS_LIMIT * COLUMNS], grad_taps[SHORT_CONV_TAPS_LIMIT * COLUMNS] = {0};
    struct backward_columns job = {.a = a, .taps = taps, .grad_taps = grad_taps, .first = first};
    transpose_taps(taps, a->weight, first, columns, a->taps);
    for (size_t s = 0; s < a->sequences.count; s++) {
        size_t begin = (size_t)a->sequences.offsets[s], end = (size_t)a->sequences.offsets[s + 1];
        for (size_t t = begin; t < end; t++)
            for (size_t i = 0; i < columns; i += VF_LANES)
                backward_part(&job, begin, end, t, i, min_size(VF_LANES, columns - i));
    }
    float *grad_weight = (float *)a->grad_weight.data + first * a->taps;
    for (size_t i = 0; i < columns; i++)
        for (size_t k = 0; k < a->taps; k++)
            grad_weight[i * a->taps + k] += grad_taps[k * COLUMNS + i];
}

void ISA(short_conv_backward)(struct device *device, const struct short_conv_backward *a)
{
    if (!is_plain_f32(a->grad_bcx, a->bcx) || !is_plain_f32(a->grad_weight, a->grad_out)) {
        ref_short_conv_backward(device, a);
        return;
    }
    cpu_run(device, ceil_div(a->width, COLUMNS), backward_task, (void *)a);
}

// Where the state of one position of a token's sequence begins.
static float *state_row(const struct short_conv_cached *a, size_t t, size_t position)
{
    size_t kept = a->taps - 1, at = (size_t)a->sequences[t] * a->tables.stride;
    size_t block = (size_t)a->tables.blocks[at + position / KV_BLOCK_TOKENS];
    return (float *)a->state.data + (block * kept + position % kept) * a->width;
}

static void cached_part(const struct short_conv_cached *a, const float *taps, size_t t,
                        size_t channel, size_t count)
{
    size_t width = a->width, kept = a->taps - 1, position = (size_t)a->positions[t];
    const float *row = (const float *)a->bcx.data + t * 3 * width + channel;
    vf sum = vf_set(0), now = gated_input(row, width, count);
    for (size_t back = min_size(position, kept); back > 0; back--) {
        const float *earlier = state_row(a, t, position - back) + channel;
        sum = vf_fma(vf_load(taps + (kept - back) * COLUMNS), load_columns(earlier, count), sum);
    }
    sum = vf_fma(vf_load(taps + kept * COLUMNS), now, sum);
    if (kept > 0)
        store_columns(state_row(a, t, position) + channel, now, count);
    store_columns((float *)a->out.data + t * width + channel,
                  load_columns(row + width, count) * sum, count);
}

static void cached_task(void *argument, size_t task, int thread)
{
    (void)thread;
    const struct short_conv_cached *a = argument;
    size_t first = task * COLUMNS, columns = min_size(COLUMNS, a->width - first);
    float taps[SHORT_CONV_TAPS_LIMIT * COLUMNS];
    transpose_taps(taps, a->weight, first, columns, a->taps);
    for (size_t t = 0; t < a->tokens; t++)
        for (size_t i = 0; i < columns; i += VF_LANES)
            cached_part(a, taps + i, t, first + i, min_size(VF_LANES, columns - i));
}

void ISA(short_conv_cached)(struct device *device, const struct short_conv_cached *a)
{
    if (!is_plain_f32(a->out, a->bcx) || a->state.dtype != DTYPE_F32) {
        ref_short_conv_cached(device, a);
        return;
    }
    cpu_run(device, ceil_div(a->width, COLUMNS), cached_task, (void *)a);
}
