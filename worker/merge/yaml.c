// SPDX-License-Identifier: Apache-2.0
#include "worker/merge/yaml.h"

#include "base/mem.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

#define DEPTH_MAX 64 // deeper than any configuration

struct reader {
    yaml_parser_t parser;
    struct arena *arena;
    int depth;
};

static int read_node(struct reader *reader, yaml_event_t *event, struct json *out,
                     struct error *err);

static int next_event(struct reader *reader, yaml_event_t *event, struct error *err)
{
    if (yaml_parser_parse(&reader->parser, event))
        return 0;
    return error_set(err, "line %zu: %s", reader->parser.problem_mark.line + 1,
                     reader->parser.problem ? reader->parser.problem : "not YAML");
}

static bool is_word(const char *text, const char *const *words)
{
    for (; *words; words++) {
        if (strcmp(text, *words) == 0)
            return true;
    }
    return false;
}

static bool read_number(const char *text, struct json *out)
{
    char *end;
    if (!isdigit((unsigned char)text[0]) && !strchr("+-.", text[0]))
        return false;
    if (strpbrk(text, "xXnN")) // hexadecimal, nan, infinity: no parameter is one
        return false;
    const double number = strtod(text, &end);
    if (end == text || *end != '\0' || !isfinite(number))
        return false;
    out->type = JSON_NUMBER;
    out->number = number;
    errno = 0;
    const long long integer = strtoll(text, &end, 10);
    out->is_integer = *end == '\0' && errno == 0;
    out->integer = out->is_integer ? integer : 0;
    return true;
}

static void read_scalar(struct reader *reader, const yaml_event_t *event, struct json *out)
{
    static const char *const nulls[] = {"", "~", "null", "Null", "NULL", NULL};
    static const char *const trues[] = {"true", "True", "TRUE", NULL};
    static const char *const falses[] = {"false", "False", "FALSE", NULL};
    const size_t length = event->data.scalar.length;
    char *text = arena_alloc(reader->arena, length + 1);
    memcpy(text, event->data.scalar.value, length);
    text[length] = '\0';
    const bool plain = event->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
    out->type = JSON_STRING;
    if (plain && is_word(text, nulls))
        out->type = JSON_NULL;
    if (plain && (is_word(text, trues) || is_word(text, falses))) {
        out->type = JSON_BOOL;
        out->boolean = is_word(text, trues);
    }
    if (out->type == JSON_STRING && !(plain && length > 0 && read_number(text, out))) {
        out->string = text;
        out->length = length;
    }
}

// Items of an array or object while they are read.
struct items {
    struct json *values;
    const char **keys;
    size_t count, value_capacity, key_capacity;
};

static struct json *items_add(struct items *items, const char *key)
{
    items->values =
        mem_grow(items->values, &items->value_capacity, items->count + 1, sizeof(*items->values));
    items->keys =
        mem_grow(items->keys, &items->key_capacity, items->count + 1, sizeof(*items->keys));
    items->values[items->count] = (struct json){0};
    items->keys[items->count] = key;
    return &items->values[items->count++];
}

static void items_move(struct reader *reader, struct items *items, struct json *out)
{
    out->length = items->count;
    out->items = arena_alloc(reader->arena, (items->count + 1) * sizeof(*out->items));
    if (items->count > 0)
        memcpy(out->items, items->values, items->count * sizeof(*out->items));
    if (out->type == JSON_OBJECT) {
        out->keys = arena_alloc(reader->arena, (items->count + 1) * sizeof(*out->keys));
        out->key_lengths =
            arena_alloc(reader->arena, (items->count + 1) * sizeof(*out->key_lengths));
        for (size_t i = 0; i < items->count; i++) {
            out->keys[i] = items->keys[i];
            out->key_lengths[i] = strlen(items->keys[i]);
        }
    }
}

static int read_key(struct reader *reader, const yaml_event_t *event, const struct items *items,
                    const char **out, struct error *err)
{
    const size_t line = event->start_mark.line + 1;
    if (event->type != YAML_SCALAR_EVENT)
        return error_set(err, "line %zu: a key is not a plain word", line);
    const char *value = (const char *)event->data.scalar.value;
    if (strlen(value) != event->data.scalar.length)
        return error_set(err, "line %zu: a key holds a NUL", line);
    for (size_t i = 0; i < items->count; i++) {
        if (strcmp(items->keys[i], value) == 0)
            return error_set(err, "line %zu: the key '%s' is repeated", line, value);
    }
    char *copy = arena_alloc(reader->arena, strlen(value) + 1);
    strcpy(copy, value);
    *out = copy;
    return 0;
}

static int read_items(struct reader *reader, yaml_event_type_t end, struct items *items,
                      bool object, struct error *err)
{
    for (;;) {
        yaml_event_t event;
        const char *key = "";
        if (next_event(reader, &event, err))
            return -1;
        const bool done = event.type == end;
        int rc = done || !object ? 0 : read_key(reader, &event, items, &key, err);
        if (object || done)
            yaml_event_delete(&event);
        if (done || rc != 0)
            return rc;
        if (object && next_event(reader, &event, err))
            return -1;
        struct json value = {0};
        rc = read_node(reader, &event, &value, err);
        yaml_event_delete(&event);
        if (rc != 0)
            return -1;
        *items_add(items, key) = value;
    }
}

static int read_collection(struct reader *reader, bool object, struct json *out, struct error *err)
{
    struct items items = {0};
    out->type = object ? JSON_OBJECT : JSON_ARRAY;
    if (++reader->depth > DEPTH_MAX)
        return error_set(err, "line %zu: nested deeper than %d", reader->parser.mark.line + 1,
                         DEPTH_MAX);
    const int rc = read_items(reader, object ? YAML_MAPPING_END_EVENT : YAML_SEQUENCE_END_EVENT,
                              &items, object, err);
    if (rc == 0)
        items_move(reader, &items, out);
    free(items.values);
    free(items.keys);
    reader->depth--;
    return rc;
}

static const void *anchor_or_tag(const yaml_event_t *event)
{
    switch (event->type) {
    case YAML_SCALAR_EVENT:
        return event->data.scalar.anchor ? event->data.scalar.anchor : event->data.scalar.tag;
    case YAML_SEQUENCE_START_EVENT:
        return event->data.sequence_start.anchor ? event->data.sequence_start.anchor
                                                 : event->data.sequence_start.tag;
    case YAML_MAPPING_START_EVENT:
        return event->data.mapping_start.anchor ? event->data.mapping_start.anchor
                                                : event->data.mapping_start.tag;
    default:
        return NULL;
    }
}

static int read_node(struct reader *reader, yaml_event_t *event, struct json *out,
                     struct error *err)
{
    const size_t line = event->start_mark.line + 1;
    if (event->type == YAML_ALIAS_EVENT || anchor_or_tag(event))
        return error_set(err, "line %zu: anchors, aliases and tags are not supported", line);
    switch (event->type) {
    case YAML_SCALAR_EVENT:
        read_scalar(reader, event, out);
        return 0;
    case YAML_SEQUENCE_START_EVENT:
        return read_collection(reader, false, out, err);
    case YAML_MAPPING_START_EVENT:
        return read_collection(reader, true, out, err);
    default:
        return error_set(err, "line %zu: a value is missing", line);
    }
}

// Takes the next event, which must be of this type.
static int expect(struct reader *reader, yaml_event_type_t type, const char *what,
                  struct error *err)
{
    yaml_event_t event;
    if (next_event(reader, &event, err))
        return -1;
    const bool right = event.type == type;
    const size_t line = event.start_mark.line + 1;
    yaml_event_delete(&event);
    return right ? 0 : error_set(err, "line %zu: %s", line, what);
}

static int read_document(struct reader *reader, struct json *out, struct error *err)
{
    yaml_event_t event;
    if (expect(reader, YAML_STREAM_START_EVENT, "not YAML", err) || next_event(reader, &event, err))
        return -1;
    const bool empty = event.type == YAML_STREAM_END_EVENT;
    yaml_event_delete(&event);
    if (empty)
        return 0;
    if (next_event(reader, &event, err))
        return -1;
    const int rc = read_node(reader, &event, out, err);
    yaml_event_delete(&event);
    return rc || expect(reader, YAML_DOCUMENT_END_EVENT, "more than one value", err) ||
                   expect(reader, YAML_STREAM_END_EVENT, "more than one document", err)
               ? -1
               : 0;
}

int yaml_parse(struct arena *arena, const char *bytes, size_t length, const struct json **out,
               struct error *err)
{
    struct reader reader = {.arena = arena};
    struct json *root = arena_alloc(arena, sizeof(*root));
    *root = (struct json){0};
    if (!yaml_parser_initialize(&reader.parser))
        return error_set(err, "out of memory");
    yaml_parser_set_input_string(&reader.parser, (const unsigned char *)bytes, length);
    const int rc = read_document(&reader, root, err);
    yaml_parser_delete(&reader.parser);
    *out = root;
    return rc;
}
