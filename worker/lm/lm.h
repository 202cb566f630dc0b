// SPDX-License-Identifier: Apache-2.0
// A language model that completes prompts: our own engine, or an OpenAI-compatible server. Many
// requests are in flight at once; nothing here waits. Used by one thread.
#ifndef MEMO_WORKER_LM_H
#define MEMO_WORKER_LM_H

#include "base/error.h"
#include "base/hash.h"
#include "worker/engine/sampling.h"

#include <stddef.h>
#include <stdint.h>

// UTF-8 that need not end in NUL.
struct lm_text {
    const char *text;
    size_t bytes;
};

enum { LM_PARTS_LIMIT = 4 };

// One system turn and one user turn. The user's content comes in parts, usually [document] [step
// instruction] [item]; each is tokenized apart and they are concatenated, so that requests whose
// first parts are equal share what was computed for them. Nothing in a part is ever read as a
// special token.
struct lm_request {
    uint64_t id;   // the caller's, comes back in the result
    uint64_t task; // the same in all requests of one piece of work, which fail together when one of
                   // them is fatal; 0: of none
    struct lm_text system;
    struct lm_text parts[LM_PARTS_LIMIT];
    size_t part_count;
    // JSON Schema of the answer (the subset of worker/engine/json_schema.h), NUL-terminated; NULL:
    // free text.
    const char *schema;
    struct sampling sampling;
    uint64_t seed;
    size_t max_tokens; // of the answer; clamped to what the context leaves
};

enum lm_end {
    LM_STOP,     // the model ended its answer, or the schema's last byte was written
    LM_LENGTH,   // max_tokens reached; with a schema the text still parses where the model can be
                 // constrained, and its last item may be cut short
    LM_REJECTED, // this request can never be answered (too long a prompt, a refused schema)
    LM_FAILED,   // it was tried as often as allowed; `problem` says what happened last
    LM_FATAL,    // it ended what computed it again and again: nobody should try its task any more
};

struct lm_result {
    uint64_t id;
    enum lm_end end;
    struct lm_text answer; // valid until the next lm_poll
    uint32_t prompt_tokens;
    uint32_t cached_tokens; // of the prompt, not computed again
    uint32_t output_tokens;
    // A constrained answer that was closed by force at the token budget: the byte of `answer` from
    // which it is not the model's own. SIZE_MAX: all of it is.
    size_t forced_from;
    const char *problem; // "" unless rejected or failed
};

enum lm_poll {
    LM_POLL_BROKEN = -1, // the model cannot be used any more; err says why
    LM_POLL_IDLE = 0,    // nothing is left of what was submitted
    LM_POLL_RUNNING = 1, // nothing ended yet; call again
    LM_POLL_RESULT = 2,  // *out is set
};

struct lm;

struct lm_ops {
    // Copies the request. Its faults come back as its result.
    void (*submit)(struct lm *lm, const struct lm_request *request);
    // Works for a few milliseconds, or one step of the engine.
    enum lm_poll (*poll)(struct lm *lm, struct lm_result *out, struct error *err);
    void (*cancel)(struct lm *lm, uint64_t id); // no result will come; an unknown id is no error
    void (*destroy)(struct lm *lm);
};

// The head of every implementation's own struct.
struct lm {
    const struct lm_ops *ops;
    struct digest digest;  // weights and tokenizer, or URL, model name and revision
    size_t capacity;       // requests worth having in flight
    size_t context_tokens; // prompt and answer together; 0: unknown
};

static inline void lm_submit(struct lm *lm, const struct lm_request *request)
{
    lm->ops->submit(lm, request);
}

static inline enum lm_poll lm_poll(struct lm *lm, struct lm_result *out, struct error *err)
{
    return lm->ops->poll(lm, out, err);
}

static inline void lm_cancel(struct lm *lm, uint64_t id)
{
    lm->ops->cancel(lm, id);
}

static inline void lm_destroy(struct lm *lm)
{
    if (lm)
        lm->ops->destroy(lm);
}

#endif
