// SPDX-License-Identifier: Apache-2.0
// From the parts of a request to the ids of a prompt: [chat template and system turn][part]...[chat
// template]. Each part is tokenized apart, so that prompts with equal leading parts have equal
// leading ids; and remembered, so that a document is tokenized once for all its requests. White
// space at the ends of the user's turn stays, also where a template would trim it.
#ifndef MEMO_WORKER_PROMPT_H
#define MEMO_WORKER_PROMPT_H

#include "datasets/chat_template.h"
#include "datasets/tokenizer.h"
#include "worker/lm/lm.h"

struct prompt_maker;

// Remembers parts of up to remembered_bytes of ids. Tokenizer and template are the caller's.
struct prompt_maker *prompt_maker_create(const struct tokenizer *tokenizer,
                                         const struct chat_template *chat, size_t remembered_bytes);
void prompt_maker_destroy(struct prompt_maker *maker);

// Appends the prompt; on failure (invalid UTF-8) out keeps the count it had.
int prompt_make(struct prompt_maker *maker, const struct lm_request *request,
                struct token_list *out, struct error *err);

// Parts found remembered, and tokenized, since creation.
struct prompt_counts {
    uint64_t remembered, tokenized;
};
struct prompt_counts prompt_counts(const struct prompt_maker *maker);

#endif
