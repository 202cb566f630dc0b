// SPDX-License-Identifier: Apache-2.0
// memo status: what the runs beside these outputs say of themselves, as a table or JSON Lines; of a
// generation also how its attempts stand, from their own last words.
#include "base/arena.h"
#include "base/clock.h"
#include "base/fs.h"
#include "base/json.h"
#include "base/mem.h"
#include "collectives/flight.h"
#include "jobs/attempts.h"
#include "jobs/curves.h"
#include "jobs/run_directory.h"
#include "jobs/update_nights.h"
#include "jobs/verbs.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct status_options {
    bool json;
    bool plot;
    const char *svg;
    double watch;
};

static const struct option status_option_table[] = {
    {"json", OPTION_FLAG, offsetof(struct status_options, json), NULL, NULL, 0, 0, NULL,
     "one JSON object per run instead of the table", false},
    {"plot", OPTION_FLAG, offsetof(struct status_options, plot), NULL, NULL, 0, 0, NULL,
     "also draw the loss of each training run over its steps, or the tokens per second of a "
     "generation over its time",
     false},
    {"svg", OPTION_STRING, offsetof(struct status_options, svg), "FILE", NULL, 0, 0, NULL,
     "write the curves of one training run as a picture", false},
    {"watch", OPTION_NUMBER, offsetof(struct status_options, watch), "S", "0", 0, 1e6, NULL,
     "again every S seconds, while one of the runs goes on (0: once)", false},
    {0},
};

// A file of OUT/run, OUT.run or the run directory itself.
static int read_record(const char *output, const char *name, struct strbuf *out, struct error *err)
{
    struct fs *fs = fs_system();
    char *places[] = {mem_printf("%s/run/%s", output, name), mem_printf("%s.run/%s", output, name),
                      mem_printf("%s/%s", output, name)};
    int rc = 1; // not found
    for (int i = 0; i < 3; i++) {
        if (rc == 1 && fs_exists(fs, places[i]))
            rc = fs_read(fs, places[i], out, err);
        free(places[i]);
    }
    if (rc != 1)
        return rc;
    return error_set(err, "no run was found beside '%s': it has no %s", output, name);
}

static void print_count(const struct json *summary, const char *key, int width)
{
    const struct json *value = json_get(summary, key);
    if (value && value->type == JSON_NUMBER && value->is_integer)
        printf("  %*" PRId64, width, value->integer);
    else
        printf("  %*s", width, "-");
}

static void print_rate(const struct json *summary, double seconds)
{
    const struct json *tokens = json_get(summary, "tokens");
    if (tokens && tokens->type == JSON_NUMBER && seconds > 0)
        printf("  %9.0f", tokens->number / seconds);
    else
        printf("  %9s", "-");
}

// Of a run that ended in the middle, or that runs: which ranks are missing in which call.
static int print_missing(const char *output, struct error *err)
{
    struct strbuf lines = {0};
    char *directory = mem_printf("%s/run/flight", output);
    const int rc = flight_survey(fs_system(), directory, &lines, err);
    for (char *line = lines.bytes, *end; rc > 0 && line; line = end ? end + 1 : NULL) {
        end = strchr(line, '\n');
        printf("          %.*s\n", (int)(end ? (size_t)(end - line) : strlen(line)), line);
    }
    free(directory);
    strbuf_release(&lines);
    return rc < 0 ? -1 : 0;
}

static int print_row(const char *output, const struct json *summary, int name_width,
                     struct error *err)
{
    const char *verb = "?", *state = "?", *reason = NULL;
    double seconds = 0;
    char duration[32];
    if (json_get_string(summary, "verb", &verb, err) ||
        json_get_string(summary, "state", &state, err) ||
        json_get_string(summary, "reason", &reason, err) ||
        json_get_number(summary, "seconds", &seconds, err))
        return -1;
    clock_format_duration(seconds, duration, sizeof(duration));
    printf("%-9s %-*s  %-8s", verb, name_width, output, state);
    print_count(summary, "pairs", 8);
    print_count(summary, "tokens", 10);
    printf("  %9s", duration);
    print_rate(summary, seconds);
    printf("%s%s\n", reason ? "  " : "", reason ? reason : "");
    const bool ended_well = strcmp(state, "done") == 0 || strcmp(state, "stopped") == 0;
    return ended_well ? 0 : print_missing(output, err);
}

// OUT/run or OUT.run, whichever is there; caller frees.
static char *run_path(const char *output)
{
    char *inside = mem_printf("%s/run", output), *beside = mem_printf("%s.run", output);
    char *path = fs_exists(fs_system(), inside)   ? mem_strdup(inside)
                 : fs_exists(fs_system(), beside) ? mem_strdup(beside)
                                                  : mem_strdup(output);
    free(inside);
    free(beside);
    return path;
}

// With the attempts as one more member.
static void print_json(const struct strbuf *summary, const struct attempts *attempts)
{
    struct strbuf members = {0};
    size_t end = summary->length;
    while (end > 0 && summary->bytes[end - 1] != '}')
        end--;
    if (attempts->count > 0)
        attempts_json(attempts, &members);
    printf("%.*s%s}\n", (int)(end > 0 ? end - 1 : 0), summary->bytes,
           members.bytes ? members.bytes : "");
    strbuf_release(&members);
}

// In a list of several, what is done needs no more than its row.
static int print_people(const char *output, const struct json *summary,
                        const struct attempts *attempts, bool in_list, int name_width,
                        struct error *err)
{
    struct strbuf lines = {0};
    const char *state = "?";
    int rc = print_row(output, summary, name_width, err) ||
                     json_get_string(summary, "state", &state, err)
                 ? -1
                 : 0;
    if (rc == 0 && !(in_list && strcmp(state, "done") == 0))
        rc = attempts_print(attempts, (double)time(NULL), &lines, err);
    if (lines.length > 0)
        printf("%s", lines.bytes);
    strbuf_release(&lines);
    return rc;
}

// *running: one of its attempts goes on.
static int show(const char *output, bool as_json, bool in_list, int name_width, bool *running,
                struct error *err)
{
    struct strbuf text = {0};
    struct arena arena = {0};
    struct attempts attempts = {0};
    const struct json *summary;
    char *run = run_path(output);
    int rc = read_record(output, "summary.json", &text, err) ||
                     attempts_read(fs_system(), run, &attempts, err)
                 ? -1
                 : 0;
    if (rc == 0)
        rc = json_parse(&arena, text.bytes, text.length, &summary, err)
                 ? error_prefix(err, "summary of '%s'", output)
                 : 0;
    if (rc == 0 && as_json)
        print_json(&text, &attempts);
    else if (rc == 0)
        rc = print_people(output, summary, &attempts, in_list, name_width, err)
                 ? error_prefix(err, "summary of '%s'", output)
                 : 0;
    *running = *running || attempts.running;
    attempts_release(&attempts);
    free(run);
    arena_release(&arena);
    strbuf_release(&text);
    return rc;
}

// The stages of a round that is not finished, as far as they were begun.
static void show_open_round(const char *state, size_t round, bool *running)
{
    static const char *const outputs[] = {"corpus.h5", "reflections", "model", "vector.safetensors",
                                          "merged"};
    for (size_t i = 0; i < sizeof(outputs) / sizeof(outputs[0]); i++) {
        struct error ignored;
        char *path = mem_printf("%s/rounds/%04zu/%s", state, round, outputs[i]);
        (void)show(path, false, true, (int)strlen(state) + 31, running, &ignored);
        free(path);
    }
}

static int show_update(const char *state, bool as_json, bool *running, struct error *err)
{
    size_t open;
    if (update_nights_print(state, as_json, &open, err))
        return -1;
    if (open > 0 && !as_json)
        show_open_round(state, open, running);
    return 0;
}

static int read_curves(const char *output, struct curves *out, struct error *err)
{
    struct strbuf text = {0};
    int rc = read_record(output, "metrics.jsonl", &text, err);
    if (rc == 0 && curves_parse(text.bytes, text.length, out, err))
        rc = error_prefix(err, "metrics of '%s'", output);
    strbuf_release(&text);
    return rc;
}

static int plot_attempts(const char *output, int columns, int rows, struct strbuf *out, bool *any,
                         struct error *err)
{
    struct attempts attempts;
    char *run = run_path(output);
    int rc = attempts_read(fs_system(), run, &attempts, err);
    *any = rc == 0 && attempts.count > 0;
    if (*any)
        rc = attempts_plot(&attempts, columns, rows, out, err);
    if (rc == 0)
        attempts_release(&attempts);
    free(run);
    return rc;
}

static int show_curves(const char *output, const struct status_options *options, struct error *err)
{
    enum { COLUMNS = 64, ROWS = 14 };
    struct curves curves;
    struct strbuf text = {0};
    int rc = 0;
    bool generates = false;
    if (!options->plot && !options->svg)
        return 0;
    if (options->plot && plot_attempts(output, COLUMNS, ROWS, &text, &generates, err))
        return -1;
    if (generates) {
        printf("%s", text.bytes);
        strbuf_release(&text);
        return 0;
    }
    if (read_curves(output, &curves, err))
        return -1;
    if (options->plot) {
        curves_plot(&curves, COLUMNS, ROWS, &text);
        printf("%s", text.bytes);
    }
    if (options->svg) {
        strbuf_reset(&text);
        curves_svg(&curves, output, &text);
        rc = fs_write_text(fs_system(), options->svg, text.bytes, text.length, err);
    }
    strbuf_release(&text);
    curves_release(&curves);
    return rc;
}

static int width_of_names(const struct option_list *outputs)
{
    int width = 6;
    for (size_t i = 0; i < outputs->count; i++) {
        const int length = (int)strlen(outputs->items[i]);
        width = length > width ? length : width;
    }
    return width;
}

// An output without a run hides no other: the last one is the error.
static int show_all(const struct status_options *options, const struct option_list *outputs,
                    bool *running, struct error *err)
{
    const int name_width = width_of_names(outputs);
    int code = EXIT_DONE;
    if (outputs->count == 1 && update_nights_are_in(outputs->items[0]))
        return show_update(outputs->items[0], options->json, running, err) ? EXIT_FAILED
                                                                           : EXIT_DONE;
    if (!options->json)
        printf("%-9s %-*s  %-8s  %8s  %10s  %9s  %9s\n", "stage", name_width, "output", "state",
               "pairs", "tokens", "time", "tokens/s");
    for (size_t i = 0; i < outputs->count; i++) {
        if (show(outputs->items[i], options->json, outputs->count > 1, name_width, running, err) ||
            show_curves(outputs->items[i], options, err))
            code = EXIT_FAILED;
    }
    return code;
}

static int watch(const struct status_options *options, const struct option_list *outputs,
                 struct error *err)
{
    const bool terminal = isatty(STDOUT_FILENO);
    bool running = true;
    int code = EXIT_DONE;
    while (running && code == EXIT_DONE) {
        running = false;
        if (terminal && !options->json)
            printf("\033[H\033[2J");
        code = show_all(options, outputs, &running, err);
        fflush(stdout);
        if (running && code == EXIT_DONE)
            usleep((useconds_t)(options->watch * 1e6));
        if (ferror(stdout))
            code = EXIT_FAILED; // nobody listens any more
    }
    return code;
}

static int run_status(const void *parsed, const struct option_list *outputs, struct error *err)
{
    const struct status_options *options = parsed;
    bool running = false;
    if (outputs->count == 0) {
        error_set(err, "name the outputs whose runs to show");
        return EXIT_USAGE;
    }
    if (options->svg && outputs->count != 1) {
        error_set(err, "--svg takes one output, not %zu", outputs->count);
        return EXIT_USAGE;
    }
    return options->watch > 0 ? watch(options, outputs, err)
                              : show_all(options, outputs, &running, err);
}

const struct verb verb_status = {
    .name = "status",
    .summary = "show how runs stand: state, pairs, tokens, time; a generation while it runs",
    .positional = "OUTPUT...",
    .examples = "  memo status corpus.h5 reflections/ models/memory\n"
                "  memo status --watch 10 reflections/\n"
                "  memo status --json models/*\n"
                "  memo status memory/     (of memo update: the last nights)\n"
                "  memo status --plot --svg loss.svg models/memory\n",
    .options = status_option_table,
    .options_bytes = sizeof(struct status_options),
    .run = run_status,
};
