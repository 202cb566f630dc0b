// SPDX-License-Identifier: Apache-2.0
#include "jobs/tokenize_speed.h"

#include "base/clock.h"
#include "base/mem.h"
#include "kernels/cpu/pool.h"

#include <stdlib.h>

void documents_add(struct documents *documents, const char *bytes, size_t length)
{
    if (documents->count == documents->capacity) {
        documents->capacity = 2 * documents->capacity + 16;
        documents->items =
            mem_realloc(documents->items, documents->capacity * sizeof *documents->items);
    }
    struct strbuf *item = &documents->items[documents->count++];
    *item = (struct strbuf){0};
    strbuf_add(item, bytes, length);
}

void documents_release(struct documents *documents)
{
    for (size_t i = 0; i < documents->count; i++)
        strbuf_release(&documents->items[i]);
    free(documents->items);
    *documents = (struct documents){0};
}

struct encoder {
    struct tokenizer_scratch *scratch;
    struct token_list ids;
};

struct pass {
    const struct tokenizer *tokenizer;
    const struct documents *documents;
    bool special;
    struct encoder *encoders; // one per thread
    size_t *tokens;           // one per document
    struct error *errors;     // one per document
};

static void encode_document(void *argument, size_t task, int thread)
{
    const struct pass *pass = argument;
    const struct strbuf *text = &pass->documents->items[task];
    struct encoder *encoder = &pass->encoders[thread];
    encoder->ids.count = 0;
    pass->errors[task].text[0] = '\0';
    tokenizer_encode(pass->tokenizer, encoder->scratch, text->bytes, text->length, pass->special,
                     &encoder->ids, &pass->errors[task]);
    pass->tokens[task] = encoder->ids.count;
}

static int first_error(const struct pass *pass, struct error *err)
{
    for (size_t i = 0; i < pass->documents->count; i++)
        if (pass->errors[i].text[0] != '\0')
            return error_set(err, "document %zu: %s", i + 1, pass->errors[i].text);
    return 0;
}

static int run_passes(struct pass *pass, struct pool *pool, double seconds,
                      struct tokenize_speed *out, struct error *err)
{
    const double start = clock_seconds();
    *out = (struct tokenize_speed){0};
    do {
        const double begin = clock_seconds();
        pool_run(pool, pass->documents->count, encode_document, pass);
        const double took = clock_seconds() - begin;
        if (first_error(pass, err))
            return -1;
        if (out->seconds == 0 || took < out->seconds)
            out->seconds = took;
    } while (clock_seconds() - start < seconds);
    for (size_t i = 0; i < pass->documents->count; i++) {
        out->bytes += (double)pass->documents->items[i].length;
        out->tokens += (double)pass->tokens[i];
    }
    return 0;
}

int tokenize_speed_measure(const struct tokenizer *tokenizer, const struct documents *documents,
                           bool special, int threads, double seconds, struct tokenize_speed *out,
                           struct error *err)
{
    const size_t workers = (size_t)threads, count = documents->count;
    struct pool *pool = NULL;
    struct pass pass = {.tokenizer = tokenizer,
                        .documents = documents,
                        .special = special,
                        .encoders = mem_calloc(workers, sizeof *pass.encoders),
                        .tokens = mem_calloc(count + 1, sizeof *pass.tokens),
                        .errors = mem_calloc(count + 1, sizeof *pass.errors)};
    for (size_t i = 0; i < workers; i++)
        pass.encoders[i].scratch = tokenizer_scratch_create(tokenizer);
    const int rc =
        pool_create(threads, &pool, err) || run_passes(&pass, pool, seconds, out, err) ? -1 : 0;
    pool_destroy(pool);
    for (size_t i = 0; i < workers; i++) {
        tokenizer_scratch_destroy(pass.encoders[i].scratch);
        token_list_release(&pass.encoders[i].ids);
    }
    free(pass.encoders);
    free(pass.tokens);
    free(pass.errors);
    return rc;
}
