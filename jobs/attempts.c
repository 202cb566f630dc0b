// SPDX-License-Identifier: Apache-2.0
#include "jobs/attempts.h"

#include "base/arena.h"
#include "base/clock.h"
#include "base/json.h"
#include "base/mem.h"
#include "jobs/curves.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define SHOWN_REASONS 3  // of drops and of tasks set aside
#define SKEW_SECONDS 5.0 // a file from the future by more tells of different clocks

static double number(const struct json *object, const char *key)
{
    const struct json *value = json_get(object, key);
    return value && value->type == JSON_NUMBER ? value->number : NAN;
}

static const char *text(const struct json *object, const char *key)
{
    const struct json *value = json_get(object, key);
    return value && value->type == JSON_STRING ? value->string : "?";
}

static bool is_running(const struct json *root, double now_unix)
{
    const char *state = text(root, "state");
    const bool alive = strcmp(state, "running") == 0 || strcmp(state, "stopping") == 0;
    return alive && !(now_unix - number(root, "updated_unix") > ATTEMPT_SILENT_SECONDS);
}

static int parse(const struct strbuf *bytes, struct arena *arena, const struct json **root,
                 struct error *err)
{
    if (json_parse(arena, bytes->bytes ? bytes->bytes : "", bytes->length, root, err))
        return -1;
    return strcmp(text(*root, "format"), "memo status 1") == 0
               ? 0
               : error_set(err, "not a status that this version of memo reads");
}

static int read_one(struct fs *fs, const char *directory, const char *name, struct attempts *out,
                    struct error *err)
{
    struct strbuf *bytes = &out->texts[out->count];
    struct arena arena = {0};
    const struct json *root;
    char *path = fs_join(directory, name);
    int rc = fs_read(fs, path, bytes, err);
    out->count++;
    if (rc == 0 && parse(bytes, &arena, &root, err))
        rc = error_prefix(err, "'%s'", path);
    if (rc == 0)
        out->running = out->running || is_running(root, (double)time(NULL));
    arena_release(&arena);
    free(path);
    return rc;
}

static bool has_suffix(const char *name, const char *suffix)
{
    const size_t length = strlen(name), end = strlen(suffix);
    return length > end && strcmp(name + length - end, suffix) == 0;
}

int attempts_read(struct fs *fs, const char *run, struct attempts *out, struct error *err)
{
    struct fs_names names = {0};
    char *directory = fs_join(run, "attempts");
    *out = (struct attempts){0};
    int rc = fs_exists(fs, directory) ? fs_list(fs, directory, &names, err) : 0;
    out->texts = mem_calloc(names.count + 1, sizeof(*out->texts));
    for (size_t i = 0; i < names.count && rc == 0; i++) {
        if (has_suffix(names.names[i], ".json"))
            rc = read_one(fs, directory, names.names[i], out, err);
    }
    if (rc != 0)
        attempts_release(out);
    fs_names_release(&names);
    free(directory);
    return rc;
}

void attempts_release(struct attempts *attempts)
{
    for (size_t i = 0; i < attempts->count; i++)
        strbuf_release(&attempts->texts[i]);
    free(attempts->texts);
    *attempts = (struct attempts){0};
}

static void add_duration(struct strbuf *out, double seconds)
{
    char duration[32];
    clock_format_duration(seconds, duration, sizeof(duration));
    strbuf_adds(out, duration);
}

static void print_heard(const struct json *root, double now_unix, struct strbuf *out)
{
    const double age = now_unix - number(root, "updated_unix");
    const bool alive = is_running(root, now_unix);
    strbuf_addf(out, "  %s on %s: %s", text(root, "attempt"), text(root, "host"),
                text(root, "state"));
    if (age < -SKEW_SECONDS) {
        strbuf_adds(out, ", heard of in the future: clocks differ by ");
        add_duration(out, -age);
    } else {
        strbuf_adds(out, ", heard of ");
        add_duration(out, fmax(age, 0));
        strbuf_adds(out, " ago");
    }
    if (!alive && strcmp(text(root, "state"), "running") == 0)
        strbuf_adds(out, "; it has been killed or is stuck: the same command continues");
    strbuf_addc(out, '\n');
}

static void print_tasks(const struct json *root, struct strbuf *out)
{
    const struct json *tasks = json_get(root, "tasks"), *workers = json_get(root, "workers");
    const double finished = number(tasks, "done") + number(tasks, "set_aside");
    strbuf_addf(out, "    %.0f of %.0f tasks", finished, number(tasks, "total"));
    if (number(tasks, "total") > 0)
        strbuf_addf(out, " (%.1f%%)", 100 * finished / number(tasks, "total"));
    strbuf_addf(out, ", %.0f set aside, %.0f retries, %.0f new pairs; ", number(tasks, "set_aside"),
                number(tasks, "retries"), number(root, "pairs"));
    if (isfinite(number(root, "tokens_per_second")))
        strbuf_addf(out, "%.0f tokens/s, ", number(root, "tokens_per_second"));
    strbuf_addf(out, "%.0f of %.0f workers", number(workers, "present"),
                number(workers, "expected"));
    if (number(workers, "silent") + number(workers, "failed") > 0)
        strbuf_addf(out, " (%.0f silent, %.0f failed)", number(workers, "silent"),
                    number(workers, "failed"));
    strbuf_addc(out, '\n');
}

static void print_hours(const struct json *root, struct strbuf *out)
{
    const struct json *hours = json_get(root, "gpu_hours");
    const double forecast = number(hours, "forecast"), quote = number(hours, "quote");
    strbuf_addf(out, "    %.4g GPU-hours spent", number(hours, "spent") + number(hours, "earlier"));
    if (isfinite(forecast))
        strbuf_addf(out, ", %.4g forecast", forecast);
    if (isfinite(quote) && quote > 0)
        strbuf_addf(out, ", %.4g quoted (%+.0f%%)", quote, 100 * (forecast / quote - 1));
    if (isfinite(number(hours, "limit")))
        strbuf_addf(out, ", limit %.4g", number(hours, "limit"));
    if (isfinite(number(root, "remaining_seconds"))) {
        strbuf_adds(out, "; left ");
        add_duration(out, number(root, "remaining_seconds"));
    }
    strbuf_addc(out, '\n');
}

static void print_reasons(const struct json *root, const char *list, const char *count,
                          const char *what, struct strbuf *out)
{
    const struct json *reasons = json_get(root, list);
    if (!reasons || reasons->type != JSON_ARRAY || reasons->length == 0)
        return;
    strbuf_addf(out, "    %s: ", what);
    for (size_t i = 0; i < reasons->length && i < SHOWN_REASONS; i++)
        strbuf_addf(out, "%s%.0f %s", i == 0 ? "" : "; ", number(&reasons->items[i], count),
                    text(&reasons->items[i], "reason"));
    strbuf_adds(out, reasons->length > SHOWN_REASONS ? "; ...\n" : "\n");
}

int attempts_print(const struct attempts *attempts, double now_unix, struct strbuf *out,
                   struct error *err)
{
    int rc = 0;
    for (size_t i = 0; i < attempts->count && rc == 0; i++) {
        struct arena arena = {0};
        const struct json *root;
        rc = parse(&attempts->texts[i], &arena, &root, err);
        if (rc == 0 && (i + 1 == attempts->count || is_running(root, now_unix))) {
            print_heard(root, now_unix, out);
            print_tasks(root, out);
            print_hours(root, out);
            print_reasons(root, "drops", "pairs", "dropped pairs", out);
            print_reasons(root, "aside", "tasks", "set aside", out);
        }
        arena_release(&arena);
    }
    return rc;
}

static void read_curve(const struct json *root, struct curve *out)
{
    const struct json *curve = json_get(root, "curve");
    const struct json *x = json_get(curve, "seconds"), *y = json_get(curve, "tokens_per_second");
    if (!x || !y || x->type != JSON_ARRAY || y->type != JSON_ARRAY || x->length != y->length)
        return;
    out->points = mem_calloc(x->length + 1, sizeof(*out->points));
    for (size_t i = 0; i < x->length; i++) {
        if (x->items[i].type == JSON_NUMBER && y->items[i].type == JSON_NUMBER)
            out->points[out->count++] =
                (struct curve_point){x->items[i].number, y->items[i].number};
    }
}

int attempts_plot(const struct attempts *attempts, int columns, int rows, struct strbuf *out,
                  struct error *err)
{
    struct arena arena = {0};
    const struct json *root;
    struct curve curve = {.name = "tokens/s"};
    int rc = attempts->count > 0 ? parse(&attempts->texts[attempts->count - 1], &arena, &root, err)
                                 : error_set(err, "no attempt has said anything yet");
    if (rc == 0) {
        read_curve(root, &curve);
        curve_plot(&curve, "seconds", columns, rows, out);
    }
    free(curve.points);
    arena_release(&arena);
    return rc;
}

void attempts_json(const struct attempts *attempts, struct strbuf *out)
{
    strbuf_adds(out, ",\"attempts\":[");
    for (size_t i = 0; i < attempts->count; i++) {
        const struct strbuf *text_of = &attempts->texts[i];
        size_t length = text_of->length;
        while (length > 0 && text_of->bytes[length - 1] == '\n')
            length--;
        strbuf_adds(out, i == 0 ? "" : ",");
        strbuf_add(out, text_of->bytes, length);
    }
    strbuf_addc(out, ']');
}
