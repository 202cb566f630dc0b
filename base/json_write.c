// SPDX-License-Identifier: Apache-2.0
#include "base/json.h"

#include "base/mem.h"
#include "base/utf8.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void new_line(struct json_writer *w)
{
    if (w->indent == 0)
        return;
    strbuf_addc(w->out, '\n');
    for (int i = 0; i < w->indent * w->depth; i++)
        strbuf_addc(w->out, ' ');
}

// Comma and line break in front of a key or of a value that has none.
static void begin_item(struct json_writer *w)
{
    if (w->after_key) {
        w->after_key = false;
        return;
    }
    if (w->depth == 0)
        return;
    if (!w->first[w->depth - 1])
        strbuf_addc(w->out, ',');
    w->first[w->depth - 1] = false;
    new_line(w);
}

static void begin_container(struct json_writer *w, char bracket)
{
    begin_item(w);
    assert(w->depth < JSON_MAX_DEPTH);
    strbuf_addc(w->out, bracket);
    w->first[w->depth++] = true;
}

static void end_container(struct json_writer *w, char bracket)
{
    assert(w->depth > 0 && !w->after_key);
    bool is_empty = w->first[--w->depth];
    if (!is_empty)
        new_line(w);
    strbuf_addc(w->out, bracket);
}

void json_begin_object(struct json_writer *w)
{
    begin_container(w, '{');
}

void json_end_object(struct json_writer *w)
{
    end_container(w, '}');
}

void json_begin_array(struct json_writer *w)
{
    begin_container(w, '[');
}

void json_end_array(struct json_writer *w)
{
    end_container(w, ']');
}

static void add_escape(struct strbuf *out, unsigned char c)
{
    switch (c) {
    case '"':
        strbuf_adds(out, "\\\"");
        break;
    case '\\':
        strbuf_adds(out, "\\\\");
        break;
    case '\b':
        strbuf_adds(out, "\\b");
        break;
    case '\f':
        strbuf_adds(out, "\\f");
        break;
    case '\n':
        strbuf_adds(out, "\\n");
        break;
    case '\r':
        strbuf_adds(out, "\\r");
        break;
    case '\t':
        strbuf_adds(out, "\\t");
        break;
    default:
        strbuf_addf(out, "\\u%04x", c);
    }
}

static void add_quoted(struct strbuf *out, const char *bytes, size_t length)
{
    assert(utf8_valid_prefix(bytes, length) == length);
    strbuf_addc(out, '"');
    size_t plain = 0; // bytes[plain..i) need no escape and were not added yet
    for (size_t i = 0; i < length; i++) {
        unsigned char c = (unsigned char)bytes[i];
        if (c >= 0x20 && c != '"' && c != '\\')
            continue;
        strbuf_add(out, bytes + plain, i - plain);
        add_escape(out, c);
        plain = i + 1;
    }
    strbuf_add(out, bytes + plain, length - plain);
    strbuf_addc(out, '"');
}

void json_key(struct json_writer *w, const char *key)
{
    json_key_bytes(w, key, strlen(key));
}

void json_key_bytes(struct json_writer *w, const char *bytes, size_t length)
{
    assert(w->depth > 0 && !w->after_key);
    begin_item(w);
    add_quoted(w->out, bytes, length);
    strbuf_adds(w->out, w->indent ? ": " : ":");
    w->after_key = true;
}

void json_string(struct json_writer *w, const char *bytes, size_t length)
{
    begin_item(w);
    add_quoted(w->out, bytes, length);
}

void json_text(struct json_writer *w, const char *text)
{
    json_string(w, text, strlen(text));
}

void json_text_repaired(struct json_writer *w, const char *text)
{
    char *copy = mem_strdup(text);
    const size_t length = strlen(copy);
    for (size_t bad; (bad = utf8_valid_prefix(copy, length)) < length;)
        copy[bad] = '?';
    json_string(w, copy, length);
    free(copy);
}

void json_int(struct json_writer *w, int64_t value)
{
    begin_item(w);
    strbuf_addf(w->out, "%" PRId64, value);
}

void json_number(struct json_writer *w, double value)
{
    if (!isfinite(value)) {
        json_null(w);
        return;
    }
    begin_item(w);
    char text[32];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof(text), "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    strbuf_adds(w->out, text);
}

void json_bool(struct json_writer *w, bool value)
{
    begin_item(w);
    strbuf_adds(w->out, value ? "true" : "false");
}

void json_null(struct json_writer *w)
{
    begin_item(w);
    strbuf_adds(w->out, "null");
}

void json_raw(struct json_writer *w, const char *json, size_t length)
{
    begin_item(w);
    strbuf_add(w->out, json, length);
}

static void write_members(struct json_writer *w, const struct json *value)
{
    for (size_t i = 0; i < value->length; i++) {
        if (value->type == JSON_OBJECT)
            json_key_bytes(w, value->keys[i], value->key_lengths[i]);
        json_value(w, &value->items[i]);
    }
}

void json_value(struct json_writer *w, const struct json *value)
{
    switch (value->type) {
    case JSON_NULL:
        json_null(w);
        return;
    case JSON_BOOL:
        json_bool(w, value->boolean);
        return;
    case JSON_NUMBER:
        if (value->is_integer && value->integer != 0) // 0 may be -0
            json_int(w, value->integer);
        else
            json_number(w, value->number);
        return;
    case JSON_STRING:
        json_string(w, value->string, value->length);
        return;
    case JSON_ARRAY:
        json_begin_array(w);
        write_members(w, value);
        json_end_array(w);
        return;
    case JSON_OBJECT:
        json_begin_object(w);
        write_members(w, value);
        json_end_object(w);
    }
}
