// SPDX-License-Identifier: Apache-2.0
#include "datasets/tokenizer_vocabulary.h"

#include <stdlib.h>
#include <string.h>

bool json_is_string(const struct json *value)
{
    return value != NULL && value->type == JSON_STRING;
}

bool json_is_null(const struct json *value)
{
    return value == NULL || value->type == JSON_NULL;
}

bool json_is_off(const struct json *object, const char *key)
{
    const struct json *value = json_get(object, key);
    return json_is_null(value) || (value->type == JSON_BOOL && !value->boolean) ||
           (value->type == JSON_NUMBER && value->number == 0) ||
           (value->type == JSON_STRING && value->length == 0);
}

// What a token of the file stands for.
static enum token_kind decode_text(const struct tokenizer *t, const char *text, size_t length,
                                   struct strbuf *out)
{
    strbuf_reserve(out, 1); // bytes is not NULL even for an empty text
    if (t->byte_fallback) {
        return fallback_decode(text, length, out);
    }
    if (length > 0 && byte_alphabet_decode(text, length, out)) {
        return TOKEN_ENCODED;
    }
    strbuf_add(out, text, length);
    return TOKEN_LITERAL;
}

// A vocabulary being read: texts as the file has them, before the byte alphabet is decoded.
int vocabulary_add_texts(struct tokenizer *t, const struct json *vocabulary,
                         struct bytes_map *texts, struct error *err)
{
    if (vocabulary == NULL || vocabulary->type != JSON_OBJECT) {
        return error_set(err, "the vocabulary is not a JSON object of texts and ids%s",
                         TOKENIZER_UNSUPPORTED);
    }
    struct strbuf bytes = {0};
    int rc = 0;
    for (size_t i = 0; i < vocabulary->length && rc == 0; i++) {
        const char *text = vocabulary->keys[i];
        size_t length = vocabulary->key_lengths[i];
        const struct json *id = &vocabulary->items[i];
        if (id->type != JSON_NUMBER || !id->is_integer) {
            rc = error_set(err, "the id of token '%s' is not a whole number", text);
            break;
        }
        strbuf_reset(&bytes);
        enum token_kind kind = decode_text(t, text, length, &bytes);
        rc = tokenizer_add_token(t, id->integer, bytes.bytes, bytes.length, kind, err);
        bool added;
        if (rc == 0) {
            bytes_map_insert(texts, text, length, (int32_t)id->integer, &added);
        }
    }
    strbuf_release(&bytes);
    return rc;
}

static int add_text_merge(struct tokenizer *t, const struct bytes_map *texts, struct strbuf *joined,
                          size_t number, const struct bytes_slot parts[2], struct error *err)
{
    strbuf_reset(joined);
    strbuf_add(joined, parts[0].key, parts[0].length);
    strbuf_add(joined, parts[1].key, parts[1].length);
    int32_t left = bytes_map_get(texts, parts[0].key, parts[0].length);
    int32_t right = bytes_map_get(texts, parts[1].key, parts[1].length);
    int32_t result = bytes_map_get(texts, joined->bytes, joined->length);
    if (left < 0 || right < 0 || result < 0) {
        return error_set(err,
                         "merge %zu, '%.*s' and '%.*s', names a text that is not in the "
                         "vocabulary",
                         number, (int)parts[0].length, parts[0].key, (int)parts[1].length,
                         parts[1].key);
    }
    tokenizer_add_merge(t, left, right, result);
    return 0;
}

// "a b": exactly one space, neither first nor last.
static int split_merge(const char *line, size_t length, size_t number, struct bytes_slot parts[2],
                       struct error *err)
{
    const char *space = memchr(line, ' ', length);
    size_t left = space == NULL ? 0 : (size_t)(space - line);
    size_t right = space == NULL ? 0 : length - left - 1;
    if (left == 0 || right == 0 || memchr(space + 1, ' ', right) != NULL) {
        return error_set(err, "merge %zu, '%.*s', is not two texts with one space between", number,
                         (int)(length < 80 ? length : 80), line);
    }
    parts[0] = (struct bytes_slot){.key = line, .length = (uint32_t)left};
    parts[1] = (struct bytes_slot){.key = space + 1, .length = (uint32_t)right};
    return 0;
}

int vocabulary_add_json_merges(struct tokenizer *t, const struct json *merges,
                               const struct bytes_map *texts, struct error *err)
{
    if (merges == NULL || merges->type != JSON_ARRAY) {
        return error_set(err, "the merges are not a JSON array%s", TOKENIZER_UNSUPPORTED);
    }
    struct strbuf joined = {0};
    int rc = 0;
    for (size_t i = 0; i < merges->length && rc == 0; i++) {
        const struct json *merge = &merges->items[i];
        struct bytes_slot parts[2];
        if (json_is_string(merge)) {
            rc = split_merge(merge->string, merge->length, i, parts, err);
        } else if (merge->type == JSON_ARRAY && merge->length == 2 &&
                   json_is_string(&merge->items[0]) && json_is_string(&merge->items[1])) {
            for (int side = 0; side < 2; side++) {
                parts[side] = (struct bytes_slot){.key = merge->items[side].string,
                                                  .length = (uint32_t)merge->items[side].length};
            }
        } else {
            rc = error_set(err, "merge %zu is neither a text nor a pair of texts", i);
        }
        if (rc == 0) {
            rc = add_text_merge(t, texts, &joined, i, parts, err);
        }
    }
    strbuf_release(&joined);
    return rc;
}

// merges.txt: a merge per line, after an optional line "#version: ...".
int vocabulary_add_text_merges(struct tokenizer *t, const char *text, size_t length,
                               const struct bytes_map *texts, struct error *err)
{
    static const char version[] = "#version";
    struct strbuf joined = {0};
    size_t number = 0;
    int rc = 0;
    for (size_t at = 0; at < length && rc == 0;) {
        const char *line = text + at;
        const char *newline = memchr(line, '\n', length - at);
        size_t bytes = newline == NULL ? length - at : (size_t)(newline - line);
        at += bytes + 1;
        bytes -= bytes > 0 && line[bytes - 1] == '\r';
        bool is_version =
            line == text && bytes >= strlen(version) && memcmp(line, version, strlen(version)) == 0;
        if (bytes == 0 || is_version) {
            continue;
        }
        struct bytes_slot parts[2];
        rc = split_merge(line, bytes, number, parts, err);
        if (rc == 0) {
            rc = add_text_merge(t, texts, &joined, number, parts, err);
        }
        number++;
    }
    strbuf_release(&joined);
    return rc;
}

static int add_added_token(struct tokenizer *t, int64_t id, const struct json *entry,
                           struct error *err)
{
    const struct json *content = json_get(entry, "content");
    if (!json_is_string(content)) {
        return error_set(err, "added token %lld has no content", (long long)id);
    }
    struct added_rule rule = {0};
    if (json_get_bool(entry, "special", &rule.special, err) != 0) {
        return -1;
    }
    rule.normalized = !rule.special;
    if (json_get_bool(entry, "normalized", &rule.normalized, err) != 0 ||
        json_get_bool(entry, "single_word", &rule.single_word, err) != 0 ||
        json_get_bool(entry, "lstrip", &rule.lstrip, err) != 0 ||
        json_get_bool(entry, "rstrip", &rule.rstrip, err) != 0) {
        return -1;
    }
    return tokenizer_add_added(t, id, content->string, content->length, rule, err);
}

int vocabulary_add_added_list(struct tokenizer *t, const struct json *list, struct error *err)
{
    if (json_is_null(list)) {
        return 0;
    }
    if (list->type != JSON_ARRAY) {
        return error_set(err, "'added_tokens' is not a JSON array");
    }
    for (size_t i = 0; i < list->length; i++) {
        int64_t id = -1;
        if (json_get_int(&list->items[i], "id", 0, TOKENIZER_MAX_TOKENS - 1, &id, err) != 0 ||
            add_added_token(t, id, &list->items[i], err) != 0) {
            return error_prefix(err, "added token number %zu", i);
        }
    }
    return 0;
}

// {"151643": {"content": ...}, ...} of tokenizer_config.json
int vocabulary_add_added_decoder(struct tokenizer *t, const struct json *decoder, struct error *err)
{
    if (json_is_null(decoder)) {
        return 0;
    }
    if (decoder->type != JSON_OBJECT) {
        return error_set(err, "'added_tokens_decoder' is not a JSON object");
    }
    for (size_t i = 0; i < decoder->length; i++) {
        char *end;
        long long id = strtoll(decoder->keys[i], &end, 10);
        if (end == decoder->keys[i] || *end != '\0') {
            return error_set(err, "'added_tokens_decoder' has the key '%s', which is not an id",
                             decoder->keys[i]);
        }
        if (add_added_token(t, id, &decoder->items[i], err) != 0) {
            return -1;
        }
    }
    return 0;
}

static bool is_named(const struct json *value, const char *text)
{
    if (value != NULL && value->type == JSON_OBJECT) {
        value = json_get(value, "content");
    }
    return json_is_string(value) && strcmp(value->string, text) == 0;
}

// True when one of the values "..._token", or of the lists "..._special_tokens", is text.
static bool names_special(const struct json *config, const char *text)
{
    if (config == NULL || config->type != JSON_OBJECT) {
        return false;
    }
    for (size_t i = 0; i < config->length; i++) {
        const struct json *value = &config->items[i];
        const char *suffix = strrchr(config->keys[i], '_');
        if (suffix != NULL && strcmp(suffix, "_token") == 0 && is_named(value, text)) {
            return true;
        }
        bool is_list = suffix != NULL && strcmp(suffix, "_tokens") == 0;
        for (size_t k = 0; is_list && value->type == JSON_ARRAY && k < value->length; k++) {
            if (is_named(&value->items[k], text)) {
                return true;
            }
        }
    }
    return false;
}

int vocabulary_add_added_legacy(struct tokenizer *t, const struct json *added,
                                const struct json *config, const struct json *map,
                                struct error *err)
{
    if (added->type != JSON_OBJECT) {
        return error_set(err, "it is not a JSON object of texts and ids");
    }
    for (size_t i = 0; i < added->length; i++) {
        const struct json *id = &added->items[i];
        const char *text = added->keys[i];
        if (id->type != JSON_NUMBER || !id->is_integer) {
            return error_set(err, "the id of token '%s' is not a whole number", text);
        }
        bool special = names_special(config, text) || names_special(map, text);
        struct added_rule rule = {.special = special, .normalized = !special};
        if (tokenizer_add_added(t, id->integer, text, added->key_lengths[i], rule, err) != 0) {
            return -1;
        }
    }
    return 0;
}
