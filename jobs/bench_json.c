// SPDX-License-Identifier: Apache-2.0
// memo bench json: what a token mask costs when its state is met for the first time and when it is
// kept, along outputs whose tokens are drawn evenly from the masks: strings that fill their
// maximum, characters and escapes in pieces, budgets that end.
#include "jobs/bench.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/random.h"
#include "worker/engine/json_schema.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OUTPUTS = 40, BUDGET = 200, SAMPLES_LIMIT = OUTPUTS * BUDGET };

static const char schema_text[] =
    "{\"type\":\"object\",\"properties\":{\"pairs\":{\"type\":\"array\",\"maxItems\":40,"
    "\"items\":{\"type\":\"object\",\"properties\":{\"question\":{\"type\":\"string\","
    "\"maxLength\":150},\"answer\":{\"type\":\"string\",\"maxLength\":60},"
    "\"kind\":{\"type\":\"string\",\"enum\":[\"fact\",\"number\",\"name\"]},"
    "\"sure\":{\"type\":\"boolean\"},\"score\":{\"type\":\"number\"}}}}}}";

struct samples {
    double seconds[SAMPLES_LIMIT];
    size_t count;
};

struct masks {
    const struct tokenizer *tokenizer;
    size_t vocabulary;
    struct json_schema *schema;
    struct samples first; // calls that may have had to compute
    struct samples kept;  // the same call again
};

static void report(const struct bench *bench, const char *what, double value, const char *unit)
{
    if (!bench->options->json) {
        printf("%-42s %10.1f %s\n", what, value, unit);
        return;
    }
    struct strbuf line = {0};
    struct json_writer w = {.out = &line};
    json_begin_object(&w);
    json_key(&w, "what");
    json_text(&w, what);
    json_key(&w, "value");
    json_number(&w, value);
    json_key(&w, "unit");
    json_text(&w, unit);
    json_end_object(&w);
    printf("%s\n", line.bytes);
    strbuf_release(&line);
}

static const uint64_t *timed_mask(struct json_output *output, size_t left, struct samples *out)
{
    const double start = clock_seconds();
    const uint64_t *mask = json_output_mask(output, left);
    out->seconds[out->count++] = clock_seconds() - start;
    return mask;
}

// The first allowed token at or behind an even draw, so that holes in the mask do not matter.
static int32_t pick(const uint64_t *mask, size_t vocabulary, uint64_t output, uint64_t step)
{
    size_t id = random_u64(1, output, step) % vocabulary;
    while (!(mask[id / 64] >> (id % 64) & 1))
        id = (id + 1) % vocabulary;
    return (int32_t)id;
}

static void walk(struct masks *masks, uint64_t number)
{
    struct json_output *output = json_output_create(masks->schema);
    for (size_t left = BUDGET; !json_output_complete(output); left--) {
        timed_mask(output, left, &masks->first);
        const uint64_t *mask = timed_mask(output, left, &masks->kept);
        json_output_accept(output, pick(mask, masks->vocabulary, number, left));
    }
    json_output_destroy(output);
}

static int compare_seconds(const void *a, const void *b)
{
    const double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

static void report_samples(const struct bench *bench, const char *name, struct samples *samples)
{
    char what[64];
    qsort(samples->seconds, samples->count, sizeof *samples->seconds, compare_seconds);
    snprintf(what, sizeof what, "%s, median", name);
    report(bench, what, 1e6 * samples->seconds[samples->count / 2], "us");
    snprintf(what, sizeof what, "%s, 99 of 100 below", name);
    report(bench, what, 1e6 * samples->seconds[samples->count * 99 / 100], "us");
    snprintf(what, sizeof what, "%s, longest", name);
    report(bench, what, 1e6 * samples->seconds[samples->count - 1], "us");
}

static int measure(struct bench *bench, const struct tokenizer *tokenizer, struct error *err)
{
    struct masks *masks = mem_calloc(1, sizeof *masks);
    masks->tokenizer = tokenizer;
    masks->vocabulary = (size_t)tokenizer_vocabulary_size(tokenizer);
    const double start = clock_seconds();
    struct json_vocabulary *vocabulary = json_vocabulary_create(tokenizer, masks->vocabulary);
    const double made = clock_seconds();
    const int rc = json_schema_compile_shared(schema_text, strlen(schema_text), vocabulary,
                                              &masks->schema, err);
    if (rc == 0) {
        report(bench, "json: a vocabulary made ready", 1e3 * (made - start), "ms");
        report(bench, "json: a schema compiled", 1e6 * (clock_seconds() - made), "us");
        for (uint64_t i = 0; i < OUTPUTS; i++)
            walk(masks, i);
        report_samples(bench, "json: mask", &masks->first);
        report_samples(bench, "json: mask kept", &masks->kept);
    }
    json_schema_destroy(masks->schema);
    json_vocabulary_destroy(vocabulary);
    free(masks);
    return rc;
}

int bench_json(struct bench *bench, struct error *err)
{
    struct tokenizer *tokenizer = NULL;
    if (!bench->options->tokenizer)
        return error_set(err, "give a directory with a tokenizer: --tokenizer DIR");
    const int rc =
        tokenizer_load(bench->options->tokenizer, &tokenizer, err) || measure(bench, tokenizer, err)
            ? -1
            : 0;
    tokenizer_destroy(tokenizer);
    return rc;
}
