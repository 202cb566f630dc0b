// SPDX-License-Identifier: Apache-2.0
// The tokens of a vocabulary, as JSON by schema asks for them: sorted by their bytes, so that
// tokens with a common beginning are read once; looked up by their bytes; and for each place inside
// a string, what each token does from there, which depends on nothing around the string.
#ifndef MEMO_WORKER_JSON_VOCABULARY_H
#define MEMO_WORKER_JSON_VOCABULARY_H

#include "worker/engine/json_program.h"
#include "worker/engine/json_schema.h"

enum { JSON_LOOKUP_BYTES = 32 }; // of the longest token that json_vocabulary_lengths knows

struct json_token {
    const uint8_t *bytes;
    uint32_t length;
    int32_t id;
};

// A token that, read at a place inside a string, does not reach the string's end.
struct json_stay {
    int32_t id;
    uint16_t points; // code points that it begins
    uint16_t end;    // the place behind it
};

// A token with the closing quote of the string that it is read in, and whatever behind it.
struct json_close {
    int32_t id;
    uint16_t points;
    const uint8_t *behind; // [behind_length] the bytes behind the quote
    uint32_t behind_length;
};

struct json_string_tokens {
    bool made;
    struct json_stay *stays;
    size_t stay_count;
    struct json_close *closes;
    size_t close_count;
};

struct json_vocabulary {
    const struct tokenizer *tokenizer;
    struct tokenizer_scratch *scratch;
    size_t words;              // 64-bit words of a mask
    struct json_token *tokens; // sorted; added tokens and empty ones are not among them
    uint32_t *shared;          // [token_count] bytes in common with the token before
    size_t token_count;
    uint32_t longest; // bytes of a token
    struct json_string_tokens places[JSON_PLACE_COUNT];
    uint8_t next[JSON_PLACE_COUNT][256]; // json_place_next

    // By the bytes of tokens not longer than JSON_LOOKUP_BYTES: open addressing, 0 is empty.
    uint32_t *slots; // index of a token, plus 1
    size_t slot_mask;
    uint32_t *lengths; // [65536] by the first two bytes (a single byte: by itself and 0): bit n - 1
                       // is set when a token has n bytes
};

// What tokens do from this place inside a string.
const struct json_string_tokens *json_vocabulary_place(struct json_vocabulary *vocabulary,
                                                       enum json_place place);

// Bit n - 1 is set when bytes[0..n) is a token. length is at least 1.
uint32_t json_vocabulary_lengths(const struct json_vocabulary *vocabulary, const uint8_t *bytes,
                                 size_t length);

#endif
