// SPDX-License-Identifier: Apache-2.0
#include "worker/engine/json_schema.h"

#include "base/mem.h"
#include "base/utf8.h"
#include "worker/engine/json_mask.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define MASK_CACHE_BYTES ((size_t)64 << 20)
enum { LEAST_MASKS = 64, MOST_MASKS = 4096, MOST_COSTS = 1 << 16 };

struct json_output {
    struct json_schema *schema;
    struct json_state state;
    size_t bytes;
    size_t forced_from;
    bool is_forced; // the last mask left only the shortest ending
};

static void create_caches(struct json_schema *schema)
{
    const size_t mask_bytes = schema->vocabulary->words * sizeof(uint64_t);
    const size_t fitting = MASK_CACHE_BYTES / (mask_bytes + sizeof(struct json_mask));
    schema->mask_limit = fitting < LEAST_MASKS  ? LEAST_MASKS
                         : fitting > MOST_MASKS ? MOST_MASKS
                                                : fitting;
    schema->cost_limit = MOST_COSTS;
    schema->masks = mem_calloc(schema->mask_limit, sizeof *schema->masks);
    schema->heads = mem_calloc(schema->mask_limit, sizeof *schema->heads);
}

int json_schema_compile_shared(const char *text, size_t bytes, struct json_vocabulary *vocabulary,
                               struct json_schema **out, struct error *err)
{
    struct json_schema *schema = mem_calloc(1, sizeof *schema);
    schema->vocabulary = vocabulary;
    if (json_program_compile(text, bytes, &schema->program, err)) {
        json_schema_destroy(schema);
        return -1;
    }
    create_caches(schema);
    const struct json_state begin = json_program_begin(&schema->program);
    if (json_schema_cost(schema, &begin) == JSON_COST_NONE) {
        json_schema_destroy(schema);
        return error_set(err, "no tokens of this vocabulary spell what the schema asks for");
    }
    *out = schema;
    return 0;
}

int json_schema_compile(const char *text, size_t bytes, const struct tokenizer *tokenizer,
                        size_t vocabulary, struct json_schema **out, struct error *err)
{
    struct json_vocabulary *own = json_vocabulary_create(tokenizer, vocabulary);
    if (json_schema_compile_shared(text, bytes, own, out, err)) {
        json_vocabulary_destroy(own);
        return -1;
    }
    (*out)->owns_vocabulary = true;
    return 0;
}

void json_schema_destroy(struct json_schema *schema)
{
    if (!schema)
        return;
    if (schema->owns_vocabulary)
        json_vocabulary_destroy(schema->vocabulary);
    for (size_t i = 0; i < schema->mask_count; i++)
        free(schema->masks[i].words);
    free(schema->masks);
    free(schema->heads);
    free(schema->costs);
    free(schema->ending);
    free(schema->ending_costs);
    json_program_release(&schema->program);
    free(schema);
}

struct json_output *json_output_create(struct json_schema *schema)
{
    struct json_output *output = mem_calloc(1, sizeof *output);
    output->schema = schema;
    output->state = json_program_begin(&schema->program);
    output->forced_from = SIZE_MAX;
    return output;
}

struct json_output *json_output_copy(const struct json_output *output)
{
    return mem_dup(output, sizeof *output);
}

void json_output_destroy(struct json_output *output)
{
    free(output);
}

const uint64_t *json_output_mask(struct json_output *output, size_t left)
{
    const size_t shortest = json_output_shortest(output);
    assert(left >= shortest);
    output->is_forced = left == shortest;
    return json_schema_mask(output->schema, &output->state, left)->words;
}

// The bytes that the schema leaves no choice about, as far as they are whole characters. Returns
// true when they are the rest of the output.
static bool forced_text(const struct json_output *output, struct strbuf *text)
{
    const struct json_program *program = &output->schema->program;
    struct json_state state = output->state;
    for (int byte; (byte = json_program_only(program, &state)) >= 0;) {
        strbuf_addc(text, (char)byte);
        json_program_step(program, &state, (uint8_t)byte);
    }
    const size_t whole = utf8_valid_prefix(text->bytes, text->length);
    const bool is_rest = json_program_ended(program, &state) && whole == text->length;
    text->length = whole;
    return is_rest;
}

// How many of the tokens spell the text as it is and leave room for an ending. (Normalization can
// change a text, and a tokenizer that puts a space in front spells another one.)
static size_t count_usable(const struct json_output *output, const struct token_list *ids,
                           const struct strbuf *text, size_t left)
{
    const struct json_vocabulary *v = output->schema->vocabulary;
    struct json_state state = output->state;
    size_t usable = 0, at = 0;
    for (size_t i = 0; i < ids->count && i < left; i++) {
        size_t length;
        const char *bytes = tokenizer_token_bytes(v->tokenizer, ids->ids[i], &length);
        if (length > text->length - at || memcmp(bytes, text->bytes + at, length) != 0 ||
            tokenizer_token_is_added(v->tokenizer, ids->ids[i]) ||
            (size_t)ids->ids[i] >= v->words * 64)
            break;
        for (size_t n = 0; n < length; n++)
            json_program_step(&output->schema->program, &state, (uint8_t)bytes[n]);
        at += length;
        if (json_schema_cost(output->schema, &state) <= left - i - 1)
            usable = i + 1;
    }
    return usable;
}

size_t json_output_forced(struct json_output *output, size_t left, struct token_list *ids)
{
    struct strbuf text = {0};
    struct token_list encoded = {0};
    size_t usable = 0;
    const bool is_rest = forced_text(output, &text);
    if (text.length > 0 &&
        tokenizer_encode(output->schema->vocabulary->tokenizer, output->schema->vocabulary->scratch,
                         text.bytes, text.length, false, &encoded, NULL) == 0) {
        encoded.count -= encoded.count > 0 && !is_rest;
        usable = count_usable(output, &encoded, &text, left);
    }
    for (size_t i = 0; i < usable; i++)
        token_list_add(ids, encoded.ids[i]);
    token_list_release(&encoded);
    strbuf_release(&text);
    return usable;
}

void json_output_accept(struct json_output *output, int32_t token)
{
    const struct json_program *program = &output->schema->program;
    size_t length = 0;
    const char *bytes =
        tokenizer_token_bytes(output->schema->vocabulary->tokenizer, token, &length);
    assert(bytes && length > 0);
    for (size_t i = 0; i < length; i++) {
        if (output->is_forced && output->forced_from == SIZE_MAX &&
            json_program_only(program, &output->state) < 0)
            output->forced_from = output->bytes;
        const bool accepted = json_program_step(program, &output->state, (uint8_t)bytes[i]);
        assert(accepted);
        output->bytes++;
    }
    output->is_forced = false;
}

bool json_output_complete(const struct json_output *output)
{
    return json_program_ended(&output->schema->program, &output->state);
}

size_t json_output_shortest(const struct json_output *output)
{
    return json_schema_cost(output->schema, &output->state);
}

size_t json_output_forced_from(const struct json_output *output)
{
    return output->forced_from;
}
