// SPDX-License-Identifier: Apache-2.0
// What a rank and the process that runs its engine say to each other, over a stream socket between
// the two. A frame is a head and a body, all numbers little-endian:
//
//     head   4 bytes "ME" and version 1, 0; u32 kind; u32 length of the body; 16 bytes XXH3-128 of
//            kind, length and body
//     OPEN   text model, chat template, backend, isa; u32 threads, products, dtype, fp8;
//            u64 slots, context, step and cache tokens                       rank -> engine
//     READY  16 bytes digest, u64 capacity, u64 context tokens               engine -> rank
//     SUBMIT u64 id, u64 seed, u64 max tokens; f32 temperature, top p, min p; i32 top k;
//            f32 repetition penalty; text schema, system; u32 parts, text x parts
//                                                                            rank -> engine
//     CANCEL u64 id                                                          rank -> engine
//     RESULT u64 id; u32 end, prompt, cached and output tokens; u64 forced from (all ones: all is
//            the model's own); text answer, problem                          engine -> rank
//     ALIVE  nothing                                                         engine -> rank
//     BROKEN text: why the engine ends                                       engine -> rank
//
// A text is u32 length, so many bytes, and a NUL; all ones in place of the length, and nothing
// behind: there is none (NULL). The rank begins with one OPEN. The engine answers with READY or
// BROKEN, and from then on says something at least every ENGINE_ALIVE_SECONDS while it has
// requests, as long as its steps are shorter. It answers each SUBMIT with one RESULT, unless it was
// cancelled; after CANCEL a RESULT that was under way may still come. Whoever reads end of file
// ends.
#ifndef MEMO_WORKER_ENGINE_MESSAGE_H
#define MEMO_WORKER_ENGINE_MESSAGE_H

#include "base/error.h"
#include "base/strbuf.h"
#include "worker/lm/lm_engine.h"

#define ENGINE_HEAD_BYTES 28
#define ENGINE_BODY_LIMIT ((size_t)64 << 20) // far beyond any context
#define ENGINE_ALIVE_SECONDS 0.25

enum engine_message_kind {
    ENGINE_OPEN = 1,
    ENGINE_READY,
    ENGINE_SUBMIT,
    ENGINE_CANCEL,
    ENGINE_ANSWER, // RESULT
    ENGINE_ALIVE,
    ENGINE_BROKEN,
};

// Only the fields of its kind are set. Texts and schema point into the frame.
struct engine_message {
    enum engine_message_kind kind;
    struct lm_engine_options open;
    struct {
        struct digest digest;
        uint64_t capacity;
        uint64_t context_tokens;
    } ready;
    struct lm_request submit;
    uint64_t cancel;
    struct lm_result answer;
    const char *broken;
};

// Appends one frame. The body must not exceed the limit: see engine_submit_bytes.
void engine_message_encode(const struct engine_message *message, struct strbuf *out);

// How long the body of a SUBMIT would be.
size_t engine_submit_bytes(const struct lm_request *request);

// Looks at the first bytes of a stream. 1: *frame_bytes is the length of the frame that begins
// here; 0: the head is not whole yet; -1: no frame of this version begins here.
int engine_message_head(const void *bytes, size_t length, size_t *frame_bytes, struct error *err);

// Decodes a whole frame. What is a C string in the message must not hold a NUL.
int engine_message_decode(const void *bytes, size_t length, struct engine_message *out,
                          struct error *err);

#endif
