// SPDX-License-Identifier: Apache-2.0
// memo tokenize: JSON Lines {"text"} to {"ids"} and back, from standard input to standard output.
#include "base/json.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "datasets/tokenizer.h"
#include "jobs/json_ids.h"
#include "jobs/tokenize_speed.h"
#include "jobs/verbs.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

struct tokenize_options {
    const char *model;
    bool decode;
    bool special;
    double seconds;
    int64_t threads;
};

#define OPTION_AT(field) offsetof(struct tokenize_options, field)

static const struct option tokenize_option_table[] = {
    {"model", OPTION_STRING, OPTION_AT(model), "DIR", NULL, 0, 0, NULL,
     "model directory with the tokenizer's files", true},
    {"decode", OPTION_FLAG, OPTION_AT(decode), NULL, NULL, 0, 0, NULL, "ids to text", false},
    {"special", OPTION_FLAG, OPTION_AT(special), NULL, NULL, 0, 0, NULL,
     "text such as <|im_end|> becomes the special token (default: ordinary text)", false},
    {"seconds", OPTION_NUMBER, OPTION_AT(seconds), "S", "0", 0, 3600, NULL,
     "encode all of the input again and again for so long, and print the best rate instead of ids "
     "(0: no)",
     false},
    {"threads", OPTION_INT, OPTION_AT(threads), "N", "1", 1, 4096, NULL,
     "with --seconds: lines encoded at once", false},
    {0},
};

struct conversion {
    const struct tokenize_options *options;
    struct tokenizer *tokenizer;
    struct tokenizer_scratch *scratch;
    struct token_list ids;
    struct strbuf text;
    struct documents documents; // of a measurement
};

static int encode(struct conversion *c, const struct json *line, struct json_writer *w,
                  struct error *err)
{
    const struct json *text = json_get(line, "text");
    if (!text || text->type != JSON_STRING)
        return error_set(err, "no string under \"text\"");
    if (tokenizer_encode(c->tokenizer, c->scratch, text->string, text->length, c->options->special,
                         &c->ids, err))
        return -1;
    json_key(w, "ids");
    json_begin_array(w);
    for (size_t i = 0; i < c->ids.count; i++)
        json_int(w, c->ids.ids[i]);
    json_end_array(w);
    return 0;
}

// Tokens may end inside a character: such bytes become U+FFFD, as everywhere in text.
static void write_repaired(struct json_writer *w, const struct strbuf *text)
{
    struct strbuf repaired = {0};
    for (size_t at = 0; at < text->length;) {
        const size_t good = utf8_valid_prefix(text->bytes + at, text->length - at);
        strbuf_add(&repaired, text->bytes + at, good);
        at += good;
        if (at < text->length) {
            strbuf_adds(&repaired, "\xEF\xBF\xBD");
            at++;
        }
    }
    json_string(w, repaired.bytes ? repaired.bytes : "", repaired.length);
    strbuf_release(&repaired);
}

static int decode(struct conversion *c, const struct json *line, struct json_writer *w,
                  struct error *err)
{
    if (json_ids_read(line, &c->ids, err) ||
        tokenizer_decode(c->tokenizer, c->ids.ids, c->ids.count, &c->text, err))
        return -1;
    json_key(w, "text");
    write_repaired(w, &c->text);
    return 0;
}

// A line of a measurement.
static int keep_line(struct conversion *c, const char *bytes, size_t length, struct error *err)
{
    struct arena arena = {0};
    const struct json *line, *text = NULL;
    int rc = json_parse(&arena, bytes, length, &line, err);
    if (rc == 0 && (!(text = json_get(line, "text")) || text->type != JSON_STRING))
        rc = error_set(err, "no string under \"text\"");
    if (rc == 0)
        documents_add(&c->documents, text->string, text->length);
    arena_release(&arena);
    return rc;
}

static int convert_line(struct conversion *c, const char *bytes, size_t length, struct error *err)
{
    struct arena arena = {0};
    struct strbuf out = {0};
    struct json_writer w = {.out = &out};
    const struct json *line;
    c->ids.count = 0;
    strbuf_reset(&c->text);
    json_begin_object(&w);
    int rc = json_parse(&arena, bytes, length, &line, err) ||
                     (c->options->decode ? decode(c, line, &w, err) : encode(c, line, &w, err))
                 ? -1
                 : 0;
    json_end_object(&w);
    strbuf_addc(&out, '\n');
    if (rc == 0 && fwrite(out.bytes, 1, out.length, stdout) != out.length)
        rc = error_set_errno(err, errno, "cannot write to standard output");
    strbuf_release(&out);
    arena_release(&arena);
    return rc;
}

static int convert_all(struct conversion *c, struct error *err)
{
    char *line = NULL;
    size_t capacity = 0, number = 0;
    ssize_t length;
    int rc = 0;
    while (rc == 0 && (length = getline(&line, &capacity, stdin)) > 0) {
        number++;
        if (c->options->seconds > 0 ? keep_line(c, line, (size_t)length, err)
                                    : convert_line(c, line, (size_t)length, err))
            rc = error_prefix(err, "standard input, line %zu", number);
    }
    if (rc == 0 && ferror(stdin))
        rc = error_set_errno(err, errno, "cannot read standard input");
    free(line);
    return rc;
}

static int measure(struct conversion *c, struct error *err)
{
    const struct tokenize_options *options = c->options;
    struct tokenize_speed speed;
    if (tokenize_speed_measure(c->tokenizer, &c->documents, options->special, (int)options->threads,
                               options->seconds, &speed, err))
        return -1;
    struct strbuf out = {0};
    struct json_writer w = {.out = &out};
    const struct {
        const char *name;
        double value;
    } figures[] = {{"documents", (double)c->documents.count},
                   {"bytes", speed.bytes},
                   {"tokens", speed.tokens},
                   {"threads", (double)options->threads},
                   {"seconds", speed.seconds},
                   {"megabytes_per_second", speed.bytes / speed.seconds / 1e6}};
    json_begin_object(&w);
    for (size_t i = 0; i < sizeof figures / sizeof *figures; i++) {
        json_key(&w, figures[i].name);
        json_number(&w, figures[i].value);
    }
    json_end_object(&w);
    printf("%s\n", out.bytes);
    strbuf_release(&out);
    return 0;
}

static int run_tokenize(const void *parsed, const struct option_list *positional, struct error *err)
{
    struct conversion c = {.options = parsed};
    (void)positional;
    if (c.options->decode && c.options->seconds > 0) {
        error_set(err, "--seconds measures encoding: leave out --decode");
        return EXIT_USAGE;
    }
    if (tokenizer_load(c.options->model, &c.tokenizer, err))
        return EXIT_FAILED;
    c.scratch = tokenizer_scratch_create(c.tokenizer);
    int rc = convert_all(&c, err);
    if (rc == 0 && c.options->seconds > 0)
        rc = measure(&c, err);
    documents_release(&c.documents);
    token_list_release(&c.ids);
    strbuf_release(&c.text);
    tokenizer_scratch_destroy(c.scratch);
    tokenizer_destroy(c.tokenizer);
    return rc ? EXIT_FAILED : EXIT_DONE;
}

const struct verb verb_tokenize = {
    .name = "tokenize",
    .summary = "text to token ids and back, JSON Lines on standard input and output",
    .examples = "  echo '{\"text\": \"Who kept the light?\"}' | memo tokenize --model models/base\n"
                "  echo '{\"ids\": [72, 101]}' | memo tokenize --model models/base --decode\n"
                "  memo tokenize --model models/base --seconds 3 --threads 2 <texts.jsonl\n",
    .options = tokenize_option_table,
    .options_bytes = sizeof(struct tokenize_options),
    .run = run_tokenize,
};
