// SPDX-License-Identifier: Apache-2.0
#include "worker/merge/reference.h"

#include "base/mem.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct reference {
    const struct merge_parameters *p;
    size_t rows, columns, count;
    const float *base;
    const float *const *x;
    double **kept; // [vectors][count] what is left of each vector
};

struct ranked {
    float magnitude;
    size_t index;
};

// Largest first; equal ones by lowest index.
static int compare_descending(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->magnitude != y->magnitude)
        return x->magnitude < y->magnitude ? 1 : -1;
    return (x->index > y->index) - (x->index < y->index);
}

static int compare_ascending(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->magnitude != y->magnitude)
        return x->magnitude < y->magnitude ? -1 : 1;
    return (x->index > y->index) - (x->index < y->index);
}

static struct ranked *rank(const float *x, size_t count, int (*compare)(const void *, const void *))
{
    struct ranked *ranked = mem_calloc(count + 1, sizeof(*ranked));
    for (size_t i = 0; i < count; i++)
        ranked[i] = (struct ranked){fabsf(x[i]), i};
    qsort(ranked, count, sizeof(*ranked), compare);
    return ranked;
}

// Places [first, first + keep) of the order by magnitude stay.
static void keep_places(double *kept, const float *x, size_t count, uint64_t first, uint64_t keep)
{
    struct ranked *ranked = rank(x, count, compare_descending);
    for (uint64_t i = first; i < first + keep; i++)
        kept[ranked[i].index] = (double)x[ranked[i].index];
    free(ranked);
}

static void keep_random(const struct reference *r, size_t k)
{
    for (size_t i = 0; i < r->count; i++) {
        const double p = r->p->density[k];
        if (merge_uniform(r->p->seed, r->p->streams[k], i) < p)
            r->kept[k][i] =
                r->p->rescale == RESCALE_DENSITY ? (double)r->x[k][i] / p : (double)r->x[k][i];
    }
}

static void keep_ranked(const struct reference *r, size_t k)
{
    for (size_t row = 0; row < r->rows; row++) {
        const size_t begin = row * r->columns;
        struct ranked *ranked = rank(r->x[k] + begin, r->columns, compare_ascending);
        for (size_t place = 0; place < r->columns; place++) {
            const size_t i = begin + ranked[place].index;
            const double p =
                merge_ranked_probability(r->p->density[k], r->p->epsilon[k], place, r->columns);
            if (merge_uniform(r->p->seed, r->p->streams[k], i) < p)
                r->kept[k][i] =
                    r->p->rescale == RESCALE_DENSITY ? (double)r->x[k][i] / p : (double)r->x[k][i];
        }
        free(ranked);
    }
}

// Restores the sum of magnitudes, unless one of the sums is next to nothing.
static void rescale_l1(const struct reference *r, size_t k)
{
    double before = 0, after = 0;
    for (size_t i = 0; i < r->count; i++) {
        before += fabs((double)r->x[k][i]);
        after += fabs(r->kept[k][i]);
    }
    for (size_t i = 0; before >= 1e-7 && after >= 1e-7 && i < r->count; i++)
        r->kept[k][i] *= before / after;
}

static void sparsify(const struct reference *r, size_t k)
{
    const double density = r->p->density[k];
    uint64_t dropped = 0, keep = merge_kept_count(density, r->count);
    switch (merge_traits(r->p->method)->sparsify) {
    case SPARSIFY_NONE:
        for (size_t i = 0; i < r->count; i++)
            r->kept[k][i] = (double)r->x[k][i];
        return;
    case SPARSIFY_OUTLIERS:
        merge_kept_behind(density, r->p->gamma[k], r->count, &dropped, &keep);
        keep_places(r->kept[k], r->x[k], r->count, dropped, keep);
        break;
    case SPARSIFY_TRIM:
        keep_places(r->kept[k], r->x[k], r->count, 0, keep);
        break;
    case SPARSIFY_RANDOM:
        keep_random(r, k);
        break;
    case SPARSIFY_RANKED:
        keep_ranked(r, k);
        break;
    }
    if (r->p->rescale == RESCALE_L1 && density < 1)
        rescale_l1(r, k);
}

static int sign(double x)
{
    return (x > 0) - (x < 0);
}

static void add_up(const struct reference *r, double *out, const double *weight, double lambda)
{
    const struct merge_traits *traits = merge_traits(r->p->method);
    for (size_t i = 0; i < r->count; i++) {
        double total = 0, sum = 0, divisor = 0;
        const double elector = r->p->method == MERGE_SCE ? 0 : 1; // sce elects without weights
        for (size_t k = 0; k < r->p->vectors; k++)
            total += (elector != 0 ? weight[k] : 1) * r->kept[k][i];
        for (size_t k = 0; k < r->p->vectors; k++) {
            const double part = weight[k] * r->kept[k][i];
            const double vote = elector != 0 ? part : r->kept[k][i];
            if (traits->elects && (vote == 0 || sign(vote) != sign(total)))
                continue;
            sum += part;
            divisor += weight[k];
        }
        if (r->p->normalize && divisor != 0)
            sum /= divisor;
        out[i] = (r->base ? (double)r->base[i] : 0) + lambda * sum;
    }
}

static void merge_sum(const struct reference *r, double *out)
{
    for (size_t k = 0; k < r->p->vectors; k++)
        sparsify(r, k);
    add_up(r, out, r->p->weight, r->p->method == MERGE_LINEAR ? 1 : r->p->lambda);
}

static void merge_sce(const struct reference *r, double *out)
{
    const size_t vectors = r->p->vectors;
    float *deviation = mem_calloc(r->count + 1, sizeof(*deviation));
    double *keep = mem_calloc(r->count + 1, sizeof(*keep));
    double *weight = mem_calloc(vectors, sizeof(*weight)), total = 0;
    uint64_t varying = 0;
    for (size_t i = 0; i < r->count; i++) {
        double mean = 0, variance = 0;
        for (size_t k = 0; k < vectors; k++)
            mean += (double)r->x[k][i] / (double)vectors;
        for (size_t k = 0; k < vectors; k++)
            variance += ((double)r->x[k][i] - mean) * ((double)r->x[k][i] - mean);
        deviation[i] = (float)sqrt(variance / (double)vectors);
        varying += deviation[i] != 0;
        keep[i] = r->p->select_topk >= 1;
    }
    if (r->p->select_topk < 1) {
        keep_places(keep, deviation, r->count, 0, (uint64_t)(r->p->select_topk * (double)varying));
        for (size_t i = 0; i < r->count; i++)
            keep[i] = keep[i] != 0;
    }
    for (size_t k = 0; k < vectors; k++) {
        for (size_t i = 0; i < r->count; i++) {
            r->kept[k][i] = keep[i] != 0 ? (double)r->x[k][i] : 0;
            weight[k] += r->kept[k][i] * r->kept[k][i];
        }
        total += weight[k];
    }
    for (size_t k = 0; k < vectors; k++)
        weight[k] = total > 0 ? weight[k] / total : 1.0 / (double)vectors;
    add_up(r, out, weight, r->p->lambda);
    free(weight);
    free(keep);
    free(deviation);
}

// A group of elements that have one angle: `count` of them, `stride` apart.
struct group_of {
    size_t begin, count, stride;
};

static double dot(const struct group_of *g, const float *a, const float *b)
{
    double sum = 0;
    for (size_t i = 0; i < g->count; i++)
        sum += (double)a[g->begin + i * g->stride] * (double)b[g->begin + i * g->stride];
    return sum;
}

static double clamp_cosine(double x)
{
    return x > 1 ? 1 : x < -1 ? -1 : x;
}

// From x[0] to x[1]; straight where the sine of the angle is at most `straight`.
static void great_circle(const struct reference *r, const struct group_of *g, double *out,
                         bool by_cosine)
{
    const float *a = r->x[0], *b = r->x[1];
    const double total = r->p->weight[0] + r->p->weight[1];
    const double t = fabs(total) < 1e-6 ? 0.5 : r->p->weight[1] / total;
    const double norms = sqrt(dot(g, a, a)) * sqrt(dot(g, b, b));
    const double cosine = norms > 0 ? clamp_cosine(dot(g, a, b) / norms) : 0;
    const bool straight = by_cosine ? fabs(cosine) > 0.9995 : 1 - cosine * cosine <= 1e-16;
    const double angle = acos(cosine);
    const double ca = straight ? 1 - t : sin((1 - t) * angle) / sin(angle);
    const double cb = straight ? t : sin(t * angle) / sin(angle);
    for (size_t i = 0; i < g->count; i++) {
        const size_t at = g->begin + i * g->stride;
        out[at] = ca * (double)a[at] + cb * (double)b[at];
    }
}

static void model_stock(const struct reference *r, const struct group_of *g, double *out)
{
    const size_t vectors = r->p->vectors;
    double cosine = 0, pairs = 0;
    for (size_t j = 0; j < vectors; j++) {
        for (size_t k = j + 1; k < vectors; k++) {
            const double norms = sqrt(dot(g, r->x[j], r->x[j])) * sqrt(dot(g, r->x[k], r->x[k]));
            cosine += norms > 0 ? clamp_cosine(dot(g, r->x[j], r->x[k]) / norms) : 0;
            pairs++;
        }
    }
    cosine /= pairs;
    const double divisor = 1 + ((double)vectors - 1) * cosine;
    const double t = fabs(divisor) < 1e-6 ? 0 : (double)vectors * cosine / divisor;
    for (size_t i = 0; i < g->count; i++) {
        const size_t at = g->begin + i * g->stride;
        for (size_t k = 0; k < vectors; k++)
            out[at] += t / (double)vectors * (double)r->x[k][at];
    }
}

static double norm_of(const double *x, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += x[i] * x[i];
    return sqrt(sum);
}

// units[k] = x_k / |x_k| (0 when it is 0), lengths[k] = |x_k|.
static double **make_units(const struct reference *r, double *lengths)
{
    double **units = mem_calloc(r->p->vectors, sizeof(*units));
    for (size_t k = 0; k < r->p->vectors; k++) {
        units[k] = mem_calloc(r->count + 1, sizeof(*units[k]));
        for (size_t i = 0; i < r->count; i++)
            units[k][i] = (double)r->x[k][i];
        lengths[k] = norm_of(units[k], r->count);
        for (size_t i = 0; lengths[k] > 0 && i < r->count; i++)
            units[k][i] /= lengths[k];
    }
    return units;
}

static void free_units(double **units, size_t vectors)
{
    for (size_t k = 0; k < vectors; k++)
        free(units[k]);
    free(units);
}

static double dot_of(const double *a, const double *b, size_t count)
{
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += a[i] * b[i];
    return sum;
}

static void multislerp(const struct reference *r, double *out)
{
    const size_t n = r->count, vectors = r->p->vectors;
    double *lengths = mem_calloc(vectors, sizeof(*lengths)), total = 0, length = 0;
    double *mean = mem_calloc(n + 1, sizeof(*mean)), *tangent = mem_calloc(n + 1, sizeof(*tangent));
    double **units = make_units(r, lengths);
    for (size_t k = 0; k < vectors; k++)
        total += r->p->normalize ? r->p->weight[k] : 0;
    for (size_t k = 0; k < vectors; k++) {
        const double w = r->p->weight[k] / (r->p->normalize ? total : 1);
        length += w * lengths[k];
        for (size_t i = 0; i < n; i++)
            mean[i] += w * units[k][i];
    }
    const double size = norm_of(mean, n);
    for (size_t i = 0; size > 0 && i < n; i++)
        mean[i] /= size;
    for (size_t k = 0; k < vectors; k++) {
        const double w = r->p->weight[k] / (r->p->normalize ? total : 1);
        const double along = dot_of(units[k], mean, n);
        for (size_t i = 0; i < n; i++)
            tangent[i] += w * (units[k][i] - along * mean[i]);
    }
    const double g = norm_of(tangent, n);
    for (size_t i = 0; i < n; i++)
        out[i] = length * (mean[i] * cos(g) + (g > 0 ? tangent[i] * sin(g) / g : 0));
    free_units(units, vectors);
    free(lengths);
    free(tangent);
    free(mean);
}

static void karcher(const struct reference *r, double *out)
{
    const size_t n = r->count, vectors = r->p->vectors;
    double *lengths = mem_calloc(vectors, sizeof(*lengths)), valid = 0, total = 0, length = 0;
    double *mean = mem_calloc(n + 1, sizeof(*mean)), *tangent = mem_calloc(n + 1, sizeof(*tangent));
    double **units = make_units(r, lengths);
    size_t first = vectors;
    for (size_t k = vectors; k-- > 0;) {
        total += r->p->weight[k];
        valid += lengths[k] > r->p->tol ? r->p->weight[k] : 0;
        first = lengths[k] > r->p->tol ? k : first;
    }
    for (size_t k = 0; k < vectors; k++) {
        length += r->p->weight[k] / total * lengths[k];
        for (size_t i = 0; lengths[k] > r->p->tol && i < n; i++)
            mean[i] += r->p->weight[k] / valid * units[k][i];
    }
    double size = norm_of(mean, n);
    for (size_t i = 0; first < vectors && i < n; i++)
        mean[i] = size < r->p->tol ? units[first][i] : mean[i] / size;
    for (int64_t step = 0; first < vectors && step < r->p->max_iter; step++) {
        memset(tangent, 0, n * sizeof(*tangent));
        for (size_t k = 0; k < vectors; k++) {
            const double cosine = clamp_cosine(dot_of(mean, units[k], n)), angle = acos(cosine);
            const double c = r->p->weight[k] / valid * angle / sin(angle);
            for (size_t i = 0; lengths[k] > r->p->tol && angle >= r->p->tol && i < n; i++)
                tangent[i] += c * (units[k][i] - cosine * mean[i]);
        }
        const double g = norm_of(tangent, n);
        if (g < r->p->tol)
            break;
        for (size_t i = 0; i < n; i++)
            mean[i] = cos(g) * mean[i] + sin(g) / g * tangent[i];
        size = norm_of(mean, n);
        for (size_t i = 0; i < n; i++)
            mean[i] /= size;
    }
    for (size_t i = 0; i < n; i++)
        out[i] = length * mean[i];
    free_units(units, vectors);
    free(lengths);
    free(tangent);
    free(mean);
}

static void combine_groups(const struct reference *r, double *out)
{
    const enum merge_groups by = r->p->groups;
    const size_t groups = by == GROUP_TENSOR ? 1 : by == GROUP_ROW ? r->rows : r->columns;
    for (size_t j = 0; j < groups; j++) {
        struct group_of g = {0, r->count, 1};
        if (by == GROUP_ROW)
            g = (struct group_of){j * r->columns, r->columns, 1};
        if (by == GROUP_COLUMN)
            g = (struct group_of){j, r->rows, r->columns};
        if (r->p->method == MERGE_MODEL_STOCK)
            model_stock(r, &g, out);
        else
            great_circle(r, &g, out, r->p->method == MERGE_SLERP);
    }
}

static void merge_span(const struct reference *r, double *out)
{
    memset(out, 0, r->count * sizeof(*out));
    if (r->p->vectors == 1)
        for (size_t i = 0; i < r->count; i++)
            out[i] = (double)r->x[0][i];
    else if (r->p->method == MERGE_KARCHER)
        karcher(r, out);
    else if (r->p->method == MERGE_MULTISLERP)
        multislerp(r, out);
    else
        combine_groups(r, out);
    for (size_t i = 0; r->base && !merge_traits(r->p->method)->on_models && i < r->count; i++)
        out[i] += (double)r->base[i];
}

void merge_reference(const struct merge_parameters *parameters, size_t rows, size_t columns,
                     double *out, const float *base, const float *const *x)
{
    struct reference r = {.p = parameters,
                          .rows = rows,
                          .columns = columns,
                          .count = rows * columns,
                          .base = base,
                          .x = x};
    r.kept = mem_calloc(parameters->vectors, sizeof(*r.kept));
    for (size_t k = 0; k < parameters->vectors; k++)
        r.kept[k] = mem_calloc(r.count + 1, sizeof(*r.kept[k]));
    switch (merge_traits(parameters->method)->family) {
    case FAMILY_SUM:
        merge_sum(&r, out);
        break;
    case FAMILY_SCE:
        merge_sce(&r, out);
        break;
    case FAMILY_SPAN:
        merge_span(&r, out);
        break;
    }
    for (size_t k = 0; k < parameters->vectors; k++)
        free(r.kept[k]);
    free(r.kept);
}
