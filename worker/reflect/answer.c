// SPDX-License-Identifier: Apache-2.0
#include "worker/reflect/answer.h"

#include "base/json.h"
#include "datasets/text_key.h"
#include "worker/lm/salvage.h"
#include "worker/reflect/draft.h"
#include "worker/reflect/tally.h"

#include <string.h>

// Code points of valid UTF-8.
static size_t count_chars(const char *text, size_t bytes)
{
    size_t chars = 0;
    for (size_t i = 0; i < bytes; i++) {
        chars += ((uint8_t)text[i] & 0xC0) != 0x80;
    }
    return chars;
}

// Returns why the text cannot be used, NULL when it can.
static const char *read_text(const struct json *value, uint32_t limit, struct arena *arena,
                             const char **out, size_t *out_bytes)
{
    if (!value || value->type != JSON_STRING) {
        return DROP_MALFORMED;
    }
    if (count_chars(value->string, value->length) > limit) {
        return DROP_TOO_LONG;
    }
    *out = draft_clean_text(value->string, value->length, arena, out_bytes);
    return text_key_is_empty(*out, *out_bytes) ? DROP_MALFORMED : NULL;
}

static bool is_listed(const uint32_t *from, size_t count, uint32_t position)
{
    for (size_t i = 0; i < count; i++) {
        if (from[i] == position) {
            return true;
        }
    }
    return false;
}

// Numbers that stand for no pair of the list are passed over.
static const char *read_from(const struct json *value, size_t least, size_t list_count,
                             struct arena *arena, struct answer_item *out)
{
    if (!value || value->type != JSON_ARRAY) {
        return DROP_MALFORMED;
    }
    const size_t most = value->length < list_count ? value->length : list_count;
    uint32_t *from = arena_alloc(arena, (most + 1) * sizeof *from);
    for (size_t i = 0; i < value->length; i++) {
        const struct json *number = &value->items[i];
        if (number->type != JSON_NUMBER || !number->is_integer || number->integer < 1 ||
            (uint64_t)number->integer > list_count) {
            continue;
        }
        const uint32_t position = (uint32_t)(number->integer - 1);
        if (!is_listed(from, out->from_count, position)) {
            from[out->from_count++] = position;
        }
    }
    out->from = from;
    return out->from_count >= least ? NULL : DROP_NO_PARENTS;
}

static const char *read_kind(const struct json *value, bool *out_converging)
{
    if (!value || value->type != JSON_STRING) {
        return DROP_MALFORMED;
    }
    *out_converging = strcmp(value->string, "converging") == 0;
    return *out_converging || strcmp(value->string, "parallel") == 0 ? NULL : DROP_MALFORMED;
}

static const char *read_item(enum request_kind kind, const struct answer_limits *limits,
                             size_t list_count, const struct json *value, struct arena *arena,
                             struct answer_item *out)
{
    const char *reason = NULL;
    if (kind == REQUEST_ENTITIES) {
        return read_text(value, limits->answer_chars, arena, &out->answer, &out->answer_bytes);
    }
    if (value->type != JSON_OBJECT) {
        return DROP_MALFORMED;
    }
    if (kind == REQUEST_CROSS) {
        reason = read_kind(json_get(value, "kind"), &out->converging);
    }
    if (!reason && list_count > 0) {
        reason = read_from(json_get(value, "from"), kind == REQUEST_CONSOLIDATE ? 2 : 1, list_count,
                           arena, out);
    }
    if (!reason) {
        reason = read_text(json_get(value, "question"), limits->question_chars, arena,
                           &out->question, &out->question_bytes);
    }
    if (!reason && kind != REQUEST_LOOKUP) {
        reason = read_text(json_get(value, "answer"), limits->answer_chars, arena, &out->answer,
                           &out->answer_bytes);
    }
    return reason;
}

int answer_read(enum request_kind kind, const struct answer_limits *limits, size_t list_count,
                const struct lm_result *result, struct arena *arena, struct answer *out,
                struct error *err)
{
    const char *key = request_kind_info(kind)->answer_key;
    struct salvage salvaged;
    *out = (struct answer){0};
    salvage_items(arena, result->answer.text, result->answer.bytes, result->forced_from, key,
                  &salvaged);
    if (!salvaged.found) {
        return error_set(err, "no array '%s' in an answer of %zu bytes", key, result->answer.bytes);
    }
    out->items = arena_alloc(arena, (salvaged.count + 1) * sizeof *out->items);
    out->count = salvaged.count;
    out->cut = salvaged.cut > 0;
    out->malformed = salvaged.malformed;
    out->whole = salvaged.whole;
    for (size_t i = 0; i < salvaged.count; i++) {
        struct answer_item *item = &out->items[i];
        *item = (struct answer_item){.question = "", .answer = ""};
        item->dropped = read_item(kind, limits, list_count, salvaged.items[i], arena, item);
    }
    return 0;
}

// The object of the answer: from the first brace behind any </think> to the last one.
static struct lm_text find_object(struct lm_text answer)
{
    static const char thought[] = "</think>";
    const char *end = answer.text + answer.bytes;
    const char *at = memmem(answer.text, answer.bytes, thought, strlen(thought));
    at = at ? at : answer.text;
    const char *first = memchr(at, '{', (size_t)(end - at));
    const char *last = first ? memrchr(first, '}', (size_t)(end - first)) : NULL;
    return last ? (struct lm_text){first, (size_t)(last + 1 - first)} : answer;
}

int answer_read_verdict(const struct lm_result *result, bool *out_good, struct error *err)
{
    struct arena arena = {0};
    const struct json *root;
    int rc = -1;
    if (result->forced_from < result->answer.bytes) {
        return error_set(err, "the verdict was cut short");
    }
    const struct lm_text object = find_object(result->answer);
    if (json_parse(&arena, object.text, object.bytes, &root, err) == 0) {
        const struct json *verdict = json_get(root, "self_contained");
        if (!verdict || verdict->type != JSON_BOOL) {
            error_set(err, "no verdict in the answer");
        } else {
            *out_good = verdict->boolean;
            rc = 0;
        }
    }
    arena_release(&arena);
    return rc;
}
