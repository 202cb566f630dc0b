// SPDX-License-Identifier: Apache-2.0
// Recognizing a model's template. A text that we know to the letter is looked up by its digest.
// Publishers change comments, tool calls and spacing more often than how messages are written, so
// any other text is taken for the one family whose marks it all has: pieces of Jinja without which
// the family's messages could not look as they do, and none of the pieces that make another family
// of it. No family, or two: an error, and --chat-template decides.
#include "datasets/chat_template.h"

#include "base/arena.h"
#include "base/fs.h"
#include "base/hash.h"
#include "base/json.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define MAX_MARKS 8

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
    {"cc9ddd5a40bc1c0c8fb5d937b1e8f5d0", "chatml"},  // Qwen3-Instruct-2507
};

static const struct {
    const char *name;
    const char *has[MAX_MARKS];
    const char *lacks[MAX_MARKS];
} families[] = {
    {"qwen2.5",
     {"<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
      "message.role == \"assistant\" and not message.tool_calls", "<|im_end|>", "# Tools"},
     {"bos_token", "</think>"}},
    {"qwen3",
     {"<|im_start|>", "enable_thinking is defined and enable_thinking is false",
      "'<think>\\n\\n</think>\\n\\n'", "loop.index0 > ns.last_query_index",
      "loop.last or (not loop.last and reasoning_content)"},
     {"bos_token", "render_content", "|trim"}},
    {"llama3",
     {"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "bos_token", "| trim",
      "loop.index0 == 0"},
     {"Date", "tools", "strftime_now", "'user'"}},
    {"llama3.1",
     {"<|start_header_id|>system<|end_header_id|>\\n\\n", "<|eot_id|>",
      "\"Cutting Knowledge Date: December 2023\\n\"", "\"Today Date: \" + date_string + \"\\n\\n\"",
      "date_string = \"26 Jul 2024\"", "messages[0]['content']|trim", "bos_token"},
     {"<think>"}},
    {"mistral-v1",
     {"bos_token", "loop.first and system_message is defined",
      "' [INST] ' + system_message + '\\n\\n' + message['content'] + ' [/INST]'",
      "' [INST] ' + message['content'] + ' [/INST]'", "' ' + message['content'] + eos_token",
      "loop.index0 % 2 == 0"},
     {"trim", "tools", "SYS"}},
    {"mistral-v3",
     {"bos_token", "loop.last and system_message is defined",
      "\"[INST] \" + system_message + \"\\n\\n\" + message[\"content\"] + \"[/INST]\"",
      "\"[INST] \" + message[\"content\"] + \"[/INST]\"",
      "\" \" + message[\"content\"]|trim + eos_token", "ns.index % 2 == 0"},
     {"SYSTEM_PROMPT"}},
    {"mistral-v3-tekken",
     {"bos_token", "loop.last and system_message is defined",
      "\"[INST]\" + system_message + \"\\n\\n\" + message[\"content\"] + \"[/INST]\"",
      "\"[INST]\" + message[\"content\"] + \"[/INST]\"", "{{- message[\"content\"] + eos_token",
      "ns.index % 2 == 0"},
     {"SYSTEM_PROMPT", "trim"}},
    {"mistral-v7",
     {"bos_token", "'[INST] ' + message['content'] + '[/INST]'",
      "'[SYSTEM_PROMPT] ' + message['content'] + '[/SYSTEM_PROMPT]'",
      "' ' + message['content'] + eos_token"},
     {"system_message", "trim", "% 2"}},
    {"gemma2",
     {"bos_token", "<start_of_turn>", "<end_of_turn>", "System role not supported", "| trim",
      "set role = 'model'"},
     {"first_user_prefix", "tools"}},
    {"gemma3",
     {"bos_token", "<start_of_turn>", "<end_of_turn>", "(first_user_prefix if loop.first", "| trim",
      "set role = \"model\""},
     {"System role not supported", "tools"}},
    {"lfm2",
     {"bos_token", "<|im_start|>system\\n", "List of tools: <|tool_list_start|>[",
      "<|im_start|>assistant\\n", "content + \"<|im_end|>\\n\""},
     {"</think>", "strftime_now", "macro", "trim"}},
    {"lfm2.5",
     {"bos_token", "<|im_start|>system\\n", "List of tools: ", "loop.index0 > ns.last_user_index",
      "content.split(\"</think>\")[-1] | trim", "<|im_start|>assistant\\n"},
     {"<|tool_list_start|>"}},
};

const char *chat_template_jinja_chatml(void)
{
    return chatml_jinja;
}

// How many of the pieces the text holds.
static size_t count_marks(const char *text, const char *const *marks)
{
    size_t held = 0;
    for (size_t i = 0; i < MAX_MARKS && marks[i] != NULL; i++) {
        held += strstr(text, marks[i]) != NULL;
    }
    return held;
}

static const char *find_family(const char *text)
{
    const char *found = NULL;
    for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
        size_t needed = 0;
        while (needed < MAX_MARKS && families[i].has[needed] != NULL) {
            needed++;
        }
        if (count_marks(text, families[i].has) == needed &&
            count_marks(text, families[i].lacks) == 0) {
            if (found != NULL) {
                return NULL;
            }
            found = families[i].name;
        }
    }
    return found;
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
    const char *family = memchr(text, '\0', length) == NULL ? find_family(text) : NULL;
    if (family != NULL) {
        return chat_template_find(family, out, err);
    }
    return error_set(err,
                     "the model's chat template is not one we know; choose one of: %s "
                     "(--chat-template)",
                     chat_template_names());
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
            rc = error_set(err,
                           "the model has no chat template; choose one of: %s (--chat-template)",
                           chat_template_names());
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
