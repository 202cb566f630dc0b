// SPDX-License-Identifier: Apache-2.0
// Vocabulary, merges and added tokens as the files spell them, added to a tokenizer in the making.
#ifndef MEMO_DATASETS_TOKENIZER_VOCABULARY_H
#define MEMO_DATASETS_TOKENIZER_VOCABULARY_H

#include "base/json.h"
#include "datasets/tokenizer_internal.h"

#define TOKENIZER_UNSUPPORTED "; only BPE, byte-level or with byte_fallback, is supported"

// {text: id}. Fills texts (text as the file has it, before the byte alphabet is decoded, to id);
// its keys point into the JSON tree.
int vocabulary_add_texts(struct tokenizer *t, const struct json *vocabulary,
                         struct bytes_map *texts, struct error *err);

// ["a b", ...] or [["a", "b"], ...]
int vocabulary_add_json_merges(struct tokenizer *t, const struct json *merges,
                               const struct bytes_map *texts, struct error *err);

// merges.txt: one merge per line, after an optional line "#version: ...".
int vocabulary_add_text_merges(struct tokenizer *t, const char *text, size_t length,
                               const struct bytes_map *texts, struct error *err);

// tokenizer.json: [{"id": 151643, "content": ...}, ...]
int vocabulary_add_added_list(struct tokenizer *t, const struct json *list, struct error *err);

// tokenizer_config.json: {"151643": {"content": ...}, ...}
int vocabulary_add_added_decoder(struct tokenizer *t, const struct json *decoder,
                                 struct error *err);

// added_tokens.json: {"<|im_end|>": 151645, ...}. Special are those that config, the content of
// tokenizer_config.json, or map, that of special_tokens_map.json, name; each may be NULL.
int vocabulary_add_added_legacy(struct tokenizer *t, const struct json *added,
                                const struct json *config, const struct json *map,
                                struct error *err);

// The parts of tokenizer.json around a model with byte_fallback (tokenizer_load_fallback.c).
int fallback_parse(struct tokenizer *t, const struct json *root, struct error *err);

bool json_is_string(const struct json *value); // false for NULL
bool json_is_null(const struct json *value);   // true for NULL

// The member is absent, null, false, zero or empty text: the feature is not in use.
bool json_is_off(const struct json *object, const char *key);

#endif
