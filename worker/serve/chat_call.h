// SPDX-License-Identifier: Apache-2.0
// What a client asks for: the body of POST /v1/chat/completions (OpenAI API reference, "Create chat
// completion", with top_k, min_p and repetition_penalty as vLLM, SGLang and llama.cpp have them). A
// pure function over bytes.
//
//     messages           system, developer, user and assistant turns; content is a string, or an
//                        array of {"type": "text"} parts, which are joined
//     max_tokens, max_completion_tokens    absent: what the context leaves
//     temperature, top_p, top_k, min_p, repetition_penalty    absent: greedy
//     seed               absent: 0, so that equal calls have equal answers
//     stop               a string or at most CHAT_STOPS_LIMIT of them
//     stream, stream_options.include_usage
//     response_format    text, or json_schema with a schema of worker/engine/json_schema.h
//
// What would change the answer and is not there (n above 1, tools, logprobs, penalties that are not
// 0, json_object without a schema) is an error that names the member; what would not (user,
// metadata, store, unknown members) is ignored.
#ifndef MEMO_WORKER_SERVE_CHAT_CALL_H
#define MEMO_WORKER_SERVE_CHAT_CALL_H

#include "base/arena.h"
#include "base/error.h"
#include "datasets/chat_template.h"
#include "worker/engine/sampling.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CHAT_STOPS_LIMIT = 16, CHAT_MESSAGES_LIMIT = 4096 };

// Pointers are into the arena.
struct chat_call {
    struct chat_message *messages; // [message_count], at least one
    size_t message_count;
    const char *model; // as the client names it; NULL: it does not
    size_t max_tokens; // 0: what the context leaves
    struct sampling sampling;
    uint64_t seed;
    const char *stops[CHAT_STOPS_LIMIT];
    size_t stop_count;
    bool stream;
    bool stream_usage;  // a last event with the numbers of tokens
    const char *schema; // of the answer, as JSON; NULL: free text
};

// On failure *param names the member that is to blame; "" when it is the whole body.
int chat_call_read(struct arena *arena, const char *body, size_t bytes, struct chat_call *out,
                   const char **param, struct error *err);

#endif
