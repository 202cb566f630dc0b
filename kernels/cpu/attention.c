// SPDX-License-Identifier: Apache-2.0
// One task per sequence and key head. Its keys and values are packed once into the panels of
// gemm.h; then blocks of QUERY_ROWS queries of each head of the group run through them: scores = q
// K^T as a small product, softmax by rows, scores V as another. No more than QUERY_ROWS rows of
// scores exist.
//
// Masked scores are -infinity and their weights exactly 0, so that the blocks of the other rows do
// not change a row's sums. Blocks begin at multiples of TILE_COLUMNS from the start of the
// sequence: every key has its lane, whatever the window.
#include "kernels/cpu/gemm.h"

#include <math.h>

enum { QUERY_ROWS = 4 * TILE_ROWS };

// Carves arrays out of a thread's scratch; the first pass only counts.
struct carver {
    char *block;
    size_t bytes;
};

static void *carve(struct carver *carver, size_t elements)
{
    void *at = carver->block ? carver->block + carver->bytes : NULL;
    carver->bytes += ceil_div(elements * sizeof(float), 64) * 64;
    return at;
}

// One sequence of one group of heads, and a block of its queries.
struct span {
    size_t begin, length; // of the sequence, in tokens
    size_t group;
    size_t query, rows;    // the block's first query, counted from begin
    size_t first, columns; // the keys that any of its rows sees
    size_t scores_stride;
};

static struct span span_of(const struct sequences *sequences, size_t kv_heads, size_t task)
{
    size_t s = task / kv_heads, begin = (size_t)sequences->offsets[s];
    size_t length = (size_t)sequences->offsets[s + 1] - begin;
    return (struct span){.begin = begin,
                         .length = length,
                         .group = task % kv_heads,
                         .scores_stride = ceil_div(length, TILE_COLUMNS) * TILE_COLUMNS};
}

static size_t first_visible(size_t query, size_t window)
{
    return window > 0 && query >= window ? query - window + 1 : 0;
}

static void span_block(struct span *span, size_t query, size_t window)
{
    span->query = query;
    span->rows = min_size(QUERY_ROWS, span->length - query);
    span->first = first_visible(query, window) / TILE_COLUMNS * TILE_COLUMNS;
    span->columns = query + span->rows - span->first;
}

static struct matrix matrix_f32(const float *data, size_t row, size_t column)
{
    return (struct matrix){.data = data, .dtype = DTYPE_F32, .row = row, .column = column};
}

// Panels of a [length, d] part of k or v: transposed ([d, length], to score) or as it is.
static struct panels panels_of(float *out, const float *x, size_t stride, const struct span *span,
                               size_t d, bool transposed)
{
    struct panels panels = {.data = out, .dtype = DTYPE_F32};
    panels.panel_stride = (transposed ? d : span->length) * TILE_COLUMNS;
    if (transposed)
        ISA(gemm_pack)(&panels, matrix_f32(x, 1, stride), d, span->length);
    else
        ISA(gemm_pack)(&panels, matrix_f32(x, stride, 1), span->length, d);
    return panels;
}

// c = rows of `a` times the block's keys (transposed panels).
static void score_product(float *c, const float *a, size_t a_stride, struct panels panels,
                          const struct span *span, size_t d)
{
    panels.data = (float *)panels.data + span->first / TILE_COLUMNS * panels.panel_stride;
    ISA(gemm)
    (&(struct gemm){.c = c,
                    .c_stride = span->scores_stride,
                    .a = matrix_f32(a, a_stride, 1),
                    .panels = panels,
                    .rows = span->rows,
                    .columns = span->columns,
                    .depth = d},
     NULL);
}

// c = rows of weights times the block's keys or values (panels as they are).
static void value_product(float *c, size_t c_stride, const float *weights, struct panels panels,
                          const struct span *span, size_t d)
{
    panels.data = (float *)panels.data + span->first * TILE_COLUMNS;
    ISA(gemm)
    (&(struct gemm){.c = c,
                    .c_stride = c_stride,
                    .a = matrix_f32(weights, span->scores_stride, 1),
                    .panels = panels,
                    .rows = span->rows,
                    .columns = d,
                    .depth = span->columns},
     NULL);
}

// Hides the keys that row `row` of the block does not see; returns how many lanes hold the others.
static size_t mask_row(float *scores, const struct span *span, size_t row, size_t window)
{
    size_t query = span->query + row, lanes;
    size_t hidden = first_visible(query, window);
    for (size_t i = span->first; i < hidden; i++)
        scores[i - span->first] = -INFINITY;
    lanes = ceil_div(query + 1 - span->first, VF_LANES) * VF_LANES;
    for (size_t i = query + 1 - span->first; i < lanes; i++)
        scores[i] = -INFINITY;
    return lanes;
}

static void zero_after(float *weights, size_t from, const struct span *span)
{
    for (size_t i = from; i < span->columns; i++)
        weights[i] = 0;
}

struct softmax {
    float largest;
    float sum;
};

static struct softmax softmax_row(float *scores, size_t lanes, float scale)
{
    vf largest = vf_set(-INFINITY), sum = vf_set(0);
    for (size_t i = 0; i < lanes; i += VF_LANES) {
        vf s = vf_load(scores + i) * scale;
        vf_store(scores + i, s);
        largest = vf_max(s, largest);
    }
    struct softmax softmax = {.largest = vf_largest(largest)};
    for (size_t i = 0; i < lanes; i += VF_LANES) {
        vf e = vf_exp(vf_load(scores + i) - softmax.largest);
        vf_store(scores + i, e);
        sum += e;
    }
    softmax.sum = vf_sum(sum);
    return softmax;
}

static void forward_head(const struct attention_forward *a, struct span *span, size_t head,
                         struct panels keys, struct panels values, float *scores)
{
    size_t d = a->head_width, out_stride = a->heads * d;
    for (size_t query = 0; query < span->length; query += QUERY_ROWS) {
        float sums[QUERY_ROWS];
        size_t t = span->begin + query;
        float *out = (float *)a->out.data + t * out_stride + head * d;
        span_block(span, query, a->window);
        score_product(scores, (const float *)a->q.data + t * a->stride + head * d, a->stride, keys,
                      span, d);
        for (size_t row = 0; row < span->rows; row++) {
            float *weights = scores + row * span->scores_stride;
            size_t lanes = mask_row(weights, span, row, a->window);
            struct softmax softmax = softmax_row(weights, lanes, a->scale);
            zero_after(weights, lanes, span);
            sums[row] = softmax.sum;
            if (a->log_sum_exp)
                a->log_sum_exp[(t + row) * a->heads + head] = softmax.largest + logf(softmax.sum);
        }
        value_product(out, out_stride, scores, values, span, d);
        for (size_t row = 0; row < span->rows; row++)
            for (size_t i = 0; i < d; i++)
                out[row * out_stride + i] /= sums[row];
    }
}

struct forward_buffers {
    float *keys, *values, *scores;
};

static size_t forward_carve(struct forward_buffers *buffers, void *block, const struct span *span,
                            size_t d)
{
    struct carver carver = {.block = block};
    buffers->keys = carve(&carver, panels_elements(span->length, d));
    buffers->values = carve(&carver, panels_elements(d, span->length));
    buffers->scores = carve(&carver, QUERY_ROWS * span->scores_stride);
    return carver.bytes;
}

struct forward_job {
    struct device *device;
    const struct attention_forward *a;
};

static void forward_task(void *argument, size_t task, int thread)
{
    const struct forward_job *job = argument;
    const struct attention_forward *a = job->a;
    struct span span = span_of(&a->sequences, a->kv_heads, task);
    if (span.length == 0)
        return;
    struct forward_buffers buffers;
    struct scratch *scratch = &device_cpu(job->device)->threads[thread];
    size_t d = a->head_width, per_group = a->heads / a->kv_heads;
    forward_carve(&buffers, scratch_reserve(scratch, forward_carve(&buffers, NULL, &span, d)),
                  &span, d);
    size_t at = span.begin * a->stride + span.group * d;
    struct panels keys =
        panels_of(buffers.keys, (const float *)a->k.data + at, a->stride, &span, d, true);
    struct panels values =
        panels_of(buffers.values, (const float *)a->v.data + at, a->stride, &span, d, false);
    for (size_t head = span.group * per_group; head < (span.group + 1) * per_group; head++)
        forward_head(a, &span, head, keys, values, buffers.scores);
}

void ISA(attention_forward)(struct device *device, const struct attention_forward *a)
{
    if (a->out.dtype != DTYPE_F32 || a->q.dtype != DTYPE_F32 || a->k.dtype != DTYPE_F32 ||
        a->v.dtype != DTYPE_F32) {
        ref_attention_forward(device, a);
        return;
    }
    struct forward_job job = {.device = device, .a = a};
    cpu_run(device, a->sequences.count * a->kv_heads, forward_task, &job);
}

struct backward_buffers {
    float *keys_across, *values_across, *keys; // panels: k^T, v^T, k
    float *weights, *slopes;                   // p and ds of a block of queries
    float *gemm;
};

static size_t backward_carve(struct backward_buffers *buffers, void *block, const struct span *span,
                             size_t d)
{
    struct carver carver = {.block = block};
    buffers->keys_across = carve(&carver, panels_elements(span->length, d));
    buffers->values_across = carve(&carver, panels_elements(span->length, d));
    buffers->keys = carve(&carver, panels_elements(d, span->length));
    buffers->weights = carve(&carver, QUERY_ROWS * span->scores_stride);
    buffers->slopes = carve(&carver, QUERY_ROWS * span->scores_stride);
    buffers->gemm = carve(&carver, panels_elements(d, QUERY_ROWS));
    return carver.bytes;
}

struct backward_job {
    struct device *device;
    const struct attention_backward *a;
};

// What of a backward task does not change from block to block.
struct backward {
    const struct attention_backward *a;
    struct backward_buffers buffers;
    struct panels keys_across, values_across, keys;
};

// weights: scores become p; slopes: g . v becomes scale p (g . v - D).
static void backward_row(const struct backward *b, const struct span *span, size_t head, size_t row)
{
    const struct attention_backward *a = b->a;
    size_t d = a->head_width, t = span->begin + span->query + row;
    const float *g = (const float *)a->grad_out.data + (t * a->heads + head) * d;
    const float *out = (const float *)a->out.data + (t * a->heads + head) * d;
    float *weights = b->buffers.weights + row * span->scores_stride;
    float *slopes = b->buffers.slopes + row * span->scores_stride;
    float log_sum = a->log_sum_exp[t * a->heads + head], level;
    vf sum = vf_set(0);
    size_t whole = d / VF_LANES * VF_LANES;
    for (size_t i = 0; i < whole; i += VF_LANES)
        sum = vf_fma(vf_load(g + i), vf_load(out + i), sum);
    sum = vf_fma(vf_load_part(g + whole, d - whole), vf_load_part(out + whole, d - whole), sum);
    level = vf_sum(sum);
    size_t lanes = mask_row(weights, span, row, a->window);
    for (size_t i = 0; i < lanes; i += VF_LANES) {
        vf p = vf_exp(vf_load(weights + i) * a->scale - log_sum);
        vf slope = p * (vf_load(slopes + i) - level) * a->scale;
        vf_store(weights + i, p);
        vf_store(slopes + i, vf_select(p > 0, slope, vf_set(0)));
    }
    zero_after(weights, lanes, span);
    zero_after(slopes, lanes, span);
}

// grad [keys of the block, d] += weights^T x, x being the block's rows of q or grad_out.
static void transposed_product(const struct backward *b, float *grad, const float *weights,
                               const float *x, size_t x_stride, const struct span *span)
{
    const struct attention_backward *a = b->a;
    size_t at = (span->begin + span->first) * a->stride + span->group * a->head_width;
    ISA(gemm)
    (&(struct gemm){.c = grad + at,
                    .c_stride = a->stride,
                    .a = matrix_f32(weights, 1, span->scores_stride),
                    .b = matrix_f32(x, x_stride, 1),
                    .rows = span->columns,
                    .columns = a->head_width,
                    .depth = span->rows,
                    .keep = true},
     b->buffers.gemm);
}

static void backward_head(const struct backward *b, struct span *span, size_t head)
{
    const struct attention_backward *a = b->a;
    size_t d = a->head_width, out_stride = a->heads * d;
    for (size_t query = 0; query < span->length; query += QUERY_ROWS) {
        size_t t = span->begin + query, q_at = t * a->stride + head * d;
        const float *q = (const float *)a->q.data + q_at;
        const float *g = (const float *)a->grad_out.data + t * out_stride + head * d;
        span_block(span, query, a->window);
        score_product(b->buffers.weights, q, a->stride, b->keys_across, span, d);
        score_product(b->buffers.slopes, g, out_stride, b->values_across, span, d);
        for (size_t row = 0; row < span->rows; row++)
            backward_row(b, span, head, row);
        value_product((float *)a->grad_q.data + q_at, a->stride, b->buffers.slopes, b->keys, span,
                      d);
        transposed_product(b, a->grad_k.data, b->buffers.slopes, q, a->stride, span);
        transposed_product(b, a->grad_v.data, b->buffers.weights, g, out_stride, span);
    }
}

static void backward_task(void *argument, size_t task, int thread)
{
    const struct backward_job *job = argument;
    const struct attention_backward *a = job->a;
    struct span span = span_of(&a->sequences, a->kv_heads, task);
    if (span.length == 0)
        return;
    struct backward b = {.a = a};
    struct scratch *scratch = &device_cpu(job->device)->threads[thread];
    size_t d = a->head_width, per_group = a->heads / a->kv_heads;
    backward_carve(&b.buffers, scratch_reserve(scratch, backward_carve(&b.buffers, NULL, &span, d)),
                   &span, d);
    size_t at = span.begin * a->stride + span.group * d;
    const float *k = (const float *)a->k.data + at, *v = (const float *)a->v.data + at;
    b.keys_across = panels_of(b.buffers.keys_across, k, a->stride, &span, d, true);
    b.values_across = panels_of(b.buffers.values_across, v, a->stride, &span, d, true);
    b.keys = panels_of(b.buffers.keys, k, a->stride, &span, d, false);
    for (size_t row = 0; row < span.length; row++) {
        memset((float *)a->grad_k.data + at + row * a->stride, 0, d * sizeof(float));
        memset((float *)a->grad_v.data + at + row * a->stride, 0, d * sizeof(float));
    }
    for (size_t head = span.group * per_group; head < (span.group + 1) * per_group; head++)
        backward_head(&b, &span, head);
}

void ISA(attention_backward)(struct device *device, const struct attention_backward *a)
{
    const struct tensor tensors[] = {a->grad_q, a->grad_k, a->grad_v, a->grad_out,
                                     a->out,    a->q,      a->k,      a->v};
    for (size_t i = 0; i < sizeof tensors / sizeof tensors[0]; i++)
        if (tensors[i].dtype != DTYPE_F32) {
            ref_attention_backward(device, a);
            return;
        }
    struct backward_job job = {.device = device, .a = a};
    cpu_run(device, a->sequences.count * a->kv_heads, backward_task, &job);
}
