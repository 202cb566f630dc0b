// SPDX-License-Identifier: Apache-2.0
// The families: what each writes around its turns, and what each turn holds.
#include "datasets/chat_template_internal.h"

#include <string.h>

#define TEMPLATE_NAMES                                                                             \
    "chatml, gemma2, gemma3, lfm2, lfm2.5, llama3, llama3.1, mistral-v1, mistral-v3, "             \
    "mistral-v3-tekken, mistral-v7, mistral-v7-tekken, qwen2.5, qwen3, qwen3-no-think"
#define NO_THINKING "<think>\n\n</think>\n\n"

struct slice {
    const char *bytes;
    size_t length;
};

static struct slice content_of(const struct chat_message *message)
{
    return (struct slice){message->content, message->length};
}

// White space of Python's str.strip: its size at the begin of the bytes, or 0.
static size_t space_at(const char *bytes, size_t length)
{
    const unsigned char *p = (const unsigned char *)bytes;
    if (length >= 1 && ((p[0] >= 0x9 && p[0] <= 0xD) || (p[0] >= 0x1C && p[0] <= 0x20))) {
        return 1;
    }
    if (length >= 2 && p[0] == 0xC2 && (p[1] == 0x85 || p[1] == 0xA0)) {
        return 2;
    }
    if (length < 3) {
        return 0;
    }
    bool is_general =
        p[0] == 0xE2 && p[1] == 0x80 &&
        ((p[2] >= 0x80 && p[2] <= 0x8A) || p[2] == 0xA8 || p[2] == 0xA9 || p[2] == 0xAF);
    bool is_other = memcmp(p, "\xE1\x9A\x80", 3) == 0 || memcmp(p, "\xE2\x81\x9F", 3) == 0 ||
                    memcmp(p, "\xE3\x80\x80", 3) == 0;
    return is_general || is_other ? 3 : 0;
}

static struct slice trim(struct slice text)
{
    for (size_t size; (size = space_at(text.bytes, text.length)) > 0;) {
        text.bytes += size;
        text.length -= size;
    }
    for (size_t size = 1; size <= 3 && size <= text.length;) {
        bool is_space = space_at(text.bytes + text.length - size, size) == size;
        text.length -= is_space ? size : 0;
        size = is_space ? 1 : size + 1;
    }
    return text;
}

static struct slice strip_newlines(struct slice text, bool left, bool right)
{
    while (left && text.length > 0 && *text.bytes == '\n') {
        text.bytes++;
        text.length--;
    }
    while (right && text.length > 0 && text.bytes[text.length - 1] == '\n') {
        text.length--;
    }
    return text;
}

static const char *find_text(struct slice in, const char *text)
{
    size_t length = strlen(text);
    for (size_t at = 0; at + length <= in.length; at++) {
        if (memcmp(in.bytes + at, text, length) == 0) {
            return in.bytes + at;
        }
    }
    return NULL;
}

// What stands behind the last occurrence of text; all of it when there is none.
static struct slice after_last(struct slice in, const char *text)
{
    for (const char *at; (at = find_text(in, text)) != NULL;) {
        const char *end = in.bytes + in.length;
        in.bytes = at + strlen(text);
        in.length = (size_t)(end - in.bytes);
    }
    return in;
}

static void add_slice(struct body *body, struct slice text)
{
    strbuf_add(&body->text, text.bytes, text.length);
}

static bool is_role(const struct chat_message *message, const char *role)
{
    return strcmp(message->role, role) == 0;
}

static int fill_plain(const struct conversation *chat, size_t index, struct body *body,
                      struct error *err)
{
    (void)err;
    add_slice(body, content_of(&chat->messages[index]));
    return 0;
}

static int fill_trimmed(const struct conversation *chat, size_t index, struct body *body,
                        struct error *err)
{
    (void)err;
    add_slice(body, trim(content_of(&chat->messages[index])));
    return 0;
}

// The user's last message that is not the answer of a tool; without one the last message.
static size_t last_query(const struct conversation *chat)
{
    static const char open[] = "<tool_response>";
    static const char close[] = "</tool_response>";
    for (size_t i = chat->count; i-- > 0;) {
        struct slice text = content_of(&chat->messages[i]);
        bool is_response =
            text.length >= strlen(close) && memcmp(text.bytes, open, strlen(open)) == 0 &&
            memcmp(text.bytes + text.length - strlen(close), close, strlen(close)) == 0;
        if (is_role(&chat->messages[i], "user") && !is_response) {
            return i;
        }
    }
    return chat->count - 1;
}

// Reasoning is shown in answers to the last question alone, and in the last message even when
// there is none of it.
static int fill_qwen3(const struct conversation *chat, size_t index, struct body *body,
                      struct error *err)
{
    (void)err;
    struct slice content = content_of(&chat->messages[index]);
    struct slice reasoning = {"", 0};
    if (!is_role(&chat->messages[index], "assistant")) {
        add_slice(body, content);
        return 0;
    }
    const char *close = find_text(content, "</think>");
    if (close != NULL) {
        reasoning = (struct slice){content.bytes, (size_t)(close - content.bytes)};
        reasoning = after_last(strip_newlines(reasoning, false, true), "<think>");
        reasoning = strip_newlines(reasoning, true, true);
        content = strip_newlines(after_last(content, "</think>"), true, false);
    }
    if (index > last_query(chat) && (index + 1 == chat->count || reasoning.length > 0)) {
        content = strip_newlines(content, true, false);
        if (reasoning.length == 0 && chat->template->prompt_lead != NULL) {
            body->lead = chat->template->prompt_lead;
        } else {
            strbuf_adds(&body->text, "<think>\n");
            add_slice(body, reasoning);
            strbuf_adds(&body->text, "\n</think>\n\n");
        }
    }
    add_slice(body, content);
    return 0;
}

// A system message becomes the begin of the turn behind it.
static int fill_gemma3(const struct conversation *chat, size_t index, struct body *body,
                       struct error *err)
{
    (void)err;
    const struct chat_message *message = &chat->messages[index];
    if (index == 0 && is_role(message, "system")) {
        body->absent = true;
        return 0;
    }
    if (index == 1 && is_role(&chat->messages[0], "system")) {
        add_slice(body, content_of(&chat->messages[0]));
        strbuf_adds(&body->text, "\n\n");
    }
    add_slice(body, trim(content_of(message)));
    return 0;
}

static int fill_gemma2(const struct conversation *chat, size_t index, struct body *body,
                       struct error *err)
{
    if (index == 0 && is_role(&chat->messages[0], "system")) {
        return error_set(err, "the chat template '%s' has no system message", chat->template->name);
    }
    return fill_trimmed(chat, index, body, err);
}

static int fill_lfm2(const struct conversation *chat, size_t index, struct body *body,
                     struct error *err)
{
    const struct chat_message *message = &chat->messages[index];
    body->absent = index == 0 && is_role(message, "system") && message->length == 0;
    return fill_plain(chat, index, body, err);
}

// Reasoning is dropped from answers before the user's last message.
static int fill_lfm25(const struct conversation *chat, size_t index, struct body *body,
                      struct error *err)
{
    bool is_past = false;
    for (size_t i = index + 1; i < chat->count; i++) {
        is_past |= is_role(&chat->messages[i], "user");
    }
    struct slice content = content_of(&chat->messages[index]);
    if (is_past && is_role(&chat->messages[index], "assistant") &&
        find_text(content, "</think>") != NULL) {
        add_slice(body, trim(after_last(content, "</think>")));
        return 0;
    }
    return fill_lfm2(chat, index, body, err);
}

// The system message goes before the content of the user's message with this index, if it is one.
static void join_system(const struct conversation *chat, size_t index, size_t host,
                        struct body *body)
{
    bool has_system = is_role(&chat->messages[0], "system");
    body->absent = has_system && index == 0;
    if (has_system && index == host && is_role(&chat->messages[index], "user")) {
        add_slice(body, content_of(&chat->messages[0]));
        strbuf_adds(&body->text, "\n\n");
    }
}

static int fill_mistral_v1(const struct conversation *chat, size_t index, struct body *body,
                           struct error *err)
{
    strbuf_adds(&body->text, " ");
    join_system(chat, index, 1, body);
    return fill_plain(chat, index, body, err);
}

static int fill_mistral_v3(const struct conversation *chat, size_t index, struct body *body,
                           struct error *err)
{
    strbuf_adds(&body->text, " ");
    join_system(chat, index, chat->count - 1, body);
    return is_role(&chat->messages[index], "assistant") ? fill_trimmed(chat, index, body, err)
                                                        : fill_plain(chat, index, body, err);
}

static int fill_mistral_v3_tekken(const struct conversation *chat, size_t index, struct body *body,
                                  struct error *err)
{
    join_system(chat, index, chat->count - 1, body);
    return fill_plain(chat, index, body, err);
}

static int fill_mistral_v7(const struct conversation *chat, size_t index, struct body *body,
                           struct error *err)
{
    strbuf_adds(&body->text, " ");
    return fill_plain(chat, index, body, err);
}

static const struct enclosures mistral_v1 = {
    .user = {.open = " [INST]", .close = " [/INST]", .is_text = true},
    .assistant = {.close = "</s>"}};

static const struct enclosures mistral = {
    .system = {.open = "[SYSTEM_PROMPT]", .close = "[/SYSTEM_PROMPT]"},
    .user = {.open = "[INST]", .close = "[/INST]"},
    .assistant = {.close = "</s>"}};

#define CHATML                                                                                     \
    .start = "<|im_start|>", .separator = "\n", .end = "<|im_end|>", .after_end = "\n",            \
    .assistant = "assistant"
#define LLAMA3                                                                                     \
    .bos = "<|begin_of_text|>", .start = "<|start_header_id|>", .header_end = "<|end_header_id|>", \
    .separator = "\n\n", .end = "<|eot_id|>", .after_end = "", .assistant = "assistant",           \
    .fill = fill_trimmed
#define GEMMA                                                                                      \
    .bos = "<bos>", .start = "<start_of_turn>", .separator = "\n", .end = "<end_of_turn>",         \
    .after_end = "\n", .assistant = "model", .must_alternate = true
#define MISTRAL .bos = "<s>", .end = "</s>", .enclosures = &mistral

static const struct chat_template templates[] = {
    {.name = "chatml", CHATML, .fill = fill_plain},
    {.name = "qwen2.5",
     CHATML,
     .system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
     .is_system_default = true,
     .fill = fill_plain},
    {.name = "qwen3", CHATML, .fill = fill_qwen3},
    {.name = "qwen3-no-think", CHATML, .prompt_lead = NO_THINKING, .fill = fill_qwen3},
    {.name = "llama3", LLAMA3},
    {.name = "llama3.1",
     LLAMA3,
     .system = "Cutting Knowledge Date: December 2023\nToday Date: 26 Jul 2024\n\n"},
    {.name = "mistral-v1",
     .bos = "<s>",
     .end = "</s>",
     .enclosures = &mistral_v1,
     .must_alternate = true,
     .fill = fill_mistral_v1},
    {.name = "mistral-v3", MISTRAL, .must_alternate = true, .fill = fill_mistral_v3},
    {.name = "mistral-v3-tekken", MISTRAL, .must_alternate = true, .fill = fill_mistral_v3_tekken},
    {.name = "mistral-v7", MISTRAL, .fill = fill_mistral_v7},
    {.name = "mistral-v7-tekken", MISTRAL, .must_alternate = true, .fill = fill_plain},
    {.name = "gemma2", GEMMA, .fill = fill_gemma2},
    {.name = "gemma3", GEMMA, .fill = fill_gemma3},
    {.name = "lfm2", .bos = "<|startoftext|>", CHATML, .fill = fill_lfm2},
    {.name = "lfm2.5", .bos = "<|startoftext|>", CHATML, .fill = fill_lfm25},
};

const char *chat_template_names(void)
{
    return TEMPLATE_NAMES;
}

const char *chat_template_name(const struct chat_template *template)
{
    return template->name;
}

bool chat_template_takes_system(const struct chat_template *template)
{
    return template->fill != fill_gemma2;
}

const char *chat_template_end(const struct chat_template *template)
{
    return template->end;
}

int chat_template_find(const char *name, const struct chat_template **out, struct error *err)
{
    for (size_t i = 0; i < sizeof templates / sizeof *templates; i++) {
        if (strcmp(templates[i].name, name) == 0) {
            *out = &templates[i];
            return 0;
        }
    }
    return error_set(err, "the chat template '%s' is unknown; choose one of: %s", name,
                     TEMPLATE_NAMES);
}
