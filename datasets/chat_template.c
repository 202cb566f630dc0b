// SPDX-License-Identifier: Apache-2.0
#include "datasets/chat_template.h"

#include "base/arena.h"
#include "base/fs.h"
#include "base/hash.h"
#include "base/json.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct chat_template {
    const char *name;
    const char *default_system; // content of the message put first when there is none; or NULL
};

static const struct chat_template templates[] = {
    {.name = "chatml", .default_system = NULL},
    {.name = "qwen2.5",
     .default_system = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."},
};
#define TEMPLATE_NAMES "chatml, qwen2.5"

static const char chatml_jinja[] =
    "{%- for turn in messages -%}\n"
    "{{ '<|im_start|>' ~ turn['role'] ~ '\\n' ~ turn['content'] ~ '<|im_end|>\\n' }}\n"
    "{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}\n"
    "{{ '<|im_start|>assistant\\n' }}\n"
    "{%- endif -%}";

// Digests of Jinja texts, trailing white space left out, that render as a family does for system,
// user and assistant messages.
static const struct {
    const char *digest;
    const char *name;
} known_texts[] = {
    {"e392aa06018503fd2469c9508f79506e", "qwen2.5"}, // Qwen2.5-Instruct, 0.5B to 72B
};

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

const char *chat_template_name(const struct chat_template *template)
{
    return template->name;
}

const char *chat_template_jinja_chatml(void)
{
    return chatml_jinja;
}

static int identify(const char *text, size_t length, const struct chat_template **out,
                    struct error *err)
{
    while (length > 0 && isspace((unsigned char)text[length - 1])) {
        length--;
    }
    if (length == strlen(chatml_jinja) && memcmp(text, chatml_jinja, length) == 0) {
        return chat_template_find("chatml", out, err);
    }
    char digest[DIGEST_TEXT_BYTES];
    digest_format(digest_bytes(text, length), digest);
    for (size_t i = 0; i < sizeof known_texts / sizeof *known_texts; i++) {
        if (strcmp(digest, known_texts[i].digest) == 0) {
            return chat_template_find(known_texts[i].name, out, err);
        }
    }
    return error_set(err, "the model's chat template is not one we know; choose one of: %s",
                     TEMPLATE_NAMES);
}

// chat_template is a text, or a list of {"name", "template"} of which "default" counts.
static const struct json *default_template(const struct json *value)
{
    if (value == NULL || value->type != JSON_ARRAY) {
        return value;
    }
    for (size_t i = 0; i < value->length; i++) {
        const struct json *name = json_get(&value->items[i], "name");
        if (name != NULL && name->type == JSON_STRING && strcmp(name->string, "default") == 0) {
            return json_get(&value->items[i], "template");
        }
    }
    return NULL;
}

static int identify_in_config(const char *bytes, size_t length, const struct chat_template **out,
                              struct error *err)
{
    struct arena arena = {0};
    const struct json *config;
    int rc = json_parse(&arena, bytes, length, &config, err);
    if (rc == 0) {
        const struct json *value = default_template(json_get(config, "chat_template"));
        if (value != NULL && value->type == JSON_STRING) {
            rc = identify(value->string, value->length, out, err);
        } else {
            rc =
                error_set(err, "the model has no chat template; choose one of: %s", TEMPLATE_NAMES);
        }
    }
    arena_release(&arena);
    return rc;
}

int chat_template_detect(const char *model_dir, const struct chat_template **out, struct error *err)
{
    struct strbuf bytes = {0};
    char *jinja = fs_join(model_dir, "chat_template.jinja");
    char *config = fs_join(model_dir, "tokenizer_config.json");
    bool own_file = fs_exists(fs_system(), jinja);
    int rc = fs_read(fs_system(), own_file ? jinja : config, &bytes, err);
    if (rc == 0) {
        const char *text = bytes.length == 0 ? "" : bytes.bytes;
        rc = own_file ? identify(text, bytes.length, out, err)
                      : identify_in_config(text, bytes.length, out, err);
        if (rc != 0) {
            error_prefix(err, "'%s'", own_file ? jinja : config);
        }
    }
    strbuf_release(&bytes);
    free(jinja);
    free(config);
    return rc;
}

// Where rendering goes: text, or ids.
struct sink {
    struct strbuf *text; // NULL when ids are wanted
    struct token_list *ids;
    const struct tokenizer *tokenizer;
    struct tokenizer_scratch *scratch;
    int32_t im_start;
    int32_t im_end;
};

static const char im_start[] = "<|im_start|>";
static const char im_end[] = "<|im_end|>";

static int put_text(const struct sink *sink, const char *bytes, size_t length, struct error *err)
{
    if (sink->text != NULL) {
        strbuf_add(sink->text, bytes, length);
        return 0;
    }
    return tokenizer_encode(sink->tokenizer, sink->scratch, bytes, length, false, sink->ids, err);
}

static void put_special(const struct sink *sink, const char *text, int32_t id)
{
    if (sink->text != NULL) {
        strbuf_adds(sink->text, text);
    } else {
        token_list_add(sink->ids, id);
    }
}

// <|im_start|>ROLE\n
static int put_header(const struct sink *sink, const char *role, struct error *err)
{
    char header[32];
    int length = snprintf(header, sizeof header, "%s\n", role);
    put_special(sink, im_start, sink->im_start);
    return put_text(sink, header, (size_t)length, err);
}

static int put_message(const struct sink *sink, const struct chat_message *message,
                       struct chat_span *span, struct error *err)
{
    if (put_header(sink, message->role, err) != 0) {
        return -1;
    }
    size_t begin = sink->text == NULL ? sink->ids->count : 0;
    if (put_text(sink, message->content, message->length, err) != 0) {
        return error_prefix(err, "content of the %s", message->role);
    }
    put_special(sink, im_end, sink->im_end);
    if (span != NULL) {
        *span = (struct chat_span){.begin = begin, .end = sink->ids->count};
    }
    return put_text(sink, "\n", 1, err);
}

static int check_messages(const struct chat_message *messages, size_t count, struct error *err)
{
    if (count == 0) {
        return error_set(err, "the conversation has no messages");
    }
    for (size_t i = 0; i < count; i++) {
        const char *role = messages[i].role;
        if (strcmp(role, "system") != 0 && strcmp(role, "user") != 0 &&
            strcmp(role, "assistant") != 0) {
            return error_set(err,
                             "message %zu has the role '%s'; only system, user and assistant "
                             "are supported",
                             i, role);
        }
    }
    return 0;
}

static int render(const struct chat_template *template, const struct sink *sink,
                  const struct chat_message *messages, size_t count, bool add_generation_prompt,
                  struct chat_span *spans, struct error *err)
{
    if (template->default_system != NULL && strcmp(messages[0].role, "system") != 0) {
        struct chat_message system = {.role = "system",
                                      .content = template->default_system,
                                      .length = strlen(template->default_system)};
        if (put_message(sink, &system, NULL, err) != 0) {
            return -1;
        }
    }
    for (size_t i = 0; i < count; i++) {
        if (put_message(sink, &messages[i], spans == NULL ? NULL : &spans[i], err) != 0) {
            return error_prefix(err, "message %zu", i);
        }
    }
    return add_generation_prompt ? put_header(sink, "assistant", err) : 0;
}

int chat_render_text(const struct chat_template *template, const struct chat_message *messages,
                     size_t count, bool add_generation_prompt, struct strbuf *out,
                     struct error *err)
{
    struct sink sink = {.text = out};
    if (check_messages(messages, count, err) != 0) {
        return -1;
    }
    return render(template, &sink, messages, count, add_generation_prompt, NULL, err);
}

static int find_special(const struct tokenizer *tokenizer, const char *text, int32_t *id,
                        struct error *err)
{
    *id = tokenizer_token_id(tokenizer, text, strlen(text));
    if (*id < 0) {
        return error_set(err, "the tokenizer has no token '%s', which the chat template needs",
                         text);
    }
    return 0;
}

int chat_render_ids(const struct chat_template *template, const struct tokenizer *tokenizer,
                    struct tokenizer_scratch *scratch, const struct chat_message *messages,
                    size_t count, bool add_generation_prompt, struct token_list *out,
                    struct chat_span *spans, struct error *err)
{
    struct sink sink = {.ids = out, .tokenizer = tokenizer, .scratch = scratch};
    size_t start = out->count;
    if (check_messages(messages, count, err) != 0 ||
        find_special(tokenizer, im_start, &sink.im_start, err) != 0 ||
        find_special(tokenizer, im_end, &sink.im_end, err) != 0) {
        return -1;
    }
    if (render(template, &sink, messages, count, add_generation_prompt, spans, err) != 0) {
        out->count = start;
        return -1;
    }
    return 0;
}
