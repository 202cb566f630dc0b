// SPDX-License-Identifier: Apache-2.0
// Chat templates: how a conversation becomes the text that a model was trained on. The families
// that we know are rendered in C, byte for byte as their Jinja templates render it; we run no
// Jinja.
//
//   chatml    <|im_start|>ROLE\nCONTENT<|im_end|>\n for each message
//   qwen2.5   the same, and a default system message when the first message is not the system's
//
// with <|im_start|>assistant\n at the end when an answer is to follow. Tool calls are not rendered.
#ifndef MEMO_DATASETS_CHAT_TEMPLATE_H
#define MEMO_DATASETS_CHAT_TEMPLATE_H

#include "base/error.h"
#include "base/strbuf.h"
#include "datasets/tokenizer.h"

#include <stdbool.h>
#include <stddef.h>

struct chat_template; // static; never freed

struct chat_message {
    const char *role; // "system", "user" or "assistant"
    const char *content;
    size_t length;
};

// Token positions of a message: its content and the <|im_end|> after it, which is what a model
// learns to write when the message is the assistant's.
struct chat_span {
    size_t begin;
    size_t end; // one past <|im_end|>
};

#define CHAT_TEMPLATE_CHOICES "chatml|qwen2.5"

// By name ("chatml", "qwen2.5"); an unknown name is an error that lists the names.
int chat_template_find(const char *name, const struct chat_template **out, struct error *err);

// From chat_template.jinja or, without it, the chat_template of tokenizer_config.json. A template
// that is not ours to the letter is an error that lists the names.
int chat_template_detect(const char *model_dir, const struct chat_template **out,
                         struct error *err);

const char *chat_template_name(const struct chat_template *template);
const char *chat_template_jinja_chatml(void); // for tokenizer_config.json

int chat_render_text(const struct chat_template *template, const struct chat_message *messages,
                     size_t count, bool add_generation_prompt, struct strbuf *out,
                     struct error *err);

// Appends token ids. <|im_start|> and <|im_end|> are put in by id, and content is never parsed for
// special tokens, so no content can end its own message. Header and content are encoded apart: the
// ids are those of the whole text except where content holds the text of a special token or begins
// with line breaks (which would join the header's), and an answer has the same ids whether it is
// trained on or generated. spans is NULL or has one element for each message; positions count from
// the begin of out. The scratch is as in tokenizer_encode.
int chat_render_ids(const struct chat_template *template, const struct tokenizer *tokenizer,
                    struct tokenizer_scratch *scratch, const struct chat_message *messages,
                    size_t count, bool add_generation_prompt, struct token_list *out,
                    struct chat_span *spans, struct error *err);

#endif
