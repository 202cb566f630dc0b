// SPDX-License-Identifier: Apache-2.0
// The body of POST /chat/completions (OpenAI API reference, "Create chat completion"; vLLM, SGLang
// and llama.cpp add top_k, min_p and repetition_penalty), and what an endpoint was found to accept
// of it. Pure functions over bytes.
#ifndef MEMO_WORKER_HTTP_CHAT_REQUEST_H
#define MEMO_WORKER_HTTP_CHAT_REQUEST_H

#include "base/strbuf.h"
#include "worker/lm/lm.h"

#include <stdbool.h>

// How an answer by schema is asked for, from the most to the least that a server can promise. From
// ANSWER_OBJECT on the schema stands in the prompt, behind the user's content.
enum answer_form {
    ANSWER_STRICT_SCHEMA, // response_format json_schema, "strict": true
    ANSWER_SCHEMA,        // response_format json_schema
    ANSWER_OBJECT,        // response_format json_object
    ANSWER_PLAIN,         // no response_format
};

// All zero is everything that we can ask for.
struct dialect {
    enum answer_form form;
    bool completion_tokens; // "max_completion_tokens" in place of "max_tokens"
    bool no_penalty;        // repetition_penalty is left out
    bool no_min_p;
    bool no_top_k;
    bool no_seed;
    bool no_temperature; // nor top_p: models that sample as they like
};

bool dialect_equal(const struct dialect *a, const struct dialect *b);

// A server refused a request that was written in *dialect with these words: takes out what they
// name. False when they name nothing that can be left out.
bool dialect_narrow(struct dialect *dialect, const char *complaint);

// What changed, for people: "response_format json_schema with strict".
const char *dialect_difference(const struct dialect *before, const struct dialect *after);

struct chat_prompt {
    struct lm_text system; // may be empty
    struct lm_text user;
    const char *schema; // NULL: free text
    struct sampling sampling;
    uint64_t seed; // servers take 31 bits everywhere: its halves are folded to that
    size_t max_tokens;
};

// Why the prompt cannot be sent: bytes that are no UTF-8, a schema that is no JSON. 0 when it can.
int chat_prompt_check(const struct chat_prompt *prompt, struct error *err);

// Appends one line of JSON; the prompt was checked.
void chat_request_write(struct strbuf *out, const char *model, const struct chat_prompt *prompt,
                        const struct dialect *dialect);

#endif
