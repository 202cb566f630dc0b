// SPDX-License-Identifier: Apache-2.0
// What parses is written and parsed again to the same text.
#include "base/json.h"
#include "tests/fuzz/fuzz.h"

#include <assert.h>
#include <string.h>

static void write_value(struct json_writer *w, const struct json *value)
{
    switch (value->type) {
    case JSON_NULL:
        json_null(w);
        break;
    case JSON_BOOL:
        json_bool(w, value->boolean);
        break;
    case JSON_NUMBER:
        if (value->is_integer)
            json_int(w, value->integer);
        else
            json_number(w, value->number);
        break;
    case JSON_STRING:
        json_string(w, value->string, value->length);
        break;
    case JSON_ARRAY:
        json_begin_array(w);
        for (size_t i = 0; i < value->length; i++)
            write_value(w, &value->items[i]);
        json_end_array(w);
        break;
    case JSON_OBJECT:
        json_begin_object(w);
        for (size_t i = 0; i < value->length; i++) {
            json_key_bytes(w, value->keys[i], value->key_lengths[i]);
            write_value(w, &value->items[i]);
        }
        json_end_object(w);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = {0};
    struct error err;
    const struct json *first, *second;
    struct strbuf text = {0}, again = {0};
    if (json_parse(&arena, (const char *)data, size, &first, &err) == 0) {
        write_value(&(struct json_writer){.out = &text}, first);
        assert(json_parse(&arena, text.bytes, text.length, &second, &err) == 0);
        write_value(&(struct json_writer){.out = &again}, second);
        assert(again.length == text.length && memcmp(again.bytes, text.bytes, text.length) == 0);
    }
    strbuf_release(&text);
    strbuf_release(&again);
    arena_release(&arena);
    return 0;
}
