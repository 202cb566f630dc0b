// SPDX-License-Identifier: Apache-2.0
// Chat templates: how a conversation becomes the text that a model was trained on. The families
// that we know are rendered in C, byte for byte as their Jinja templates render it; we run no
// Jinja.
//
//   chatml    <|im_start|>ROLE\nCONTENT<|im_end|>\n for each message
//   qwen2.5   the same, and a default system message when the first message is not the system's
//   qwen3     chatml; <think>REASONING</think> in answers to the last question only, and in the
//             last answer also when it has none
//   qwen3-no-think   the same with enable_thinking false: an answer to come begins behind
//             <think>\n\n</think>\n\n
//   llama3    <|start_header_id|>ROLE<|end_header_id|>\n\nCONTENT<|eot_id|>, content trimmed
//   llama3.1  the same, and a system turn that begins with the knowledge cut-off and the date (3.1
//             to 3.3)
//   gemma2    <start_of_turn>ROLE\nCONTENT<end_of_turn>\n, content trimmed, no system message
//   gemma3    the same; a system message is put before the user's first
//   lfm2      chatml behind <|startoftext|>; an empty system message is left out
//   lfm2.5    the same without reasoning in answers before the user's last message
//
// with the header of an answer at the end when one is to follow; and without headers, begun by <s>:
//
//   mistral-v1   " [INST] CONTENT [/INST]" of the user, " CONTENT</s>" of the assistant; [INST] is
//             text; a system message and \n\n stand before the user's first (Mistral 7B Instruct
//             v0.1 and v0.2, Mixtral 8x7B)
//   mistral-v3   "[INST] CONTENT[/INST]", " CONTENT</s>", answers trimmed; [INST] is a special
//             token; a system message and \n\n stand before the user's message that ends the
//             conversation, and nowhere when an answer ends it (7B Instruct v0.3, Large 2407)
//   mistral-v3-tekken   the same without the spaces, answers as they are (Nemo)
//   mistral-v7   "[SYSTEM_PROMPT] CONTENT[/SYSTEM_PROMPT]", "[INST] CONTENT[/INST]" and
//             " CONTENT</s>" in any order (Large 2411)
//   mistral-v7-tekken   the same without the spaces, user and assistant in turns (Small 3.2)
//
// Tool calls are not rendered.
//
// The templates of Llama 3.2 and 3.3 write today's date, that of 3.1 always 26 Jul 2024. We always
// write 26 Jul 2024, which the newer ones write too when they know no date: a model is asked with
// the very tokens that it was trained with, whatever the day. For the same reason mistral-v7-tekken
// writes no system turn of its own, where the published templates write a long one with today's
// date; it must be asked for by name.
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

// Token positions of a message: what the template makes of its content and the token that ends the
// turn, which is what a model learns to write when the message is the assistant's. Empty for a
// message without a turn of its own.
struct chat_span {
    size_t begin;
    size_t content_end; // where what ends the turn begins
    size_t end;         // one past the end token; in mistral-v1 past " [/INST]" for the user
};

#define CHAT_TEMPLATE_CHOICES                                                                      \
    "chatml|gemma2|gemma3|lfm2|lfm2.5|llama3|llama3.1|mistral-v1|mistral-v3|mistral-v3-tekken|"    \
    "mistral-v7|mistral-v7-tekken|qwen2.5|qwen3|qwen3-no-think"

// By name, one of those above; an unknown name is an error that lists the names.
int chat_template_find(const char *name, const struct chat_template **out, struct error *err);

// From chat_template.jinja or, without it, the chat_template of tokenizer_config.json. The text
// must be one that we know to the letter, or have all the marks of exactly one family (see
// chat_template_detect.c); any other is an error that lists the names.
int chat_template_detect(const char *model_dir, const struct chat_template **out,
                         struct error *err);

const char *chat_template_name(const struct chat_template *template);
const char *chat_template_names(void); // all of them, for messages

// The special token with which the assistant ends an answer ("<|im_end|>"). It need not be the
// tokenizer's eos: Gemma's is <eos>.
const char *chat_template_end(const struct chat_template *template);
bool chat_template_takes_system(const struct chat_template *template); // false: an error to render
const char *chat_template_jinja_chatml(void);                          // for tokenizer_config.json

int chat_render_text(const struct chat_template *template, const struct chat_message *messages,
                     size_t count, bool add_generation_prompt, struct strbuf *out,
                     struct error *err);

// Appends token ids. The template's special tokens are put in by id, and content is never parsed
// for special tokens, so no content can end its own message. Header and content are encoded apart:
// the ids are those of the whole text except where content holds the text of a special token,
// begins with line breaks (which would join the header's) or, in mistral-v1, is empty or ends with
// white space (which would join that before [/INST]), and an answer has the same ids whether it is
// trained on or generated; with mistral-v3 and mistral-v3-tekken not behind a system message, which
// only the prompt shows. spans is NULL or has one element for each message; positions count from
// the begin of out. The scratch is as in tokenizer_encode.
int chat_render_ids(const struct chat_template *template, const struct tokenizer *tokenizer,
                    struct tokenizer_scratch *scratch, const struct chat_message *messages,
                    size_t count, bool add_generation_prompt, struct token_list *out,
                    struct chat_span *spans, struct error *err);

#endif
