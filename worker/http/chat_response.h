// SPDX-License-Identifier: Apache-2.0
// What a server's reply to POST /chat/completions means: a pure function over status, headers and
// body, whatever the bytes are.
#ifndef MEMO_WORKER_HTTP_CHAT_RESPONSE_H
#define MEMO_WORKER_HTTP_CHAT_RESPONSE_H

#include "base/arena.h"
#include "worker/http/lm_http.h"

#include <stdbool.h>

struct chat_reply {
    int status;               // of HTTP
    const char *content_type; // "" when there was none
    const char *body;
    size_t bytes;
    bool by_schema;     // JSON was asked for
    const char *secret; // never comes back in a problem; NULL: none
};

enum chat_verdict {
    CHAT_ANSWERED,
    CHAT_REJECTED, // asking again would not help
    CHAT_FAULT,    // it might
};

enum { CHAT_PROBLEM_BYTES = 400, CHAT_COMPLAINT_BYTES = 4096 };

struct chat_response {
    enum chat_verdict verdict;
    enum lm_http_fault fault; // of CHAT_FAULT
    bool is_cut;              // finish_reason "length"
    bool is_json;             // the answer, where JSON was asked for
    bool may_narrow;          // a refusal that dialect_narrow should see
    struct lm_text answer;    // UTF-8
    uint32_t prompt_tokens, cached_tokens, output_tokens; // 0 when not told
    const char *problem;   // one line of at most CHAT_PROBLEM_BYTES of UTF-8; "" when answered
    const char *complaint; // the server's own words, at most CHAT_COMPLAINT_BYTES; "" when answered
};

// Texts lie in the arena. Of an answer by schema, a "<think>...</think>" in front and a Markdown
// fence around it are taken off.
void chat_response_read(struct arena *arena, const struct chat_reply *reply,
                        struct chat_response *out);

// bytes as one line for people: the secret is replaced by "[key]", control characters by spaces,
// invalid UTF-8 by "?", and what is longer than `limit` bytes ends in "...". In the arena.
const char *text_for_people(struct arena *arena, const char *bytes, size_t length, size_t limit,
                            const char *secret);

#endif
