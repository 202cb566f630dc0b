// SPDX-License-Identifier: Apache-2.0
#include "worker/serve/chat_reply.h"

#include "base/json.h"
#include "base/utf8.h"

#include <inttypes.h>
#include <stdio.h>

static const char *finish_name(enum chat_finish finish)
{
    return finish == CHAT_FINISH_STOP ? "stop" : "length";
}

static void write_text(struct json_writer *w, const char *text, size_t bytes)
{
    struct strbuf whole = {0};
    size_t at = 0;
    while (at < bytes) {
        const size_t valid = utf8_valid_prefix(text + at, bytes - at);
        strbuf_add(&whole, text + at, valid);
        at += valid;
        if (at < bytes) {
            strbuf_addc(&whole, '?');
            at++;
        }
    }
    json_string(w, whole.length ? whole.bytes : "", whole.length);
    strbuf_release(&whole);
}

static void write_head(struct json_writer *w, const struct chat_head *head, const char *object)
{
    char id[48];
    snprintf(id, sizeof id, "chatcmpl-%" PRIx64 "-%" PRIu64, (uint64_t)head->created_unix,
             head->id);
    json_begin_object(w);
    json_key(w, "id");
    json_text(w, id);
    json_key(w, "object");
    json_text(w, object);
    json_key(w, "created");
    json_int(w, head->created_unix);
    json_key(w, "model");
    json_text_repaired(w, head->model);
}

static void write_usage(struct json_writer *w, const struct chat_usage *usage)
{
    json_key(w, "usage");
    json_begin_object(w);
    json_key(w, "prompt_tokens");
    json_int(w, (int64_t)usage->prompt_tokens);
    json_key(w, "completion_tokens");
    json_int(w, (int64_t)usage->output_tokens);
    json_key(w, "total_tokens");
    json_int(w, (int64_t)(usage->prompt_tokens + usage->output_tokens));
    json_key(w, "prompt_tokens_details");
    json_begin_object(w);
    json_key(w, "cached_tokens");
    json_int(w, (int64_t)usage->cached_tokens);
    json_end_object(w);
    json_end_object(w);
}

static void begin_choice(struct json_writer *w)
{
    json_key(w, "choices");
    json_begin_array(w);
    json_begin_object(w);
    json_key(w, "index");
    json_int(w, 0);
}

static void end_choice(struct json_writer *w, const char *finish)
{
    json_key(w, "logprobs");
    json_null(w);
    json_key(w, "finish_reason");
    finish ? json_text(w, finish) : json_null(w);
    json_end_object(w);
    json_end_array(w);
}

void chat_reply_write(struct strbuf *out, const struct chat_head *head, const char *text,
                      size_t bytes, enum chat_finish finish, const struct chat_usage *usage)
{
    struct json_writer w = {.out = out};
    write_head(&w, head, "chat.completion");
    begin_choice(&w);
    json_key(&w, "message");
    json_begin_object(&w);
    json_key(&w, "role");
    json_text(&w, "assistant");
    json_key(&w, "content");
    write_text(&w, text, bytes);
    json_key(&w, "refusal");
    json_null(&w);
    json_end_object(&w);
    end_choice(&w, finish_name(finish));
    write_usage(&w, usage);
    json_end_object(&w);
}

static void write_event(struct strbuf *out, const struct chat_head *head, const char *role,
                        const char *text, size_t bytes, const char *finish)
{
    struct json_writer w = {.out = out};
    write_head(&w, head, "chat.completion.chunk");
    begin_choice(&w);
    json_key(&w, "delta");
    json_begin_object(&w);
    if (role) {
        json_key(&w, "role");
        json_text(&w, role);
    }
    if (text) {
        json_key(&w, "content");
        write_text(&w, text, bytes);
    }
    json_end_object(&w);
    end_choice(&w, finish);
    json_end_object(&w);
}

void chat_event_begin(struct strbuf *out, const struct chat_head *head)
{
    write_event(out, head, "assistant", "", 0, NULL);
}

void chat_event_text(struct strbuf *out, const struct chat_head *head, const char *text,
                     size_t bytes)
{
    write_event(out, head, NULL, text, bytes, NULL);
}

void chat_event_end(struct strbuf *out, const struct chat_head *head, enum chat_finish finish)
{
    write_event(out, head, NULL, NULL, 0, finish_name(finish));
}

void chat_event_usage(struct strbuf *out, const struct chat_head *head,
                      const struct chat_usage *usage)
{
    struct json_writer w = {.out = out};
    write_head(&w, head, "chat.completion.chunk");
    json_key(&w, "choices");
    json_begin_array(&w);
    json_end_array(&w);
    write_usage(&w, usage);
    json_end_object(&w);
}

void chat_error_write(struct strbuf *out, const char *type, const char *param, const char *message)
{
    struct json_writer w = {.out = out};
    json_begin_object(&w);
    json_key(&w, "error");
    json_begin_object(&w);
    json_key(&w, "message");
    json_text_repaired(&w, message);
    json_key(&w, "type");
    json_text(&w, type);
    json_key(&w, "param");
    *param ? json_text(&w, param) : json_null(&w);
    json_key(&w, "code");
    json_null(&w);
    json_end_object(&w);
    json_end_object(&w);
}

void chat_models_write(struct strbuf *out, const char *name, int64_t created_unix,
                       size_t context_tokens)
{
    struct json_writer w = {.out = out};
    json_begin_object(&w);
    json_key(&w, "object");
    json_text(&w, "list");
    json_key(&w, "data");
    json_begin_array(&w);
    json_begin_object(&w);
    json_key(&w, "id");
    json_text_repaired(&w, name);
    json_key(&w, "object");
    json_text(&w, "model");
    json_key(&w, "created");
    json_int(&w, created_unix);
    json_key(&w, "owned_by");
    json_text(&w, "memo");
    json_key(&w, "max_model_len");
    json_int(&w, (int64_t)context_tokens);
    json_end_object(&w);
    json_end_array(&w);
    json_end_object(&w);
}
