// SPDX-License-Identifier: Apache-2.0
// JSON that cannot be lost: a JSON Schema compiled to an automaton over bytes, and for each of its
// states the set of tokens that keep the output valid. An output constrained by it parses and obeys
// the schema whatever the model wants, also when its token budget ends.
//
// The subset: {"type": "object", "properties": {...}, "required": [...]} (all properties are
// written, in the order of the schema), "array" with "items", "minItems" and "maxItems", "string"
// with "maxLength" (code points) or "enum" of strings, "boolean", "integer" and "number" (bounded
// digits), "additionalProperties": false. Any other keyword is an error that names it.
//
// Output has no white space between tokens of JSON, no raw control characters, no lone surrogates
// and no invalid UTF-8.
#ifndef MEMO_WORKER_JSON_SCHEMA_H
#define MEMO_WORKER_JSON_SCHEMA_H

#include "base/error.h"
#include "datasets/tokenizer.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// A compiled schema with one tokenizer's token masks, cached per state. One thread. The tokenizer
// is the caller's and outlives it. vocabulary is the model's (at least the tokenizer's; ids without
// a token are never allowed).
struct json_schema;
int json_schema_compile(const char *schema, size_t bytes, const struct tokenizer *tokenizer,
                        size_t vocabulary, struct json_schema **out, struct error *err);
void json_schema_destroy(struct json_schema *schema);

// Where one output stands. Copyable with json_output_copy, for preemption and tests.
struct json_output;
struct json_output *json_output_create(struct json_schema *schema);
void json_output_destroy(struct json_output *output);

// The tokens that may come next so that what is left of the budget, `left` tokens including the
// next one, still holds the shortest ending: [(vocabulary + 63) / 64] words, bit i of word w is
// token 64 w + i. At least one bit is set unless the output is complete. Valid until the next call
// with this schema. `left` is at least json_output_shortest.
const uint64_t *json_output_mask(struct json_output *output, size_t left);

// Tokens that the schema leaves no choice about, to be appended without sampling: encoded as the
// tokenizer encodes them, and ending one token before free text begins, so that the model joins
// them as it likes. Appends to ids; returns how many.
size_t json_output_forced(struct json_output *output, struct token_list *ids);

// The token was appended (also those from json_output_forced). It must be allowed.
void json_output_accept(struct json_output *output, int32_t token);

bool json_output_complete(const struct json_output *output);   // nothing may follow but the end
size_t json_output_shortest(const struct json_output *output); // tokens that an ending takes now
// Bytes so far that the model wrote freely: those behind them were forced by the end of the budget.
// SIZE_MAX while nothing was.
size_t json_output_forced_from(const struct json_output *output);

#endif
