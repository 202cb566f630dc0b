// SPDX-License-Identifier: Apache-2.0
// Methods whose result is a combination sum c_k x_k: angles, norms, geodesics and means on the
// sphere all follow from the products <x_i, x_j>. One pass computes those, then a few numbers of
// float64 give the coefficients, and a second pass combines.
#include "base/mem.h"
#include "worker/merge/clones.h"
#include "worker/merge/tensor_private.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

// Products are stored for i <= j.
static size_t place(size_t vectors, size_t i, size_t j)
{
    return i <= j ? i * vectors - i * (i + 1) / 2 + j : j * vectors - j * (j + 1) / 2 + i;
}

static double clamp_cosine(double x)
{
    return x > 1 ? 1 : x < -1 ? -1 : x;
}

static double norm_of(const double *products, size_t vectors, size_t k)
{
    return sqrt(products[place(vectors, k, k)]);
}

static double cosine_of(const double *products, size_t vectors, size_t i, size_t j)
{
    const double norms = norm_of(products, vectors, i) * norm_of(products, vectors, j);
    return norms > 0 ? clamp_cosine(products[place(vectors, i, j)] / norms) : 0;
}

static void great_circle(const struct merge_parameters *p, const double *products, double *c)
{
    const double total = p->weight[0] + p->weight[1];
    const double t = fabs(total) < 1e-6 ? 0.5 : p->weight[1] / total;
    const double cosine = cosine_of(products, 2, 0, 1), angle = acos(cosine);
    const bool straight =
        p->method == MERGE_SLERP ? fabs(cosine) > 0.9995 : 1 - cosine * cosine <= 1e-16;
    c[0] = straight ? 1 - t : sin((1 - t) * angle) / sin(angle);
    c[1] = straight ? t : sin(t * angle) / sin(angle);
}

static void stock(const struct merge_parameters *p, const double *products, double *c)
{
    const double vectors = (double)p->vectors;
    double cosine = 0;
    for (size_t i = 0; i < p->vectors; i++)
        for (size_t j = i + 1; j < p->vectors; j++)
            cosine += cosine_of(products, p->vectors, i, j);
    cosine /= vectors * (vectors - 1) / 2;
    const double divisor = 1 + (vectors - 1) * cosine;
    const double t = fabs(divisor) < 1e-6 ? 0 : vectors * cosine / divisor;
    for (size_t k = 0; k < p->vectors; k++)
        c[k] = t / vectors;
}

// Vectors below are coefficients over the units u_k = x_k / |x_k|; cosines [vectors * vectors].
struct units {
    size_t count;
    double *lengths, *cosines, *mean, *tangent, *along;
};

static void units_init(struct units *u, const double *products, size_t vectors)
{
    double *memory = mem_calloc(4 * vectors + vectors * vectors, sizeof(*memory));
    *u = (struct units){vectors,
                        memory,
                        memory + 4 * vectors,
                        memory + vectors,
                        memory + 2 * vectors,
                        memory + 3 * vectors};
    for (size_t i = 0; i < vectors; i++) {
        u->lengths[i] = norm_of(products, vectors, i);
        for (size_t j = 0; j < vectors; j++)
            u->cosines[i * vectors + j] = cosine_of(products, vectors, i, j);
    }
}

static double units_product(const struct units *u, size_t k, const double *a)
{
    double sum = 0;
    for (size_t j = 0; j < u->count; j++)
        sum += u->cosines[k * u->count + j] * a[j];
    return sum;
}

static double units_norm(const struct units *u, const double *a)
{
    double sum = 0;
    for (size_t k = 0; k < u->count; k++)
        sum += a[k] * units_product(u, k, a);
    return sum > 0 ? sqrt(sum) : 0;
}

static double sum_of(const double *x, size_t count)
{
    double sum = 0;
    for (size_t k = 0; k < count; k++)
        sum += x[k];
    return sum;
}

// m cos|g| + g sin|g| / |g|, times length, over x_k.
static void walk(const struct units *u, double length, double *c)
{
    const double g = units_norm(u, u->tangent);
    for (size_t k = 0; k < u->count; k++) {
        const double at = u->mean[k] * cos(g) + (g > 0 ? u->tangent[k] * sin(g) / g : 0);
        c[k] = u->lengths[k] > 0 ? length * at / u->lengths[k] : 0;
    }
}

static void barycentre(const struct merge_parameters *p, const double *products, double *c)
{
    struct units u;
    units_init(&u, products, p->vectors);
    const double total = p->normalize ? sum_of(p->weight, p->vectors) : 1;
    double length = 0, along = 0;
    for (size_t k = 0; k < p->vectors; k++) {
        u.mean[k] = p->weight[k] / total;
        length += u.mean[k] * u.lengths[k];
    }
    const double size = units_norm(&u, u.mean);
    for (size_t k = 0; k < p->vectors; k++)
        u.mean[k] /= size > 0 ? size : 1;
    for (size_t k = 0; k < p->vectors; k++)
        along += p->weight[k] / total * units_product(&u, k, u.mean);
    for (size_t k = 0; k < p->vectors; k++)
        u.tangent[k] = p->weight[k] / total - along * u.mean[k];
    walk(&u, length, c);
    free(u.lengths);
}

// The gradient step of the Karcher mean; false when it is shorter than tol.
static bool karcher_step(const struct merge_parameters *p, struct units *u, double valid)
{
    double along = 0;
    for (size_t k = 0; k < u->count; k++) {
        const double cosine = clamp_cosine(units_product(u, k, u->mean)), angle = acos(cosine);
        const bool counts = u->lengths[k] > p->tol && angle >= p->tol;
        u->tangent[k] = counts ? p->weight[k] / valid * angle / sin(angle) : 0;
        along += u->tangent[k] * cosine;
    }
    for (size_t k = 0; k < u->count; k++)
        u->tangent[k] -= along * u->mean[k];
    const double g = units_norm(u, u->tangent);
    if (g < p->tol)
        return false;
    for (size_t k = 0; k < u->count; k++)
        u->mean[k] = cos(g) * u->mean[k] + sin(g) / g * u->tangent[k];
    const double size = units_norm(u, u->mean);
    for (size_t k = 0; k < u->count; k++)
        u->mean[k] /= size;
    return true;
}

static void karcher(const struct merge_parameters *p, const double *products, double *c)
{
    struct units u;
    units_init(&u, products, p->vectors);
    const double total = sum_of(p->weight, p->vectors);
    double valid = 0, length = 0;
    size_t first = p->vectors;
    for (size_t k = p->vectors; k-- > 0;) {
        valid += u.lengths[k] > p->tol ? p->weight[k] : 0;
        first = u.lengths[k] > p->tol ? k : first;
    }
    for (size_t k = 0; k < p->vectors; k++) {
        length += p->weight[k] / total * u.lengths[k];
        u.mean[k] = u.lengths[k] > p->tol ? p->weight[k] / valid : 0;
    }
    const double size = units_norm(&u, u.mean);
    for (size_t k = 0; k < p->vectors && first < p->vectors; k++)
        u.mean[k] = size < p->tol ? k == first : u.mean[k] / size;
    for (int64_t step = 0; first < p->vectors && step < p->max_iter; step++)
        if (!karcher_step(p, &u, valid))
            break;
    memset(u.tangent, 0, p->vectors * sizeof(*u.tangent));
    walk(&u, length, c);
    free(u.lengths);
}

static void find_coefficients(const struct merge_parameters *p, const double *products, double *c)
{
    if (p->vectors == 1)
        c[0] = 1;
    else if (p->method == MERGE_KARCHER)
        karcher(p, products, c);
    else if (p->method == MERGE_MULTISLERP)
        barycentre(p, products, c);
    else if (p->method == MERGE_MODEL_STOCK)
        stock(p, products, c);
    else
        great_circle(p, products, c);
}

static double product(const float *a, const float *b, size_t count)
{
    double lanes[8] = {0}, sum = 0;
    size_t i = 0;
    for (; i + 8 <= count; i += 8)
        for (size_t lane = 0; lane < 8; lane++)
            lanes[lane] += (double)a[i + lane] * (double)b[i + lane];
    for (; i < count; i++)
        sum += (double)a[i] * (double)b[i];
    for (size_t lane = 0; lane < 8; lane++)
        sum += lanes[lane];
    return sum;
}

static void add_products(const struct pass *pass, struct scratch *s, size_t begin, size_t count,
                         double *out)
{
    const size_t vectors = pass->p->vectors;
    for (size_t i = 0; i < vectors; i++)
        for (size_t j = i; j < vectors; j++)
            out[place(vectors, i, j)] = product(s->x[i] + begin, s->x[j] + begin, count);
}

static void product_block(void *argument, size_t task, int thread)
{
    struct pass *pass = argument;
    struct scratch *s = &pass->engine->scratch[thread];
    const struct extent e = pass_extent(pass, task);
    pass_load_all(pass, s, e);
    add_products(pass, s, 0, e.count, pass->partial + e.index * pass->sums);
}

#define STRIP 512 // columns that one task sums over all rows; three sums of each fit a block

// Two vectors: products of 512 columns, row after row.
static void column_strip(void *argument, size_t task, int thread)
{
    struct pass *pass = argument;
    struct scratch *s = &pass->engine->scratch[thread];
    const size_t columns = pass->tensor->columns, first = task * STRIP;
    const size_t count = columns - first < STRIP ? columns - first : STRIP;
    double *sums = (double *)s->keys[0], *aa = sums, *ab = sums + STRIP, *bb = sums + 2 * STRIP;
    memset(sums, 0, 3 * STRIP * sizeof(*sums));
    for (size_t row = 0; row < pass->tensor->rows; row++) {
        pass_load_all(pass, s, (struct extent){row * columns + first, count, 0});
        const float *a = s->x[0], *b = s->x[1];
        for (size_t i = 0; i < count; i++) {
            aa[i] += (double)a[i] * (double)a[i];
            ab[i] += (double)a[i] * (double)b[i];
            bb[i] += (double)b[i] * (double)b[i];
        }
    }
    for (size_t i = 0; i < count; i++)
        find_coefficients(pass->p, (double[]){aa[i], ab[i], bb[i]},
                          pass->coefficients + 2 * (first + i));
}

void span_prepare(struct pass *pass)
{
    const struct merge_tensor *tensor = pass->tensor;
    if (pass->count == 0 || pass->p->groups == GROUP_ROW)
        return;
    if (pass->p->groups == GROUP_COLUMN) {
        pool_run(pass->engine->pool, (tensor->columns + STRIP - 1) / STRIP, column_strip, pass);
        if (tensor->release)
            tensor->release(tensor->context, 0, pass->count);
        return;
    }
    double *products = mem_calloc(pass->sums, sizeof(*products));
    pass_run(pass, product_block);
    pass_reduce(pass, products);
    find_coefficients(pass->p, products, pass->coefficients);
    free(products);
}

MERGE_CLONES static void add_scaled(double *out, const float *x, double c, size_t count)
{
    for (size_t i = 0; i < count; i++)
        out[i] += c * (double)x[i];
}

static void combine_rows(struct pass *pass, struct scratch *s, struct extent e)
{
    const size_t vectors = pass->p->vectors, columns = pass->tensor->columns;
    double *products = (double *)s->keys[0], *c = (double *)s->keys[1]; // not used otherwise
    for (size_t row = 0; row < e.count; row += columns) {
        add_products(pass, s, row, columns, products);
        find_coefficients(pass->p, products, c);
        for (size_t k = 0; k < vectors; k++)
            add_scaled(s->out + row, s->x[k] + row, c[k], columns);
    }
}

static void combine_columns(struct pass *pass, struct scratch *s, struct extent e)
{
    const float *a = s->x[0], *b = s->x[1];
    for (size_t i = 0; i < e.count; i++) {
        const double *c = pass->coefficients + 2 * ((e.begin + i) % pass->tensor->columns);
        s->out[i] = c[0] * (double)a[i] + c[1] * (double)b[i];
    }
}

void span_block(struct pass *pass, struct scratch *s, struct extent e)
{
    memset(s->out, 0, e.count * sizeof(*s->out));
    if (pass->p->groups == GROUP_ROW)
        combine_rows(pass, s, e);
    else if (pass->p->groups == GROUP_COLUMN)
        combine_columns(pass, s, e);
    else
        for (size_t k = 0; k < pass->p->vectors; k++)
            add_scaled(s->out, s->x[k], pass->coefficients[k], e.count);
}
