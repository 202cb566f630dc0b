// SPDX-License-Identifier: Apache-2.0
#include "jobs/run_directory.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "jobs/verbs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int open_append(const char *directory, const char *name, int *fd, struct error *err)
{
    char *path = fs_join(directory, name);
    *fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    const int rc = *fd < 0 ? error_set_errno(err, errno, "cannot open '%s'", path) : 0;
    free(path);
    return rc;
}

// What is left of a line that a full disk cut goes away: the next line would be joined to it.
static int cut_torn_line(int fd, const char *directory, struct error *err)
{
    char tail[16384]; // no line is longer
    const off_t size = lseek(fd, 0, SEEK_END);
    const size_t length = size < (off_t)sizeof(tail) ? (size_t)(size > 0 ? size : 0) : sizeof(tail);
    if (size <= 0)
        return 0;
    if (pread(fd, tail, length, size - (off_t)length) != (ssize_t)length)
        return error_set_errno(err, errno, "cannot read '%s/metrics.jsonl'", directory);
    const char *end = memrchr(tail, '\n', length);
    const off_t keep = size - (off_t)length + (end ? end + 1 - tail : 0);
    if (keep < size && ftruncate(fd, keep) != 0)
        return error_set_errno(err, errno, "cannot cut '%s/metrics.jsonl'", directory);
    return 0;
}

static const char *state_name(int code)
{
    switch (code) {
    case EXIT_DONE:
        return "done";
    case EXIT_STOPPED:
        return "stopped";
    default:
        return "failed";
    }
}

static int write_summary(const struct run_directory *run, const char *state, const char *reason,
                         struct error *err)
{
    struct strbuf text = {0};
    struct json_writer w = {.out = &text, .indent = 0};
    json_begin_object(&w);
    json_key(&w, "verb");
    json_text(&w, run->verb);
    json_key(&w, "state");
    json_text(&w, state);
    json_key(&w, "started");
    json_text(&w, run->started);
    json_key(&w, "seconds");
    json_number(&w, run_directory_seconds(run));
    if (reason) { // it quotes what was found in files
        json_key(&w, "reason");
        json_text_repaired(&w, reason);
    }
    strbuf_add(&text, run->figures.bytes, run->figures.length);
    json_end_object(&w);
    strbuf_addc(&text, '\n');
    char *path = fs_join(run->path, "summary.json");
    const int rc = fs_write_text(run->fs, path, text.bytes, text.length, err);
    free(path);
    strbuf_release(&text);
    return rc;
}

static int write_options(const struct run_directory *run, const struct verb *verb,
                         const void *options, struct error *err)
{
    struct strbuf echo = {0};
    options_echo(verb, options, &echo);
    char *path = fs_join(run->path, "options.json");
    const int rc = fs_write_text(run->fs, path, echo.bytes, echo.length, err);
    free(path);
    strbuf_release(&echo);
    return rc;
}

int run_directory_open(struct run_directory *run, const char *output, bool output_is_directory,
                       const struct verb *verb, const void *options, struct error *err)
{
    *run = (struct run_directory){.fs = fs_system(),
                                  .verb = verb->name,
                                  .log_fd = -1,
                                  .metrics_fd = -1,
                                  .started_seconds = clock_seconds()};
    clock_format_utc(run->started);
    run->path = mem_printf("%s%srun", output, output_is_directory ? "/" : ".");
    if (fs_make_directories(run->fs, run->path, err) ||
        open_append(run->path, "log.txt", &run->log_fd, err) ||
        open_append(run->path, "metrics.jsonl", &run->metrics_fd, err) ||
        cut_torn_line(run->metrics_fd, run->path, err) || write_options(run, verb, options, err) ||
        write_summary(run, "running", NULL, err)) {
        (void)run_directory_close(run, EXIT_FAILED, err);
        return -1;
    }
    log_tee(run->log_fd);
    return 0;
}

static int read_done(const char *summary, bool *done, char *identity, size_t identity_bytes,
                     struct error *err)
{
    struct strbuf text = {0};
    struct arena arena = {0};
    const struct json *root;
    const char *state = "", *stored = "";
    int rc = fs_read(fs_system(), summary, &text, err) ||
                     json_parse(&arena, text.bytes, text.length, &root, err) ||
                     json_get_string(root, "state", &state, err) ||
                     json_get_string(root, "identity", &stored, err)
                 ? error_prefix(err, "'%s'", summary)
                 : 0;
    if (rc == 0) {
        *done = strcmp(state, "done") == 0;
        snprintf(identity, identity_bytes, "%s", stored);
    }
    arena_release(&arena);
    strbuf_release(&text);
    return rc;
}

static bool holds(const char *directory, const char *name)
{
    char *path = fs_join(directory, name);
    const bool there = fs_exists(fs_system(), path);
    free(path);
    return there;
}

int run_directory_was_done(const char *output, const char *identity, bool *out, struct error *err)
{
    char stored[64] = "";
    bool done = false;
    int rc = 0;
    *out = false;
    if (!holds(output, "model.safetensors") && !holds(output, "model.safetensors.index.json"))
        return 0;
    if (!holds(output, "run/summary.json"))
        return error_set(err,
                         "'%s' holds a model that no memo train made: use another --out, or remove "
                         "it",
                         output);
    char *summary = fs_join(output, "run/summary.json");
    rc = read_done(summary, &done, stored, sizeof(stored), err);
    if (rc == 0 && done && strcmp(stored, identity) != 0)
        rc = error_set(err,
                       "'%s' holds another model, or one trained on other data or with other "
                       "options: use another --out, or remove it",
                       output);
    *out = rc == 0 && done;
    free(summary);
    return rc;
}

int run_directory_metric(struct run_directory *run, const struct strbuf *object, struct error *err)
{
    struct strbuf line = {0};
    strbuf_add(&line, object->bytes, object->length);
    strbuf_addc(&line, '\n');
    const ssize_t written = write(run->metrics_fd, line.bytes, line.length);
    const int rc = written == (ssize_t)line.length
                       ? 0
                       : error_set_errno(err, written < 0 ? errno : ENOSPC,
                                         "cannot append to '%s/metrics.jsonl'", run->path);
    strbuf_release(&line);
    return rc;
}

// A writer in the state in which one more member of an open object comes.
static struct json_writer figure_writer(struct run_directory *run, const char *key)
{
    struct json_writer w = {.out = &run->figures, .depth = 1}; // not the first: a comma goes before
    json_key(&w, key);
    return w;
}

void run_directory_int(struct run_directory *run, const char *key, int64_t value)
{
    struct json_writer w = figure_writer(run, key);
    json_int(&w, value);
}

void run_directory_number(struct run_directory *run, const char *key, double value)
{
    struct json_writer w = figure_writer(run, key);
    json_number(&w, value);
}

void run_directory_text(struct run_directory *run, const char *key, const char *value)
{
    struct json_writer w = figure_writer(run, key);
    json_text(&w, value);
}

double run_directory_seconds(const struct run_directory *run)
{
    return clock_seconds() - run->started_seconds;
}

int run_directory_close(struct run_directory *run, int code, struct error *err)
{
    if (!run->path)
        return code;
    const bool good = code == EXIT_DONE || code == EXIT_STOPPED;
    struct error record_err;
    if (write_summary(run, state_name(code), good ? NULL : err->text, &record_err) && good) {
        *err = record_err;
        code = EXIT_FAILED;
    }
    log_tee(-1);
    if (run->log_fd >= 0)
        close(run->log_fd);
    if (run->metrics_fd >= 0)
        close(run->metrics_fd);
    strbuf_release(&run->figures);
    free(run->path);
    run->path = NULL;
    return code;
}
