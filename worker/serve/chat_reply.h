// SPDX-License-Identifier: Apache-2.0
// What a client gets: bodies of answers, of events of a stream, and of errors, as the OpenAI API
// has them. Pure functions; each appends one line of JSON without its end.
#ifndef MEMO_WORKER_SERVE_CHAT_REPLY_H
#define MEMO_WORKER_SERVE_CHAT_REPLY_H

#include "base/strbuf.h"

#include <stdint.h>

enum chat_finish { CHAT_FINISH_STOP, CHAT_FINISH_LENGTH };

// What all events of an answer share.
struct chat_head {
    uint64_t id;          // of the answer, within the server's life
    const char *model;    // its name
    int64_t created_unix; // seconds
};

struct chat_usage {
    size_t prompt_tokens, cached_tokens, output_tokens;
};

// text need not be UTF-8: what is not becomes '?'.
void chat_reply_write(struct strbuf *out, const struct chat_head *head, const char *text,
                      size_t bytes, enum chat_finish finish, const struct chat_usage *usage);

// Events, without "data: ": the assistant's turn begins; a piece of it; its end; the numbers.
void chat_event_begin(struct strbuf *out, const struct chat_head *head);
void chat_event_text(struct strbuf *out, const struct chat_head *head, const char *text,
                     size_t bytes);
void chat_event_end(struct strbuf *out, const struct chat_head *head, enum chat_finish finish);
void chat_event_usage(struct strbuf *out, const struct chat_head *head,
                      const struct chat_usage *usage);

// type: "invalid_request_error", "authentication_error", "server_error"; param "": none.
void chat_error_write(struct strbuf *out, const char *type, const char *param, const char *message);

// GET /v1/models: the one that is served.
void chat_models_write(struct strbuf *out, const char *name, int64_t created_unix,
                       size_t context_tokens);

#endif
