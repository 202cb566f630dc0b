// SPDX-License-Identifier: Apache-2.0
// What a tokenizer.json of the SentencePiece kind must look like around its model:
//
//   normalizer     Replace(" " by U+2581), alone or in a Sequence with Prepend(U+2581)
//   pre_tokenizer  null, or Split(" "), which finds no space in normalized text
//   decoder        Sequence[Replace(U+2581 by " "), ByteFallback, Fuse], and perhaps
//                  Strip(" ", one at the start)
#include "datasets/tokenizer_vocabulary.h"

#include <string.h>

#define SPACE_MARK "\xE2\x96\x81"
#define ONLY "; with byte_fallback only Replace of spaces by '" SPACE_MARK "' is supported"

static bool is_text(const struct json *object, const char *key, const char *text)
{
    const struct json *value = json_get(object, key);
    return json_is_string(value) && strcmp(value->string, text) == 0;
}

static bool is_replace(const struct json *part, const char *from, const char *to)
{
    return is_text(part, "type", "Replace") && is_text(json_get(part, "pattern"), "String", from) &&
           is_text(part, "content", to);
}

// The parts of a Sequence, or the part itself.
static size_t list_parts(const struct json *part, const char *key, const struct json **parts)
{
    const struct json *list = json_get(part, key);
    if (is_text(part, "type", "Sequence") && list != NULL && list->type == JSON_ARRAY) {
        *parts = list->items;
        return list->length;
    }
    *parts = part;
    return json_is_null(part) ? 0 : 1;
}

static int parse_normalizer(struct tokenizer *t, const struct json *root, struct error *err)
{
    const struct json *parts;
    size_t count = list_parts(json_get(root, "normalizer"), "normalizers", &parts);
    bool replaces = false;
    for (size_t i = 0; i < count; i++) {
        bool prepends =
            is_text(&parts[i], "type", "Prepend") && is_text(&parts[i], "prepend", SPACE_MARK);
        if (prepends && !t->prepend_space) {
            t->prepend_space = true;
        } else if (is_replace(&parts[i], " ", SPACE_MARK)) {
            replaces = true;
        } else {
            return error_set(err, "part %zu of the normalizer is of another kind" ONLY, i);
        }
    }
    return replaces ? 0 : error_set(err, "the normalizer leaves spaces as they are" ONLY);
}

static int parse_pre_tokenizer(const struct json *root, struct error *err)
{
    const struct json *part = json_get(root, "pre_tokenizer");
    if (json_is_null(part) ||
        (is_text(part, "type", "Split") && is_text(json_get(part, "pattern"), "String", " ") &&
         json_is_off(part, "invert"))) {
        return 0;
    }
    return error_set(err, "the pre-tokenizer is not a Split at spaces, the only one supported with "
                          "byte_fallback");
}

static bool is_strip_one(const struct json *part)
{
    const struct json *start = json_get(part, "start");
    return is_text(part, "type", "Strip") && is_text(part, "content", " ") && start != NULL &&
           start->type == JSON_NUMBER && start->number == 1 && json_is_off(part, "stop");
}

static int parse_decoder(struct tokenizer *t, const struct json *root, struct error *err)
{
    const struct json *parts;
    size_t count = list_parts(json_get(root, "decoder"), "decoders", &parts);
    bool known = count >= 3 && is_replace(&parts[0], SPACE_MARK, " ") &&
                 is_text(&parts[1], "type", "ByteFallback") && is_text(&parts[2], "type", "Fuse");
    t->strip_first_space = known && count == 4 && is_strip_one(&parts[3]);
    if (!known || count > 4 || (count == 4 && !t->strip_first_space)) {
        return error_set(err, "the decoder is not a Sequence of Replace, ByteFallback, Fuse and at "
                              "most Strip of one space, the only one supported with byte_fallback");
    }
    return 0;
}

int fallback_parse(struct tokenizer *t, const struct json *root, struct error *err)
{
    t->byte_fallback = true;
    if (parse_normalizer(t, root, err) != 0 || parse_pre_tokenizer(root, err) != 0 ||
        parse_decoder(t, root, err) != 0) {
        return -1;
    }
    if (!json_is_off(json_get(root, "model"), "ignore_merges")) {
        return error_set(err, "the model has byte_fallback and ignore_merges, which is not "
                              "supported together");
    }
    return 0;
}
