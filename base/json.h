// SPDX-License-Identifier: Apache-2.0
// JSON (RFC 8259), read strictly and written compactly. The reader faces hostile bytes: invalid
// UTF-8, a byte order mark, lone surrogates, trailing text, depth above JSON_MAX_DEPTH and numbers
// beyond the range of a double are errors that name the byte offset. Duplicate keys, which the RFC
// leaves open, are kept; json_get and the typed getters see the last one.
#ifndef MEMO_BASE_JSON_H
#define MEMO_BASE_JSON_H

#include "base/arena.h"
#include "base/error.h"
#include "base/strbuf.h"

#include <stdbool.h>
#include <stdint.h>

#define JSON_MAX_DEPTH 128 // deeper than any file we read; shallow enough for any stack

enum json_type {
    JSON_NULL,
    JSON_BOOL,
    JSON_NUMBER,
    JSON_STRING,
    JSON_ARRAY,
    JSON_OBJECT,
};

struct json {
    enum json_type type;
    bool boolean;
    bool is_integer;     // number written without fraction or exponent and within int64
    int64_t integer;     // valid when is_integer
    double number;       // valid for every number
    const char *string;  // NUL-terminated copy with escapes resolved; may contain NULs
    size_t length;       // bytes of string, or count of items or members
    struct json *items;  // array items or member values
    const char **keys;   // object: keys[i] belongs to items[i], in file order
    size_t *key_lengths; // bytes of keys[i]
};

// The tree lives in the arena (so does what was read before an error). bytes need not be
// NUL-terminated. Time and memory are linear in length.
int json_parse(struct arena *arena, const char *bytes, size_t length, const struct json **out,
               struct error *err);

// One value in the middle of text: the one that begins at bytes[*at], behind white space. On
// success *at is behind it, and what follows is not looked at; on failure *at is the byte that
// cannot be there. A value is cut when the text ends inside it, or ends right behind a number or a
// word, which might have gone on.
enum json_next {
    JSON_NEXT_MALFORMED = -1,
    JSON_NEXT_VALUE = 0,
    JSON_NEXT_CUT = 1,
};
enum json_next json_parse_next(struct arena *arena, const char *bytes, size_t length, size_t *at,
                               const struct json **out);

const char *json_type_name(enum json_type type); // "a string", for messages

// NULL when object is not an object or has no such key. Scans the members.
const struct json *json_get(const struct json *object, const char *key);

// Typed members. A missing key or JSON null leaves *out untouched and returns 0; a wrong type or a
// value out of range is an error that names the key. Set *out to the default first.
int json_get_string(const struct json *object, const char *key, const char **out,
                    struct error *err);
int json_get_int(const struct json *object, const char *key, int64_t minimum, int64_t maximum,
                 int64_t *out, struct error *err);
int json_get_number(const struct json *object, const char *key, double *out, struct error *err);
int json_get_bool(const struct json *object, const char *key, bool *out, struct error *err);

// Writing. Commas are placed by the writer; inside an object every value is preceded by json_key.
// Zero-initialise with the target: struct json_writer w = {.out = &buf, .indent = 0 or 2}.
struct json_writer {
    struct strbuf *out;
    int indent; // spaces per level; 0 writes one line
    int depth;
    bool first[JSON_MAX_DEPTH];
    bool after_key;
};

void json_begin_object(struct json_writer *w);
void json_end_object(struct json_writer *w);
void json_begin_array(struct json_writer *w);
void json_end_array(struct json_writer *w);
void json_key(struct json_writer *w, const char *key);
void json_key_bytes(struct json_writer *w, const char *bytes, size_t length);
void json_string(struct json_writer *w, const char *bytes, size_t length); // must be valid UTF-8
void json_text(struct json_writer *w, const char *text);
void json_text_repaired(struct json_writer *w,
                        const char *text); // a '?' for each byte that is not UTF-8
void json_int(struct json_writer *w, int64_t value);
void json_number(struct json_writer *w,
                 double value); // shortest form that reads back equal; NaN, inf: null
void json_bool(struct json_writer *w, bool value);
void json_null(struct json_writer *w);
void json_raw(struct json_writer *w, const char *json,
              size_t length);                                     // a value that is JSON already
void json_value(struct json_writer *w, const struct json *value); // one that was read

#endif
