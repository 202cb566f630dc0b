// SPDX-License-Identifier: Apache-2.0
// Stands in for tokenizer and JSON schemas in a minimal build, which has neither: nothing can make
// one, so no request can bring one along, and none of these is ever called.
#include "worker/engine/json_schema.h"

#include <assert.h>

static const bool is_reached = false;

struct json_output *json_output_create(struct json_schema *schema)
{
    (void)schema;
    assert(is_reached);
    return NULL;
}

void json_output_destroy(struct json_output *output)
{
    (void)output;
    assert(is_reached);
}

const uint64_t *json_output_mask(struct json_output *output, size_t left)
{
    (void)output;
    (void)left;
    assert(is_reached);
    return NULL;
}

size_t json_output_forced(struct json_output *output, size_t left, struct token_list *ids)
{
    (void)output;
    (void)left;
    (void)ids;
    assert(is_reached);
    return 0;
}

void json_output_accept(struct json_output *output, int32_t token)
{
    (void)output;
    (void)token;
    assert(is_reached);
}

bool json_output_complete(const struct json_output *output)
{
    (void)output;
    assert(is_reached);
    return true;
}

size_t json_output_shortest(const struct json_output *output)
{
    (void)output;
    assert(is_reached);
    return 0;
}

size_t json_output_forced_from(const struct json_output *output)
{
    (void)output;
    assert(is_reached);
    return SIZE_MAX;
}

int tokenizer_stream_add(struct tokenizer_stream *stream, const struct tokenizer *tokenizer,
                         int32_t id, struct strbuf *out, struct error *err)
{
    (void)stream;
    (void)tokenizer;
    (void)id;
    (void)out;
    assert(is_reached);
    return error_set(err, "this build has no tokenizers");
}

void tokenizer_stream_end(struct tokenizer_stream *stream, struct strbuf *out)
{
    (void)stream;
    (void)out;
    assert(is_reached);
}

void token_list_release(struct token_list *list)
{
    assert(list->count == 0); // job.c releases one that nothing was added to
}
