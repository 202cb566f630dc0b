// SPDX-License-Identifier: Apache-2.0
// A minimal build has neither tokenizers nor schemas, so that no request can bring one and nothing
// here is ever called.
#include "worker/engine/job.h"

#include <assert.h>

int tokenizer_stream_add(struct tokenizer_stream *stream, const struct tokenizer *tokenizer,
                         int32_t id, struct strbuf *out, struct error *err)
{
    (void)stream, (void)tokenizer, (void)id, (void)out;
    return error_set(err, "no tokenizers in a minimal build");
}

void tokenizer_stream_end(struct tokenizer_stream *stream, struct strbuf *out)
{
    (void)stream, (void)out;
}

void token_list_release(struct token_list *list)
{
    (void)list;
}

struct json_output *json_output_create(struct json_schema *schema)
{
    (void)schema;
    assert(!"no schemas in a minimal build");
    return NULL;
}

void json_output_destroy(struct json_output *output)
{
    (void)output;
}

const uint64_t *json_output_mask(struct json_output *output, size_t left)
{
    (void)output, (void)left;
    return NULL;
}

size_t json_output_forced(struct json_output *output, size_t left, struct token_list *ids)
{
    (void)output, (void)left, (void)ids;
    return 0;
}

void json_output_accept(struct json_output *output, int32_t token)
{
    (void)output, (void)token;
}

bool json_output_complete(const struct json_output *output)
{
    (void)output;
    return false;
}

size_t json_output_shortest(const struct json_output *output)
{
    (void)output;
    return 0;
}

size_t json_output_forced_from(const struct json_output *output)
{
    (void)output;
    return SIZE_MAX;
}
