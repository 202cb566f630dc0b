// SPDX-License-Identifier: Apache-2.0
#include "worker/lm/salvage.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

struct text {
    struct arena *arena;
    const char *bytes;
    size_t length;
};

static bool is_space(char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t';
}

static size_t skip_space(const struct text *text, size_t at)
{
    while (at < text->length && is_space(text->bytes[at]))
        at++;
    return at;
}

static bool starts_with(const struct text *text, size_t at, const char *word)
{
    const size_t length = strlen(word);
    return length <= text->length - at && memcmp(text->bytes + at, word, length) == 0;
}

// SIZE_MAX: nowhere.
static size_t find(const struct text *text, size_t from, const char *word)
{
    const char *at = from < text->length
                         ? memmem(text->bytes + from, text->length - from, word, strlen(word))
                         : NULL;
    return at ? (size_t)(at - text->bytes) : SIZE_MAX;
}

// Where the answer begins, behind its thoughts; the end of the text when they do not end.
static size_t skip_thoughts(const struct text *text)
{
    static const char open[] = "<think>", close[] = "</think>";
    const size_t at = skip_space(text, 0);
    if (!starts_with(text, at, open))
        return 0;
    const size_t end = find(text, at, close);
    return end == SIZE_MAX ? text->length : end + strlen(close);
}

enum search { SEARCH_FAILED, SEARCH_CUT, SEARCH_FOUND };

// Reads `"name" :` and leaves *at where the value begins.
static enum search read_key(const struct text *text, size_t *at, const struct json **name)
{
    *at = skip_space(text, *at);
    if (*at < text->length && text->bytes[*at] != '"')
        return SEARCH_FAILED;
    const enum json_next next = json_parse_next(text->arena, text->bytes, text->length, at, name);
    if (next != JSON_NEXT_VALUE)
        return next == JSON_NEXT_CUT ? SEARCH_CUT : SEARCH_FAILED;
    *at = skip_space(text, *at);
    if (*at == text->length)
        return SEARCH_CUT;
    if (text->bytes[*at] != ':')
        return SEARCH_FAILED;
    *at = skip_space(text, *at + 1);
    return *at == text->length ? SEARCH_CUT : SEARCH_FOUND;
}

// The members of the object that begins at `at`, up to the array wanted.
static enum search search_members(const struct text *text, size_t at, const char *key,
                                  size_t *array)
{
    const struct json *name, *value;
    do {
        at++; // the brace, or a comma
        const enum search found = read_key(text, &at, &name);
        if (found != SEARCH_FOUND)
            return found;
        if (text->bytes[at] == '[' && name->length == strlen(key) &&
            memcmp(name->string, key, name->length) == 0) {
            *array = at;
            return SEARCH_FOUND;
        }
        const enum json_next next =
            json_parse_next(text->arena, text->bytes, text->length, &at, &value);
        if (next != JSON_NEXT_VALUE)
            return next == JSON_NEXT_CUT ? SEARCH_CUT : SEARCH_FAILED;
        at = skip_space(text, at);
    } while (at < text->length && text->bytes[at] == ',');
    return at == text->length ? SEARCH_CUT : SEARCH_FAILED;
}

static enum search search_anywhere(const struct text *text, size_t from, const char *key,
                                   size_t *array)
{
    char *quoted = mem_printf("\"%s\"", key);
    enum search found = SEARCH_FAILED;
    size_t at = find(text, from, quoted);
    while (at != SIZE_MAX && found == SEARCH_FAILED) {
        size_t behind = skip_space(text, at + strlen(quoted));
        if (behind < text->length && text->bytes[behind] == ':') {
            behind = skip_space(text, behind + 1);
            if (behind < text->length && text->bytes[behind] == '[') {
                *array = behind;
                found = SEARCH_FOUND;
            }
        }
        at = find(text, at + 1, quoted);
    }
    free(quoted);
    return found;
}

// A bracket before any brace, with what may begin an item behind it.
static enum search search_bare(const struct text *text, size_t from, size_t *array)
{
    for (size_t at = from; at < text->length && text->bytes[at] != '{'; at++) {
        if (text->bytes[at] != '[')
            continue;
        const size_t behind = skip_space(text, at + 1);
        if (behind < text->length && !memchr("{[\"]", text->bytes[behind], 4))
            continue;
        *array = at;
        return SEARCH_FOUND;
    }
    return SEARCH_FAILED;
}

static bool find_array(const struct text *text, const char *key, size_t *array)
{
    const size_t begin = skip_thoughts(text);
    const size_t brace = find(text, begin, "{");
    enum search found = SEARCH_FAILED;
    if (brace != SIZE_MAX)
        found = search_members(text, brace, key, array);
    if (found == SEARCH_FAILED)
        found = search_anywhere(text, begin, key, array);
    if (found == SEARCH_FAILED)
        found = search_bare(text, begin, array);
    return found == SEARCH_FOUND;
}

struct items {
    const struct json **list;
    size_t count;
    size_t capacity;
};

static void add_item(struct items *items, const struct json *item)
{
    items->list = mem_grow(items->list, &items->capacity, items->count + 1, sizeof *items->list);
    items->list[items->count++] = item;
}

// The next byte that begins an object or an array.
static size_t find_item(const struct text *text, size_t at)
{
    while (at < text->length && text->bytes[at] != '{' && text->bytes[at] != '[')
        at++;
    return at;
}

// at: behind the opening bracket.
static void read_items(const struct text *text, size_t at, struct items *items, struct salvage *out)
{
    for (;;) {
        at = skip_space(text, at);
        if (at == text->length)
            return;
        if (text->bytes[at] == ']') {
            out->whole = true;
            return;
        }
        const struct json *item;
        const size_t begin = at;
        switch (json_parse_next(text->arena, text->bytes, text->length, &at, &item)) {
        case JSON_NEXT_CUT:
            out->cut = 1;
            return;
        case JSON_NEXT_MALFORMED:
            out->malformed++;
            at = find_item(text, at > begin ? at : begin + 1);
            continue;
        case JSON_NEXT_VALUE:
            add_item(items, item);
            break;
        }
        at = skip_space(text, at);
        if (at < text->length && text->bytes[at] == ',')
            at++;
    }
}

void salvage_items(struct arena *arena, const char *answer, size_t length, size_t forced_from,
                   const char *key, struct salvage *out)
{
    const struct text text = {arena, answer, forced_from < length ? forced_from : length};
    struct items items = {0};
    size_t array = 0;
    *out = (struct salvage){0};
    out->found = find_array(&text, key, &array);
    if (out->found)
        read_items(&text, array + 1, &items, out);
    out->count = items.count;
    out->items = arena_alloc(arena, items.count * sizeof *out->items);
    if (items.count > 0)
        memcpy(out->items, items.list, items.count * sizeof *out->items);
    free(items.list);
}
