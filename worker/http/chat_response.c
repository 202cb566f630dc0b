// SPDX-License-Identifier: Apache-2.0
// Errors come in these forms:
//   {"error": {"message": "...", "param": "...", "code": ..., "type": "..."}}   OpenAI, llama.cpp
//   {"error": "..."}, {"message": "...", ...}                                   older servers
//   {"detail": "..."}, {"detail": [{"loc": ["body", "x"], "msg": "..."}]}       FastAPI
// and also with status 200, from gateways that had begun to answer.
#include "worker/http/chat_response.h"

#include "base/json.h"
#include "base/strbuf.h"
#include "base/utf8.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DETAILS_LIMIT 8 // of a FastAPI error that are read

static void add_clean(struct strbuf *out, const char *bytes, size_t length, const char *secret)
{
    const size_t secret_bytes = secret ? strlen(secret) : 0;
    for (size_t i = 0; i < length;) {
        uint32_t code_point;
        if (secret_bytes > 0 && length - i >= secret_bytes &&
            memcmp(bytes + i, secret, secret_bytes) == 0) {
            strbuf_adds(out, "[key]");
            i += secret_bytes;
            continue;
        }
        const int size = utf8_decode(bytes + i, length - i, &code_point);
        if (size == 0)
            strbuf_addc(out, '?');
        else if (code_point < 0x20 || (code_point >= 0x7f && code_point < 0xa0))
            strbuf_addc(out, ' ');
        else
            strbuf_add(out, bytes + i, (size_t)size);
        i += size ? (size_t)size : 1;
    }
}

const char *text_for_people(struct arena *arena, const char *bytes, size_t length, size_t limit,
                            const char *secret)
{
    static const char dots[] = "...";
    assert(limit >= sizeof(dots));
    struct strbuf text = {0};
    add_clean(&text, bytes, length, secret);
    size_t kept = text.length;
    if (kept > limit) {
        kept = limit - strlen(dots);
        while (kept > 0 && ((uint8_t)text.bytes[kept] & 0xc0) == 0x80)
            kept--;
        memcpy(text.bytes + kept, dots, strlen(dots));
        kept += strlen(dots);
    }
    const char *copy = arena_strndup(arena, kept ? text.bytes : "", kept);
    strbuf_release(&text);
    return copy;
}

static const struct json *get_typed(const struct json *object, const char *key, enum json_type type)
{
    const struct json *value = json_get(object, key);
    return value && value->type == type ? value : NULL;
}

static void add_json_text(struct strbuf *out, const struct json *text)
{
    if (!text || text->type != JSON_STRING || text->length == 0)
        return;
    if (out->length > 0)
        strbuf_adds(out, ": ");
    strbuf_add(out, text->string, text->length);
}

static void add_detail(struct strbuf *out, const struct json *detail)
{
    const struct json *place = get_typed(detail, "loc", JSON_ARRAY);
    for (size_t i = 0; place && i < place->length && i < DETAILS_LIMIT; i++)
        add_json_text(out, &place->items[i]);
    add_json_text(out, json_get(detail, "msg"));
}

// The server's own words; the body itself when it has none of the known forms.
static void read_complaint(const struct json *root, const struct chat_reply *reply,
                           struct strbuf *out)
{
    const struct json *error = json_get(root, "error");
    const struct json *detail = json_get(root, "detail");
    add_json_text(out, error);
    add_json_text(out, json_get(error, "message"));
    add_json_text(out, json_get(error, "param"));
    add_json_text(out, json_get(root, "message"));
    add_json_text(out, detail);
    for (size_t i = 0; detail && detail->type == JSON_ARRAY && i < detail->length; i++)
        if (i < DETAILS_LIMIT)
            add_detail(out, &detail->items[i]);
    if (out->length == 0 && reply->bytes > 0)
        strbuf_add(out, reply->body,
                   reply->bytes < CHAT_COMPLAINT_BYTES ? reply->bytes : CHAT_COMPLAINT_BYTES);
}

static bool says(const struct json *error, const char *key, const char *value)
{
    const struct json *text = get_typed(error, key, JSON_STRING);
    return text && strcmp(text->string, value) == 0;
}

// OpenAI answers 429 also when an account has no money left.
static bool is_out_of_quota(const struct json *root)
{
    const struct json *error = json_get(root, "error");
    return says(error, "code", "insufficient_quota") || says(error, "type", "insufficient_quota");
}

static void judge_status(int status, const struct json *root, struct chat_response *out)
{
    out->verdict = CHAT_FAULT;
    out->may_narrow = status == 400 || status == 422 || status == 500 || status == 501;
    if (status == 429)
        out->fault = is_out_of_quota(root) ? LM_HTTP_REFUSED : LM_HTTP_THROTTLED;
    else if (status >= 500 || status == 408 || status == 409 || status == 425)
        out->fault = LM_HTTP_SERVER_ERROR;
    else if ((status >= 300 && status < 400) || (status >= 401 && status <= 407))
        out->fault = LM_HTTP_REFUSED;
    else if (status >= 400)
        out->verdict = CHAT_REJECTED;
    else
        out->fault = LM_HTTP_MALFORMED;
}

static void read_error(struct arena *arena, const struct chat_reply *reply, int status,
                       const struct json *root, struct chat_response *out)
{
    struct strbuf words = {0};
    read_complaint(root, reply, &words);
    judge_status(status, root, out);
    const char *text = words.length ? words.bytes : "";
    out->complaint =
        text_for_people(arena, text, words.length, CHAT_COMPLAINT_BYTES, reply->secret);
    const char *prefix = arena_printf(arena, "status %d%s", status, words.length ? ": " : "");
    const char *shown = text_for_people(arena, out->complaint, strlen(out->complaint),
                                        CHAT_PROBLEM_BYTES - strlen(prefix), NULL);
    out->problem = arena_printf(arena, "%s%s", prefix, shown);
    strbuf_release(&words);
}

static void malformed(struct arena *arena, const struct chat_reply *reply, const char *why,
                      struct chat_response *out)
{
    const char *type =
        text_for_people(arena, reply->content_type, strlen(reply->content_type), 80, reply->secret);
    const char *text =
        arena_printf(arena, "status %d with %zu bytes of '%s' that are no answer: %s",
                     reply->status, reply->bytes, type, why);
    out->verdict = CHAT_FAULT;
    out->fault = LM_HTTP_MALFORMED;
    out->problem = text_for_people(arena, text, strlen(text), CHAT_PROBLEM_BYTES, reply->secret);
}

static uint32_t read_count(const struct json *object, const char *key)
{
    const struct json *value = json_get(object, key);
    if (!value || !value->is_integer || value->integer < 0)
        return 0;
    return value->integer < UINT32_MAX ? (uint32_t)value->integer : UINT32_MAX;
}

static void read_usage(const struct json *root, struct chat_response *out)
{
    const struct json *usage = json_get(root, "usage");
    out->prompt_tokens = read_count(usage, "prompt_tokens");
    out->output_tokens = read_count(usage, "completion_tokens");
    out->cached_tokens = read_count(json_get(usage, "prompt_tokens_details"), "cached_tokens");
    if (out->cached_tokens > out->prompt_tokens)
        out->cached_tokens = out->prompt_tokens;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static void trim(struct lm_text *text)
{
    while (text->bytes > 0 && is_space(text->text[0]))
        text->text++, text->bytes--;
    while (text->bytes > 0 && is_space(text->text[text->bytes - 1]))
        text->bytes--;
}

static bool skip_prefix(struct lm_text *text, const char *prefix)
{
    const size_t length = strlen(prefix);
    if (text->bytes < length || memcmp(text->text, prefix, length) != 0)
        return false;
    text->text += length;
    text->bytes -= length;
    return true;
}

// An answer that was cut off inside its thoughts is empty.
static void skip_thoughts(struct lm_text *text)
{
    static const char end[] = "</think>";
    if (!skip_prefix(text, "<think>"))
        return;
    const char *found = memmem(text->text, text->bytes, end, strlen(end));
    const size_t skipped = found ? (size_t)(found - text->text) + strlen(end) : text->bytes;
    text->text += skipped;
    text->bytes -= skipped;
    trim(text);
}

static void skip_fence(struct lm_text *text)
{
    static const char fence[] = "```";
    if (!skip_prefix(text, fence))
        return;
    skip_prefix(text, "json");
    trim(text);
    const size_t length = strlen(fence);
    if (text->bytes >= length && memcmp(text->text + text->bytes - length, fence, length) == 0)
        text->bytes -= length;
    trim(text);
}

static void unwrap(struct arena *arena, struct chat_response *out)
{
    const struct json *root;
    trim(&out->answer);
    skip_thoughts(&out->answer);
    skip_fence(&out->answer);
    out->is_json = json_parse(arena, out->answer.text, out->answer.bytes, &root, NULL) == 0;
}

static void read_choice(struct arena *arena, const struct chat_reply *reply,
                        const struct json *choice, struct chat_response *out)
{
    const struct json *message = json_get(choice, "message");
    const struct json *content = get_typed(message, "content", JSON_STRING);
    const struct json *refusal = get_typed(message, "refusal", JSON_STRING);
    if (says(choice, "finish_reason", "content_filter")) {
        out->verdict = CHAT_REJECTED;
        out->problem = "the server's content filter stopped the answer";
    } else if (!content && refusal) {
        out->verdict = CHAT_REJECTED;
        out->problem = arena_printf(arena, "the model refuses: %s",
                                    text_for_people(arena, refusal->string, refusal->length,
                                                    CHAT_PROBLEM_BYTES / 2, reply->secret));
    } else if (!content) {
        malformed(arena, reply, "'choices[0].message.content' is no string", out);
    } else {
        out->verdict = CHAT_ANSWERED;
        out->is_cut = says(choice, "finish_reason", "length");
        out->answer = (struct lm_text){content->string, content->length};
    }
    if (out->verdict == CHAT_ANSWERED && reply->by_schema)
        unwrap(arena, out);
}

// The status of an error that came with 200.
static int inner_status(const struct json *error)
{
    const struct json *code = json_get(error, "code");
    const bool is_status = code && code->is_integer && code->integer >= 400 && code->integer <= 599;
    return is_status ? (int)code->integer : 500;
}

static void read_success(struct arena *arena, const struct chat_reply *reply,
                         const struct json *root, struct chat_response *out)
{
    const struct json *error = json_get(root, "error");
    const struct json *choices = get_typed(root, "choices", JSON_ARRAY);
    if (error && error->type != JSON_NULL) {
        read_error(arena, reply, inner_status(error), root, out);
    } else if (!choices || choices->length == 0) {
        malformed(arena, reply, "there is no 'choices[0]'", out);
    } else {
        read_usage(root, out);
        read_choice(arena, reply, &choices->items[0], out);
    }
}

void chat_response_read(struct arena *arena, const struct chat_reply *reply,
                        struct chat_response *out)
{
    struct error err;
    const struct json *root = NULL;
    *out = (struct chat_response){.problem = "", .complaint = ""};
    const int rc = json_parse(arena, reply->body, reply->bytes, &root, &err);
    if (reply->status != 200)
        read_error(arena, reply, reply->status, rc ? NULL : root, out);
    else if (rc)
        malformed(arena, reply, err.text, out);
    else
        read_success(arena, reply, root, out);
}
