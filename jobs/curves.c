// SPDX-License-Identifier: Apache-2.0
#include "jobs/curves.h"

#include "base/arena.h"
#include "base/json.h"
#include "base/mem.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WIDTH = 800, HEIGHT = 400, LEFT = 60, RIGHT = 50, TOP = 40, BOTTOM = 40 };

// What an attempt did after a checkpoint is done again by the next one.
static void curve_add(struct curve *curve, double step, double value)
{
    while (curve->count > 0 && curve->points[curve->count - 1].step >= step)
        curve->count--;
    curve->points =
        mem_grow(curve->points, &curve->capacity, curve->count + 1, sizeof(*curve->points));
    curve->points[curve->count++] = (struct curve_point){step, value};
}

static bool number_of(const struct json *object, const char *key, double *out)
{
    const struct json *value = json_get(object, key);
    if (!value || value->type != JSON_NUMBER || !isfinite(value->number))
        return false;
    *out = value->number;
    return true;
}

static void parse_line(const struct json *line, struct curves *out)
{
    double step, value;
    if (line->type != JSON_OBJECT || !number_of(line, "step", &step))
        return;
    if (number_of(line, "loss", &value))
        curve_add(&out->loss, step, value);
    if (number_of(line, "held_out_loss", &value))
        curve_add(&out->held_out_loss, step, value);
    if (number_of(line, "held_out_exact", &value))
        curve_add(&out->held_out_exact, step, value);
    if (number_of(line, "held_out_f1", &value))
        curve_add(&out->held_out_f1, step, value);
}

int curves_parse(const char *text, size_t length, struct curves *out, struct error *err)
{
    *out = (struct curves){.loss = {.name = "loss"},
                           .held_out_loss = {.name = "held-out loss"},
                           .held_out_exact = {.name = "held-out exact match"},
                           .held_out_f1 = {.name = "held-out token F1"}};
    size_t number = 1;
    for (const char *end, *at = text; (end = memchr(at, '\n', length - (size_t)(at - text)));
         at = end + 1, number++) {
        struct arena arena = {0};
        const struct json *line;
        const int rc = json_parse(&arena, at, (size_t)(end - at), &line, err);
        if (rc == 0)
            parse_line(line, out);
        arena_release(&arena);
        if (rc != 0) {
            curves_release(out);
            return error_prefix(err, "line %zu", number);
        }
    }
    return 0;
}

void curves_release(struct curves *curves)
{
    free(curves->loss.points);
    free(curves->held_out_loss.points);
    free(curves->held_out_exact.points);
    free(curves->held_out_f1.points);
    *curves = (struct curves){0};
}

struct frame {
    double first, last; // steps
    double low, high;   // values
};

static void widen(struct frame *frame, const struct curve *curve)
{
    for (size_t i = 0; i < curve->count; i++) {
        frame->low = fmin(frame->low, curve->points[i].value);
        frame->high = fmax(frame->high, curve->points[i].value);
        frame->first = fmin(frame->first, curve->points[i].step);
        frame->last = fmax(frame->last, curve->points[i].step);
    }
}

// From 0 to a little above the highest value; never empty.
static struct frame frame_of(const struct curves *curves)
{
    struct frame frame = {.first = INFINITY, .last = -INFINITY};
    widen(&frame, &curves->loss);
    widen(&frame, &curves->held_out_loss);
    if (frame.high <= frame.low)
        frame.high = frame.low + 1;
    if (frame.last <= frame.first)
        frame.last = frame.first + 1;
    return frame;
}

// Of the same steps.
static struct frame share_frame(const struct frame *frame)
{
    return (struct frame){frame->first, frame->last, 0, 1};
}

static int scale(double value, double low, double high, int size)
{
    const int at = (int)((value - low) / (high - low) * size);
    return at < 0 ? 0 : at >= size ? size - 1 : at;
}

static void draw(char *cells, int columns, int rows, const struct frame *frame,
                 const struct curve *curve, char mark)
{
    for (size_t i = 0; i < curve->count; i++) {
        const int x = scale(curve->points[i].step, frame->first, frame->last, columns);
        const int y = scale(curve->points[i].value, frame->low, frame->high, rows);
        cells[(rows - 1 - y) * columns + x] = mark;
    }
}

// The cells between the axes, and these. percent: values are shares.
static void plot_frame(const char *cells, int columns, int rows, const struct frame *frame,
                       bool percent, struct strbuf *out)
{
    for (int row = 0; row < rows; row++) {
        int length = columns;
        while (length > 0 && cells[row * columns + length - 1] == ' ')
            length--;
        const double value = row == 0 ? frame->high : frame->low;
        if (row > 0 && row < rows - 1)
            strbuf_addf(out, "%8s", "");
        else if (percent)
            strbuf_addf(out, "%7.0f%%", 100 * value);
        else
            strbuf_addf(out, "%8.3f", value);
        strbuf_addf(out, " |%.*s\n", length, cells + row * columns);
    }
    strbuf_addf(out, "%8s +", "");
    for (int column = 0; column < columns; column++)
        strbuf_addc(out, '-');
    strbuf_addf(out, "\n%9s step %.0f%*.0f\n", "", frame->first, columns - 8, frame->last);
}

// Two curves; the second is drawn over the first.
static void plot(const struct curve *first, char first_mark, const struct curve *second,
                 char second_mark, const struct frame *frame, bool percent, int columns, int rows,
                 struct strbuf *out)
{
    char *cells = mem_alloc((size_t)(columns * rows));
    memset(cells, ' ', (size_t)(columns * rows));
    draw(cells, columns, rows, frame, first, first_mark);
    draw(cells, columns, rows, frame, second, second_mark);
    plot_frame(cells, columns, rows, frame, percent, out);
    free(cells);
}

void curves_plot(const struct curves *curves, int columns, int rows, struct strbuf *out)
{
    if (curves->loss.count == 0) {
        strbuf_adds(out, "no loss was recorded yet\n");
        return;
    }
    const struct frame frame = frame_of(curves), shares = share_frame(&frame);
    plot(&curves->loss, '*', &curves->held_out_loss, 'o', &frame, false, columns, rows, out);
    if (curves->held_out_exact.count == 0)
        return;
    strbuf_adds(out, "held-out answers: e exact, f F1 of words\n");
    plot(&curves->held_out_f1, 'f', &curves->held_out_exact, 'e', &shares, true, columns, rows,
         out);
}

static double picture_x(const struct frame *frame, double step)
{
    return LEFT + (step - frame->first) / (frame->last - frame->first) * (WIDTH - LEFT - RIGHT);
}

static double picture_y(const struct frame *frame, double value)
{
    return HEIGHT - BOTTOM -
           (value - frame->low) / (frame->high - frame->low) * (HEIGHT - TOP - BOTTOM);
}

static void picture_curve(const struct curve *curve, const struct frame *frame, const char *color,
                          struct strbuf *out)
{
    if (curve->count == 0)
        return;
    strbuf_addf(out, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"1.5\" points=\"", color);
    for (size_t i = 0; i < curve->count; i++)
        strbuf_addf(out, "%s%.1f,%.1f", i == 0 ? "" : " ", picture_x(frame, curve->points[i].step),
                    picture_y(frame, curve->points[i].value));
    strbuf_addf(out, "\"><title>%s</title></polyline>\n", curve->name);
}

static void picture_text(struct strbuf *out, double x, double y, const char *anchor,
                         const char *text)
{
    strbuf_addf(out, "<text x=\"%.0f\" y=\"%.0f\" text-anchor=\"%s\">", x, y, anchor);
    for (const char *c = text; *c; c++) {
        if (*c == '<')
            strbuf_adds(out, "&lt;");
        else if (*c == '&')
            strbuf_adds(out, "&amp;");
        else
            strbuf_addc(out, *c);
    }
    strbuf_adds(out, "</text>\n");
}

enum { MARKS = 5 };

static void picture_legend(const struct curves *curves, struct strbuf *out)
{
    const struct {
        const struct curve *curve;
        const char *color;
    } entries[] = {{&curves->loss, "#06c"},
                   {&curves->held_out_loss, "#c40"},
                   {&curves->held_out_exact, "#080"},
                   {&curves->held_out_f1, "#8b6"}};
    double x = LEFT;
    for (size_t i = 0; i < sizeof(entries) / sizeof(*entries); i++) {
        if (entries[i].curve->count == 0)
            continue;
        strbuf_addf(out, "<path stroke=\"%s\" stroke-width=\"3\" d=\"M%.0f %dh16\"/>\n",
                    entries[i].color, x, TOP - 6);
        picture_text(out, x + 20, TOP - 2, "start", entries[i].curve->name);
        x += 40 + 7 * (double)strlen(entries[i].curve->name);
    }
}

static void picture_axes(const struct frame *frame, struct strbuf *out)
{
    char text[32];
    for (int i = 0; i < MARKS; i++) {
        const double share = (double)i / (MARKS - 1);
        const double value = frame->low + share * (frame->high - frame->low);
        const double step = frame->first + share * (frame->last - frame->first);
        const double y = picture_y(frame, value);
        strbuf_addf(out, "<path stroke=\"#ddd\" d=\"M%d %.1fH%d\"/>\n", LEFT, y, WIDTH - RIGHT);
        snprintf(text, sizeof(text), "%.3g", value);
        picture_text(out, LEFT - 8, y + 4, "end", text);
        snprintf(text, sizeof(text), "%.0f", step);
        picture_text(out, picture_x(frame, step), HEIGHT - BOTTOM + 20, "middle", text);
    }
}

static void picture_share_axis(const struct frame *frame, struct strbuf *out)
{
    char text[32];
    for (int i = 0; i < MARKS; i++) {
        const double share = (double)i / (MARKS - 1);
        snprintf(text, sizeof(text), "%.0f%%", 100 * share);
        picture_text(out, WIDTH - RIGHT + 8, picture_y(frame, share) + 4, "start", text);
    }
}

void curves_svg(const struct curves *curves, const char *title, struct strbuf *out)
{
    strbuf_addf(out,
                "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" "
                "font-family=\"sans-serif\" font-size=\"12\">\n"
                "<rect width=\"%d\" height=\"%d\" fill=\"#fff\"/>\n",
                WIDTH, HEIGHT, WIDTH, HEIGHT);
    picture_text(out, LEFT, TOP - 22, "start", title);
    if (curves->loss.count > 0) {
        const struct frame frame = frame_of(curves), shares = share_frame(&frame);
        picture_axes(&frame, out);
        picture_curve(&curves->loss, &frame, "#06c", out);
        picture_curve(&curves->held_out_loss, &frame, "#c40", out);
        if (curves->held_out_exact.count > 0)
            picture_share_axis(&shares, out);
        picture_curve(&curves->held_out_exact, &shares, "#080", out);
        picture_curve(&curves->held_out_f1, &shares, "#8b6", out);
        picture_legend(curves, out);
    }
    strbuf_adds(out, "</svg>\n");
}

static struct frame frame_of_one(const struct curve *curve)
{
    struct frame frame = {.first = INFINITY, .last = -INFINITY};
    widen(&frame, curve);
    frame.high = frame.high > 0 ? frame.high * 1.0001 : 1; // the highest point is inside
    if (frame.last <= frame.first)
        frame.last = frame.first + 1;
    return frame;
}

void curve_plot(const struct curve *curve, const char *x_name, int columns, int rows,
                struct strbuf *out)
{
    if (curve->count == 0) {
        strbuf_addf(out, "no %s were recorded yet\n", curve->name);
        return;
    }
    const struct frame frame = frame_of_one(curve);
    char *cells = mem_alloc((size_t)(columns * rows));
    memset(cells, ' ', (size_t)(columns * rows));
    draw(cells, columns, rows, &frame, curve, '*');
    strbuf_addf(out, "%s\n", curve->name);
    for (int row = 0; row < rows; row++) {
        int length = columns;
        while (length > 0 && cells[row * columns + length - 1] == ' ')
            length--;
        if (row == 0 || row == rows - 1)
            strbuf_addf(out, "%9.4g |%.*s\n", row == 0 ? frame.high : frame.low, length,
                        cells + row * columns);
        else
            strbuf_addf(out, "%9s |%.*s\n", "", length, cells + row * columns);
    }
    strbuf_addf(out, "%9s +%.*s\n%10s %s %.0f%*.0f\n", "", columns,
                "--------------------------------------------------------------------------------",
                "", x_name, frame.first, columns - (int)strlen(x_name) - 3, frame.last);
    free(cells);
}
