// SPDX-License-Identifier: Apache-2.0
// Recursive descent over the bytes. The children of an open array or object wait on one stack,
// since their number is unknown; closing it moves them into the arena. So a file of n bytes takes
// time and memory proportional to n, whatever its shape, and recursion ends at JSON_MAX_DEPTH.
#include "base/json.h"

#include "base/mem.h"
#include "base/utf8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct pending {
    struct json value;
    const char *key; // members of an object only
    size_t key_length;
};

struct reader {
    struct arena *arena;
    const char *bytes;
    size_t length;
    size_t at;
    int depth;
    struct pending *stack;
    size_t stack_count;
    size_t stack_capacity;
    size_t failed_at;
    struct error *err;
};

static int fail_at(struct reader *r, size_t offset, const char *what)
{
    size_t line = 1;
    r->failed_at = offset;
    if (!r->err)
        return -1;
    for (size_t i = 0; i < offset; i++)
        line += r->bytes[i] == '\n';
    return error_set(r->err, "not valid JSON at byte %zu (line %zu): %s", offset, line, what);
}

static int peek(const struct reader *r)
{
    return r->at < r->length ? (unsigned char)r->bytes[r->at] : -1;
}

static void skip_space(struct reader *r)
{
    for (int c = peek(r); c == ' ' || c == '\n' || c == '\r' || c == '\t'; c = peek(r))
        r->at++;
}

static int read_word(struct reader *r, const char *word)
{
    const size_t start = r->at;
    while (*word && peek(r) == *word) {
        r->at++;
        word++;
    }
    if (*word)
        return fail_at(r, r->at < r->length ? start : r->at, "expected a value");
    return 0;
}

static bool skip_digits(struct reader *r)
{
    size_t start = r->at;
    while (peek(r) >= '0' && peek(r) <= '9')
        r->at++;
    return r->at > start;
}

// Checks the grammar; *is_whole tells whether fraction and exponent are absent.
static int skip_number(struct reader *r, bool *is_whole)
{
    *is_whole = true;
    if (peek(r) == '-')
        r->at++;
    if (peek(r) == '0')
        r->at++; // no digit may follow; the caller of the value sees it as a stray character
    else if (!skip_digits(r))
        return fail_at(r, r->at, "expected a digit");
    if (peek(r) == '.') {
        r->at++;
        *is_whole = false;
        if (!skip_digits(r))
            return fail_at(r, r->at, "expected a digit after the decimal point");
    }
    if (peek(r) == 'e' || peek(r) == 'E') {
        r->at++;
        *is_whole = false;
        if (peek(r) == '+' || peek(r) == '-')
            r->at++;
        if (!skip_digits(r))
            return fail_at(r, r->at, "expected a digit in the exponent");
    }
    return 0;
}

// The digits have passed skip_number. False when they do not fit into int64.
static bool parse_int64(const char *digits, size_t length, int64_t *out)
{
    bool negative = digits[0] == '-';
    int64_t value = 0;
    for (size_t i = negative; i < length; i++) {
        int digit = digits[i] - '0';
        if (__builtin_mul_overflow(value, 10, &value) ||
            __builtin_add_overflow(value, negative ? -digit : digit, &value))
            return false;
    }
    *out = value;
    return true;
}

static int read_number(struct reader *r, struct json *out)
{
    size_t start = r->at;
    bool is_whole;
    if (skip_number(r, &is_whole))
        return -1;
    size_t length = r->at - start;

    char copy[64]; // strtod needs a NUL behind the digits
    bool is_long = length >= sizeof(copy);
    char *text = is_long ? mem_alloc(length + 1) : copy;
    memcpy(text, r->bytes + start, length);
    text[length] = '\0';
    out->type = JSON_NUMBER;
    out->number = strtod(text, NULL);
    out->is_integer = is_whole && parse_int64(text, length, &out->integer);
    if (is_long)
        free(text);
    if (!isfinite(out->number))
        return fail_at(r, start, "the number is beyond the range of a double");
    return 0;
}

// Reads the four digits of \uXXXX at `at`; -1 when they are not there.
static int hex4(const struct reader *r, size_t at)
{
    if (at > r->length || r->length - at < 4)
        return -1;
    int value = 0;
    for (size_t i = at; i < at + 4; i++) {
        char c = r->bytes[i];
        int digit = c >= '0' && c <= '9'   ? c - '0'
                    : c >= 'a' && c <= 'f' ? c - 'a' + 10
                    : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                           : -1;
        if (digit < 0)
            return -1;
        value = value * 16 + digit;
    }
    return value;
}

// r->at is behind "\u". Writes UTF-8 to *end and moves it.
static int read_unicode_escape(struct reader *r, char **end)
{
    size_t escape = r->at - 2;
    int unit = hex4(r, r->at);
    if (unit < 0)
        return fail_at(r, escape, "\\u must be followed by four hexadecimal digits");
    r->at += 4;
    uint32_t code_point = (uint32_t)unit;
    if (unit >= 0xD800 && unit <= 0xDBFF) {
        bool has_second = r->length - r->at >= 2 && memcmp(r->bytes + r->at, "\\u", 2) == 0;
        int second = has_second ? hex4(r, r->at + 2) : -1;
        if (second < 0xDC00 || second > 0xDFFF)
            return fail_at(r, escape, "the first half of a surrogate pair stands alone");
        r->at += 6;
        code_point = 0x10000 + ((uint32_t)(unit - 0xD800) << 10) + (uint32_t)(second - 0xDC00);
    } else if (unit >= 0xDC00 && unit <= 0xDFFF) {
        return fail_at(r, escape, "the second half of a surrogate pair stands alone");
    }
    *end += utf8_encode(code_point, *end);
    return 0;
}

// r->at is at the backslash.
static int read_escape(struct reader *r, char **end)
{
    static const char names[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    r->at++;
    int c = peek(r);
    if (c == 'u') {
        r->at++;
        return read_unicode_escape(r, end);
    }
    const char *name = c > 0 ? strchr(names, c) : NULL;
    if (!name)
        return fail_at(r, r->at - 1, "unknown escape in a string");
    r->at++;
    *(*end)++ = meanings[name - names];
    return 0;
}

// The offset of the closing quote of the string whose content begins at r->at, or -1 with the
// error.
static int find_string_end(struct reader *r, size_t *end)
{
    for (size_t i = r->at; i < r->length; i++) {
        unsigned char c = (unsigned char)r->bytes[i];
        if (c == '"') {
            size_t valid = utf8_valid_prefix(r->bytes + r->at, i - r->at);
            if (valid < i - r->at)
                return fail_at(r, r->at + valid, "invalid UTF-8 in a string");
            *end = i;
            return 0;
        }
        if (c < 0x20)
            return fail_at(r, i, "a control character in a string must be escaped");
        if (c == '\\')
            i++;
    }
    return fail_at(r, r->length, "the text ends inside a string");
}

// r->at is at the opening quote. No escape is shorter than what it stands for.
static int read_string(struct reader *r, const char **out, size_t *out_length)
{
    size_t end = 0;
    r->at++;
    if (find_string_end(r, &end))
        return -1;
    char *text = arena_strndup(r->arena, r->bytes + r->at, end - r->at);
    char *at = text;
    while (r->at < end) {
        if (r->bytes[r->at] != '\\')
            *at++ = r->bytes[r->at++];
        else if (read_escape(r, &at))
            return -1;
    }
    *at = '\0';
    *out = text;
    *out_length = (size_t)(at - text);
    r->at = end + 1;
    return 0;
}

static struct pending *push(struct reader *r)
{
    r->stack = mem_grow(r->stack, &r->stack_capacity, r->stack_count + 1, sizeof(struct pending));
    struct pending *top = &r->stack[r->stack_count++];
    *top = (struct pending){0};
    return top;
}

// Moves the children above `base` from the stack into the arena.
static void close_container(struct reader *r, size_t base, struct json *out)
{
    size_t count = out->length = r->stack_count - base;
    out->items = arena_alloc(r->arena, count * sizeof(*out->items));
    for (size_t i = 0; i < count; i++)
        out->items[i] = r->stack[base + i].value;
    if (out->type == JSON_OBJECT) {
        out->keys = arena_alloc(r->arena, count * sizeof(*out->keys));
        out->key_lengths = arena_alloc(r->arena, count * sizeof(*out->key_lengths));
        for (size_t i = 0; i < count; i++) {
            out->keys[i] = r->stack[base + i].key;
            out->key_lengths[i] = r->stack[base + i].key_length;
        }
    }
    r->stack_count = base;
}

static int read_value(struct reader *r, struct json *out);

static int read_key(struct reader *r, const char **key, size_t *key_length)
{
    if (peek(r) != '"')
        return fail_at(r, r->at, "expected a key in quotes");
    if (read_string(r, key, key_length))
        return -1;
    skip_space(r);
    if (peek(r) != ':')
        return fail_at(r, r->at, "expected ':' after a key");
    r->at++;
    skip_space(r);
    return 0;
}

// r->at is at the opening bracket; items and members share everything but the key.
static int read_container(struct reader *r, struct json *out)
{
    out->type = peek(r) == '{' ? JSON_OBJECT : JSON_ARRAY;
    char closing = out->type == JSON_OBJECT ? '}' : ']';
    size_t base = r->stack_count;
    if (++r->depth > JSON_MAX_DEPTH)
        return fail_at(r, r->at, "arrays and objects are nested too deeply (more than 128)");
    r->at++;
    skip_space(r);
    bool is_open = peek(r) != closing;
    if (!is_open)
        r->at++;
    while (is_open) {
        const char *key = NULL;
        size_t key_length = 0;
        struct json value = {0};
        if (out->type == JSON_OBJECT && read_key(r, &key, &key_length))
            return -1;
        if (read_value(r, &value))
            return -1;
        *push(r) = (struct pending){value, key, key_length};
        skip_space(r);
        int c = peek(r);
        if (c != ',' && c != closing)
            return fail_at(r, r->at,
                           closing == '}' ? "expected ',' or '}'" : "expected ',' or ']'");
        r->at++;
        skip_space(r);
        is_open = c == ',';
    }
    r->depth--;
    close_container(r, base, out);
    return 0;
}

static int read_value(struct reader *r, struct json *out)
{
    int c = peek(r);
    switch (c) {
    case -1:
        return fail_at(r, r->at, "the text ends where a value is expected");
    case '{':
    case '[':
        return read_container(r, out);
    case '"':
        out->type = JSON_STRING;
        return read_string(r, &out->string, &out->length);
    case 't':
    case 'f':
        out->type = JSON_BOOL;
        out->boolean = c == 't';
        return read_word(r, out->boolean ? "true" : "false");
    case 'n':
        out->type = JSON_NULL;
        return read_word(r, "null");
    default:
        if (c == '-' || (c >= '0' && c <= '9'))
            return read_number(r, out);
        return fail_at(r, r->at, "expected a value");
    }
}

int json_parse(struct arena *arena, const char *bytes, size_t length, const struct json **out,
               struct error *err)
{
    struct reader r = {.arena = arena, .bytes = bytes, .length = length, .err = err};
    struct json *root = arena_alloc(arena, sizeof(*root));
    skip_space(&r);
    int rc = read_value(&r, root);
    skip_space(&r);
    if (!rc && r.at < r.length)
        rc = fail_at(&r, r.at, "unexpected text after the value");
    free(r.stack);
    if (!rc)
        *out = root;
    return rc;
}

enum json_next json_parse_next(struct arena *arena, const char *bytes, size_t length, size_t *at,
                               const struct json **out)
{
    struct reader r = {.arena = arena, .bytes = bytes, .length = length, .at = *at};
    struct json *root = arena_alloc(arena, sizeof(*root));
    skip_space(&r);
    const int rc = read_value(&r, root);
    free(r.stack);
    *at = rc ? r.failed_at : r.at;
    if (rc)
        return r.failed_at == length ? JSON_NEXT_CUT : JSON_NEXT_MALFORMED;
    const bool has_end =
        root->type == JSON_STRING || root->type == JSON_ARRAY || root->type == JSON_OBJECT;
    if (!has_end && r.at == length)
        return JSON_NEXT_CUT;
    *out = root;
    return JSON_NEXT_VALUE;
}
