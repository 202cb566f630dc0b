// SPDX-License-Identifier: Apache-2.0
// What the tests of JSON by schema share: a small vocabulary with tokens that reach from text over
// quotes and brackets into other text, a naive reading of schemas to compare with, and a model that
// writes noise.
#ifndef MEMO_TESTS_WORKER_JSON_FIXTURE_H
#define MEMO_TESTS_WORKER_JSON_FIXTURE_H

#include "base/json.h"
#include "worker/engine/json_schema.h"

// Trained on answers in JSON; `size` tokens at most.
struct tokenizer *json_fixture_tokenizer(int32_t size);

extern const char *const json_fixture_schemas[];
extern const size_t json_fixture_schema_count;
extern const char json_fixture_pairs[]; // of pairs of a question and an answer

struct json_schema *json_fixture_compile(const char *schema, struct json_vocabulary *vocabulary);

// Whether bytes are an output that the schema allows, the beginning of one, or neither. Reads the
// schema itself, one value after the other, by the rules in json_schema.h.
enum reading { READING_INVALID, READING_BEGINNING, READING_WHOLE };
enum reading json_fixture_read(const struct json *schema, const char *bytes, size_t length);

static inline bool json_fixture_allows(const uint64_t *mask, int32_t token)
{
    return mask[token / 64] >> (token % 64) & 1;
}

// An output written within the budget by a model whose logits are normal noise, at temperature 1.5.
// Fails the test when it does not end within the budget.
struct json_walk {
    struct strbuf text;
    size_t tokens;
    size_t forced_from;
    size_t forced; // tokens appended without sampling
};
void json_fixture_walk(struct json_schema *schema, const struct tokenizer *tokenizer,
                       size_t vocabulary, size_t budget, uint64_t seed, struct json_walk *out);

#endif
