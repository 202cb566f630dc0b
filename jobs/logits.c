// SPDX-License-Identifier: Apache-2.0
// memo logits: the model's scores of every next token, for comparison with other tools.
#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "datasets/safetensors.h"
#include "jobs/compute.h"
#include "jobs/json_ids.h"
#include "jobs/verbs.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct logits_options {
    const char *model;
    const char *ids;
    const char *out;
    const char *backend;
    int64_t threads;
};

#define OPTION_AT(field) offsetof(struct logits_options, field)

static const struct option logits_option_table[] = {
    {"model", OPTION_STRING, OPTION_AT(model), "DIR", NULL, 0, 0, NULL, "model directory", true},
    {"ids", OPTION_STRING, OPTION_AT(ids), "FILE", NULL, 0, 0, NULL,
     "JSON Lines {\"ids\": [...]}, one sequence each, as memo tokenize writes them", true},
    {"out", OPTION_STRING, OPTION_AT(out), "FILE", NULL, 0, 0, NULL,
     "safetensors to write: logits.0, logits.1, ..., each f32 [tokens, vocabulary]", true},
    {"backend", OPTION_CHOICE, OPTION_AT(backend), "NAME", NULL, 0, 0, BACKEND_CHOICES,
     "default: the fastest that works here", false},
    {"threads", OPTION_INT, OPTION_AT(threads), "N", "0", 0, 4096, NULL,
     "(0: as many as there are processors)", false},
    {0},
};

struct id_lines {
    struct token_list ids;
    size_t *offsets; // [count + 1]
    size_t capacity;
    size_t count;
};

static void end_sequence(struct id_lines *out)
{
    out->offsets = mem_grow(out->offsets, &out->capacity, out->count + 2, sizeof(*out->offsets));
    out->offsets[0] = 0;
    out->offsets[++out->count] = out->ids.count;
}

static int read_line(const char *bytes, size_t length, struct id_lines *out, struct error *err)
{
    struct arena arena = {0};
    const struct json *line;
    const size_t before = out->ids.count;
    int rc = json_parse(&arena, bytes, length, &line, err) || json_ids_read(line, &out->ids, err)
                 ? -1
                 : 0;
    arena_release(&arena);
    if (rc == 0 && out->ids.count == before)
        rc = error_set(err, "\"ids\" is empty");
    if (rc == 0)
        end_sequence(out);
    return rc;
}

static int read_sequences(const char *path, struct id_lines *out, struct error *err)
{
    struct strbuf text = {0};
    int rc = fs_read(fs_system(), path, &text, err);
    size_t number = 0;
    for (size_t at = 0; rc == 0 && at < text.length;) {
        const char *end = memchr(text.bytes + at, '\n', text.length - at);
        const size_t length = end ? (size_t)(end - text.bytes) - at : text.length - at;
        number++;
        if (length > 0 && read_line(text.bytes + at, length, out, err))
            rc = error_prefix(err, "'%s', line %zu", path, number);
        at += length + 1;
    }
    if (rc == 0 && out->count == 0)
        rc = error_set(err, "'%s' holds no sequence", path);
    strbuf_release(&text);
    return rc;
}

static int check_sequences(const struct id_lines *lines, const struct model_config *config,
                           struct error *err)
{
    for (size_t i = 0; i < lines->ids.count; i++) {
        if (lines->ids.ids[i] >= config->vocabulary)
            return error_set(err, "token id %" PRId32 " is beyond the vocabulary of %" PRId64,
                             lines->ids.ids[i], config->vocabulary);
    }
    for (size_t s = 0; s < lines->count; s++) {
        const size_t length = lines->offsets[s + 1] - lines->offsets[s];
        if (length > (size_t)config->max_positions)
            return error_set(err, "sequence %zu has %zu tokens; the model's context is %" PRId64, s,
                             length, config->max_positions);
    }
    return 0;
}

static size_t longest(const struct id_lines *lines)
{
    size_t most = 0;
    for (size_t s = 0; s < lines->count; s++) {
        const size_t length = lines->offsets[s + 1] - lines->offsets[s];
        most = length > most ? length : most;
    }
    return most;
}

static int write_sequence(struct model *model, struct workspace *workspace,
                          const struct id_lines *lines, size_t s, struct safetensors_writer *writer,
                          struct error *err)
{
    const size_t begin = lines->offsets[s], tokens = lines->offsets[s + 1] - begin;
    const size_t values = tokens * (size_t)model->config.vocabulary;
    const int32_t offsets[] = {0, (int32_t)tokens};
    int32_t *positions = mem_calloc(tokens, sizeof(*positions));
    int32_t *targets = mem_calloc(tokens, sizeof(*targets));
    float *logits = mem_calloc(values, sizeof(*logits));
    for (size_t t = 0; t < tokens; t++) {
        positions[t] = (int32_t)t;
        targets[t] = -1;
    }
    const struct batch batch = {.ids = lines->ids.ids + begin,
                                .positions = positions,
                                .targets = targets,
                                .offsets = offsets,
                                .tokens = tokens,
                                .sequences = 1};
    const int rc = model_logits(model, workspace, &batch, logits, err) ||
                           safetensors_writer_write(writer, logits, values * sizeof(*logits), err)
                       ? -1
                       : 0;
    free(positions);
    free(targets);
    free(logits);
    return rc;
}

static int create_writer(const char *path, const struct id_lines *lines, int64_t vocabulary,
                         struct safetensors_writer **out, struct error *err)
{
    struct safetensors_entry *entries = mem_calloc(lines->count, sizeof(*entries));
    for (size_t s = 0; s < lines->count; s++) {
        const uint64_t tokens = lines->offsets[s + 1] - lines->offsets[s];
        entries[s] = (struct safetensors_entry){.name = mem_printf("logits.%zu", s),
                                                .dtype = ST_F32,
                                                .rank = 2,
                                                .shape = {tokens, (uint64_t)vocabulary},
                                                .bytes = tokens * (uint64_t)vocabulary * 4};
    }
    const int rc =
        safetensors_writer_create(fs_system(), path, entries, lines->count, NULL, out, err);
    for (size_t s = 0; s < lines->count; s++)
        free((char *)entries[s].name);
    free(entries);
    return rc;
}

static int write_all(struct model *model, const struct id_lines *lines, const char *path,
                     struct error *err)
{
    struct workspace *workspace = NULL;
    struct safetensors_writer *writer = NULL;
    int rc = workspace_create(model, longest(lines), false, &workspace, err) ||
                     create_writer(path, lines, model->config.vocabulary, &writer, err)
                 ? -1
                 : 0;
    for (size_t s = 0; rc == 0 && s < lines->count; s++)
        rc = write_sequence(model, workspace, lines, s, writer, err);
    if (rc == 0)
        rc = safetensors_writer_finish(writer, err);
    safetensors_writer_destroy(writer);
    workspace_destroy(workspace);
    return rc;
}

static int run_logits(const void *parsed, const struct option_list *positional, struct error *err)
{
    const struct logits_options *options = parsed;
    struct device *device = NULL;
    struct model *model = NULL;
    struct id_lines lines = {0};
    (void)positional;
    const int rc =
        read_sequences(options->ids, &lines, err) ||
                compute_device_open_alone(options->backend, options->threads, &device, err) ||
                model_load(device, options->model, DTYPE_F32, &model, err) ||
                check_sequences(&lines, &model->config, err) ||
                write_all(model, &lines, options->out, err)
            ? -1
            : 0;
    if (rc == 0)
        log_info("%s: logits of %zu sequences, %zu tokens", options->out, lines.count,
                 lines.ids.count);
    model_destroy(model);
    device_destroy(device);
    token_list_release(&lines.ids);
    free(lines.offsets);
    return rc ? EXIT_FAILED : EXIT_DONE;
}

const struct verb verb_logits = {
    .name = "logits",
    .summary = "write a model's logits, to compare it with other tools",
    .examples = "  memo logits --model models/base --ids ids.jsonl --out logits.safetensors\n",
    .options = logits_option_table,
    .options_bytes = sizeof(struct logits_options),
    .run = run_logits,
};
