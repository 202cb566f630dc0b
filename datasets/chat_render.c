// SPDX-License-Identifier: Apache-2.0
// Rendering a conversation as text or as token ids.
#include "datasets/chat_template_internal.h"

#include <stdio.h>
#include <string.h>

// Where rendering goes: text, or ids.
struct sink {
    struct strbuf *text; // NULL when ids are wanted
    struct token_list *ids;
    const struct tokenizer *tokenizer;
    struct tokenizer_scratch *scratch;
    bool is_behind_text; // of an enclosure: what follows continues that text
};

static int put_text(struct sink *sink, const char *bytes, size_t length, struct error *err)
{
    if (sink->text != NULL) {
        strbuf_add(sink->text, bytes, length);
        return 0;
    }
    return sink->is_behind_text ? tokenizer_encode_continued(sink->tokenizer, sink->scratch, bytes,
                                                             length, sink->ids, err)
                                : tokenizer_encode(sink->tokenizer, sink->scratch, bytes, length,
                                                   false, sink->ids, err);
}

static int put_special(struct sink *sink, const char *text, struct error *err)
{
    if (text == NULL) {
        return 0;
    }
    if (sink->text != NULL) {
        strbuf_adds(sink->text, text);
        return 0;
    }
    int32_t id = tokenizer_token_id(sink->tokenizer, text, strlen(text));
    if (id < 0) {
        return error_set(err, "the tokenizer has no token '%s', which the chat template needs",
                         text);
    }
    token_list_add(sink->ids, id);
    sink->is_behind_text = false;
    return 0;
}

// One side of an enclosure.
static int put_mark(struct sink *sink, const char *mark, bool is_text, struct error *err)
{
    if (mark == NULL || !is_text) {
        return put_special(sink, mark, err);
    }
    int rc = put_text(sink, mark, strlen(mark), err);
    sink->is_behind_text = true;
    return rc;
}

static const struct enclosure *enclosure_of(const struct chat_template *template, const char *role)
{
    const struct enclosures *all = template->enclosures;
    if (all == NULL) {
        return NULL;
    }
    return strcmp(role, "system") == 0 ? &all->system
           : strcmp(role, "user") == 0 ? &all->user
                                       : &all->assistant;
}

static int put_header(const struct chat_template *template, struct sink *sink, const char *role,
                      const char *lead, struct error *err)
{
    const char *name = strcmp(role, "assistant") == 0 ? template->assistant : role;
    char header[32];
    int length = snprintf(header, sizeof header, "%s%s", name,
                          template->header_end == NULL ? template->separator : "");
    if (put_special(sink, template->start, err) != 0 ||
        put_text(sink, header, (size_t)length, err) != 0) {
        return -1;
    }
    if (template->header_end != NULL &&
        (put_special(sink, template->header_end, err) != 0 ||
         put_text(sink, template->separator, strlen(template->separator), err) != 0)) {
        return -1;
    }
    return lead == NULL ? 0 : put_text(sink, lead, strlen(lead), err);
}

static int put_turn(const struct chat_template *template, struct sink *sink, const char *role,
                    const struct body *body, struct chat_span *span, struct error *err)
{
    const struct enclosure *around = enclosure_of(template, role);
    if ((around != NULL ? put_mark(sink, around->open, around->is_text, err)
                        : put_header(template, sink, role, body->lead, err)) != 0) {
        return -1;
    }
    size_t begin = sink->text == NULL ? sink->ids->count : 0;
    if (put_text(sink, body->text.bytes == NULL ? "" : body->text.bytes, body->text.length, err) !=
        0) {
        return error_prefix(err, "content of the %s", role);
    }
    size_t content_end = sink->text == NULL ? sink->ids->count : 0;
    if ((around != NULL ? put_mark(sink, around->close, around->is_text, err)
                        : put_special(sink, template->end, err)) != 0) {
        return -1;
    }
    if (span != NULL) {
        *span =
            (struct chat_span){.begin = begin, .content_end = content_end, .end = sink->ids->count};
    }
    if (around != NULL) {
        return 0;
    }
    return put_text(sink, template->after_end, strlen(template->after_end), err);
}

static int put_message(const struct conversation *chat, struct sink *sink, size_t index,
                       struct chat_span *span, struct error *err)
{
    const struct chat_template *template = chat->template;
    const char *role = chat->messages[index].role;
    struct body body = {0};
    if (index == 0 && template->system != NULL && !template->is_system_default &&
        strcmp(role, "system") == 0) {
        strbuf_adds(&body.text, template->system);
    }
    if (span != NULL) {
        *span = (struct chat_span){
            .begin = sink->ids->count, .content_end = sink->ids->count, .end = sink->ids->count};
    }
    int rc = template->fill(chat, index, &body, err);
    if (rc == 0 && !body.absent) {
        rc = put_turn(template, sink, role, &body, span, err);
    }
    strbuf_release(&body.text);
    return rc;
}

static int check_messages(const struct chat_template *template, const struct chat_message *messages,
                          size_t count, struct error *err)
{
    if (count == 0) {
        return error_set(err, "the conversation has no messages");
    }
    size_t turn = 0;
    for (size_t i = 0; i < count; i++) {
        const char *role = messages[i].role;
        bool is_user = strcmp(role, "user") == 0;
        bool is_system = strcmp(role, "system") == 0;
        if (!is_system && !is_user && strcmp(role, "assistant") != 0) {
            return error_set(err,
                             "message %zu has the role '%s'; only system, user and assistant "
                             "are supported",
                             i, role);
        }
        if (i == 0 && is_system) {
            continue;
        }
        if (template->must_alternate && (is_system || is_user != (turn % 2 == 0))) {
            return error_set(err,
                             "message %zu is the %s's; with the chat template '%s' user and "
                             "assistant take turns",
                             i, role, template->name);
        }
        turn++;
    }
    return 0;
}

static int render(const struct conversation *chat, struct sink *sink, bool add_generation_prompt,
                  struct chat_span *spans, struct error *err)
{
    const struct chat_template *template = chat->template;
    if (check_messages(template, chat->messages, chat->count, err) != 0 ||
        put_special(sink, template->bos, err) != 0) {
        return -1;
    }
    if (template->system != NULL && strcmp(chat->messages[0].role, "system") != 0) {
        struct body body = {0};
        strbuf_adds(&body.text, template->system);
        int rc = put_turn(template, sink, "system", &body, NULL, err);
        strbuf_release(&body.text);
        if (rc != 0) {
            return -1;
        }
    }
    for (size_t i = 0; i < chat->count; i++) {
        if (put_message(chat, sink, i, spans == NULL ? NULL : &spans[i], err) != 0) {
            return error_prefix(err, "message %zu", i);
        }
    }
    return add_generation_prompt && template->enclosures == NULL
               ? put_header(template, sink, "assistant", template->prompt_lead, err)
               : 0;
}

int chat_render_text(const struct chat_template *template, const struct chat_message *messages,
                     size_t count, bool add_generation_prompt, struct strbuf *out,
                     struct error *err)
{
    struct sink sink = {.text = out};
    struct conversation chat = {.template = template, .messages = messages, .count = count};
    return render(&chat, &sink, add_generation_prompt, NULL, err);
}

int chat_render_ids(const struct chat_template *template, const struct tokenizer *tokenizer,
                    struct tokenizer_scratch *scratch, const struct chat_message *messages,
                    size_t count, bool add_generation_prompt, struct token_list *out,
                    struct chat_span *spans, struct error *err)
{
    struct sink sink = {.ids = out, .tokenizer = tokenizer, .scratch = scratch};
    struct conversation chat = {.template = template, .messages = messages, .count = count};
    size_t start = out->count;
    if (render(&chat, &sink, add_generation_prompt, spans, err) != 0) {
        out->count = start;
        return -1;
    }
    return 0;
}
