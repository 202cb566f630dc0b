// SPDX-License-Identifier: Apache-2.0
#include "worker/merge/vector_diff.h"

#include "base/mem.h"
#include "worker/merge/recipe.h"
#include "worker/merge/vector.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define PIECE 4096 // elements

double vector_cosine(const struct vector_relation *relation)
{
    const double norms = sqrt(relation->squares_a) * sqrt(relation->squares_b);
    return norms > 0 ? relation->products / norms : 0;
}

static void relate(struct vector_relation *out, const float *a, const float *b, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const double x = (double)a[i], y = (double)b[i];
        out->products += x * y;
        out->squares_a += x * x;
        out->squares_b += y * y;
        out->both += x != 0 && y != 0;
        out->conflicts += (x > 0 && y < 0) || (x < 0 && y > 0);
    }
    out->elements += count;
}

static void add_relation(struct vector_relation *out, const struct vector_relation *part)
{
    out->elements += part->elements;
    out->both += part->both;
    out->conflicts += part->conflicts;
    out->products += part->products;
    out->squares_a += part->squares_a;
    out->squares_b += part->squares_b;
}

static void relate_tensors(const struct vector_tensor *a, const struct vector_tensor *b,
                           struct vector_relation *out)
{
    const size_t count = vector_count(a);
    float x[PIECE], y[PIECE];
    for (size_t at = 0; at < count; at += PIECE) {
        const size_t length = count - at < PIECE ? count - at : PIECE;
        vector_read(a, at, length, x);
        vector_read(b, at, length, y);
        relate(out, x, y, length);
    }
}

static void relate_vectors(const struct vector *a, const struct vector *b, struct vector_diff *out)
{
    for (size_t i = 0; i < a->count; i++) {
        const int layer = merge_layer_of(a->tensors[i].entry.name);
        out->count = layer + 1 > (int)out->count ? (size_t)layer + 1 : out->count;
    }
    out->layers = mem_calloc(out->count + 1, sizeof(*out->layers));
    for (size_t i = 0; i < a->count; i++) {
        const int layer = merge_layer_of(a->tensors[i].entry.name);
        struct vector_relation part = {0};
        relate_tensors(&a->tensors[i], vector_find(b, a->tensors[i].entry.name), &part);
        add_relation(layer < 0 ? &out->outside : &out->layers[layer], &part);
        add_relation(&out->total, &part);
    }
}

int vector_diff(const char *a, const char *b, struct vector_diff *out, struct error *err)
{
    struct vector x = {0}, y = {0};
    *out = (struct vector_diff){0};
    int rc = vector_open(a, &x, err) || vector_open(b, &y, err) || vectors_match(&x, a, &y, b, err)
                 ? -1
                 : 0;
    if (rc == 0)
        relate_vectors(&x, &y, out);
    vector_close(&x);
    vector_close(&y);
    return rc;
}

void vector_diff_release(struct vector_diff *diff)
{
    free(diff->layers);
    *diff = (struct vector_diff){0};
}

#define LEFT 60
#define TOP 60
#define PLOT_HEIGHT 240
#define STEP 24 // pixels a layer

static double share(uint64_t part, uint64_t whole)
{
    return whole > 0 ? (double)part / (double)whole : 0;
}

// value in [low, high] as a height in the plot.
static double height(double value, double low, double high)
{
    return TOP + PLOT_HEIGHT * (high - value) / (high - low);
}

static void add_text(struct strbuf *out, double x, double y, const char *anchor, const char *text)
{
    strbuf_addf(out, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">", x, y, anchor);
    for (; *text; text++) {
        if (*text == '<' || *text == '&')
            strbuf_adds(out, *text == '<' ? "&lt;" : "&amp;");
        else
            strbuf_addc(out, *text);
    }
    strbuf_adds(out, "</text>\n");
}

static void add_axes(struct strbuf *out, double right)
{
    for (int i = -2; i <= 2; i++) {
        char label[16];
        const double y = height(i / 2.0, -1, 1);
        snprintf(label, sizeof(label), "%.1f", i / 2.0);
        strbuf_addf(out, "<line x1=\"%d\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/>\n",
                    LEFT, right, y, y);
        add_text(out, LEFT - 6, y + 4, "end", label);
    }
}

// A line over the layers through value(layer, argument).
static void add_line(struct strbuf *out, const struct vector_diff *diff, const char *color,
                     double (*value)(const struct vector_relation *, double), double argument)
{
    strbuf_addf(out, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\" points=\"", color);
    for (size_t layer = 0; layer < diff->count; layer++)
        strbuf_addf(out, "%.1f,%.1f ", LEFT + STEP * ((double)layer + 0.5),
                    height(value(&diff->layers[layer], argument), -1, 1));
    strbuf_adds(out, "\"/>\n");
}

static double conflict_share(const struct vector_relation *relation, double unused)
{
    (void)unused;
    return share(relation->conflicts, relation->both);
}

static double norm_a(const struct vector_relation *relation, double largest)
{
    return largest > 0 ? sqrt(relation->squares_a) / largest : 0;
}

static double norm_b(const struct vector_relation *relation, double largest)
{
    return largest > 0 ? sqrt(relation->squares_b) / largest : 0;
}

void vector_diff_draw(const struct vector_diff *diff, const char *a, const char *b,
                      struct strbuf *out)
{
    const double right = LEFT + STEP * (double)(diff->count > 0 ? diff->count : 1);
    double largest = 0;
    strbuf_addf(out,
                "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%d\" "
                "font-family=\"sans-serif\" font-size=\"11\">\n"
                "<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n",
                right + 240, TOP + PLOT_HEIGHT + 50);
    char *title = mem_printf("A = %s, B = %s", a, b);
    add_text(out, LEFT, 20, "start", title);
    free(title);
    add_axes(out, right);
    for (size_t layer = 0; layer < diff->count; layer++) {
        const struct vector_relation *relation = &diff->layers[layer];
        const double x = LEFT + STEP * (double)layer, y = height(vector_cosine(relation), -1, 1);
        const double zero = height(0, -1, 1);
        char label[24];
        snprintf(label, sizeof(label), "%zu", layer);
        strbuf_addf(out,
                    "<rect x=\"%.1f\" y=\"%.1f\" width=\"%d\" height=\"%.1f\" fill=\"#8ab\"/>\n",
                    x + 4, y < zero ? y : zero, STEP - 8, fabs(zero - y));
        add_text(out, x + STEP / 2.0, TOP + PLOT_HEIGHT + 16, "middle", label);
        largest = fmax(largest, sqrt(fmax(relation->squares_a, relation->squares_b)));
    }
    add_line(out, diff, "#c33", conflict_share, 0);
    add_line(out, diff, "#393", norm_a, largest);
    add_line(out, diff, "#939", norm_b, largest);
    static const char *const legend[] = {
        "cosine of A and B (bars)", "share of sign conflicts (red)", "norm of A / largest (green)",
        "norm of B / largest (purple)"};
    for (int i = 0; i < 4; i++)
        add_text(out, right + 10, TOP + 16 * (i + 1), "start", legend[i]);
    add_text(out, (LEFT + right) / 2, TOP + PLOT_HEIGHT + 36, "middle", "layer");
    strbuf_adds(out, "</svg>\n");
}
