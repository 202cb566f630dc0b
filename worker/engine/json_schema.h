// SPDX-License-Identifier: Apache-2.0
// JSON that cannot be lost: a JSON Schema compiled to an automaton over bytes, and for each of its
// states the set of tokens that keep the output valid. An output constrained by it parses and obeys
// the schema whatever the model wants, also when its token budget ends.
//
// The subset: {"type": "object", "properties": {...}, "required": [...]} (all properties are
// written, in the order of the schema), "array" with "items", "minItems" and "maxItems", "string"
// with "maxLength" (code points) or "enum" of strings, "boolean", "integer" and "number" (at most
// 15 digits before the point and 15 behind it, no exponent), "additionalProperties": false. The
// whole is an object or an array. Any other keyword is an error that names it and its place.
//
// Output has no white space between tokens of JSON, no raw control characters, no lone surrogates
// and no invalid UTF-8. A token may end inside a character or an escape. Added tokens, special or
// not, are never part of it.
#ifndef MEMO_WORKER_JSON_SCHEMA_H
#define MEMO_WORKER_JSON_SCHEMA_H

#include "base/error.h"
#include "datasets/tokenizer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// What schemas need to know of a tokenizer: its tokens sorted by their bytes, and what each does
// inside a string. Some 10 MB for 151,000 tokens; made in a fraction of a second. Schemas may share
// one. One thread. The tokenizer is the caller's and outlives it. count is the model's vocabulary;
// ids without a token are never allowed.
struct json_vocabulary;
struct json_vocabulary *json_vocabulary_create(const struct tokenizer *tokenizer, size_t count);
void json_vocabulary_destroy(struct json_vocabulary *vocabulary); // after the schemas that use it

// A compiled schema with its token masks, cached per state. One thread. The first has a vocabulary
// of its own.
struct json_schema;
int json_schema_compile(const char *schema, size_t bytes, const struct tokenizer *tokenizer,
                        size_t vocabulary, struct json_schema **out, struct error *err);
int json_schema_compile_shared(const char *schema, size_t bytes, struct json_vocabulary *vocabulary,
                               struct json_schema **out, struct error *err);
void json_schema_destroy(struct json_schema *schema); // after its outputs

// Where one output stands.
struct json_output;
struct json_output *json_output_create(struct json_schema *schema);
struct json_output *json_output_copy(const struct json_output *output);
void json_output_destroy(struct json_output *output);

// The tokens that may come next so that what is left of the budget, `left` tokens including the
// next one, still holds the shortest ending: [(vocabulary + 63) / 64] words, bit i of word w is
// token 64 w + i. At least one bit is set unless the output is complete. Valid until the next call
// with this schema. `left` is at least json_output_shortest.
const uint64_t *json_output_mask(struct json_output *output, size_t left);

// Tokens that the schema leaves no choice about, to be appended without sampling: encoded as the
// tokenizer encodes them, and ending one token before the model has a choice again, so that it
// joins the two as it likes. No more than what leaves room for the shortest ending in a budget of
// `left` tokens. Appends to ids; returns how many.
size_t json_output_forced(struct json_output *output, size_t left, struct token_list *ids);

// The token was appended (also those from json_output_forced). It must be allowed.
void json_output_accept(struct json_output *output, int32_t token);

bool json_output_complete(const struct json_output *output); // nothing may follow but the end

// Tokens that the shortest ending takes now: that of the fewest bytes, in as few tokens as spell
// it.
size_t json_output_shortest(const struct json_output *output);

// Bytes so far that the model wrote freely: at the byte behind them the schema would have left a
// choice, but the budget left only the shortest ending. SIZE_MAX while that did not happen.
size_t json_output_forced_from(const struct json_output *output);

#endif
