// SPDX-License-Identifier: Apache-2.0
// Batched generation with a model of our own. Requests wait in a queue, take a slot of the KV cache
// as soon as one is free and leave it when they end, so that the batch stays full (continuous
// batching, Yu et al. 2022). A result depends on its request alone, bit for bit, whatever else is
// in the batch. Not thread safe; the model's weights must not change while an engine uses it.
#ifndef MEMO_WORKER_ENGINE_ENGINE_H
#define MEMO_WORKER_ENGINE_ENGINE_H

#include "worker/model/model.h"

#include <stddef.h>
#include <stdint.h>

struct engine;

struct engine_options {
    size_t slots;      // requests running at once
    size_t capacity;   // tokens of one request, prompt and answer
    size_t max_tokens; // of one step, over all requests; at least slots. Longer prompts are cut up
};

// Fields that are left zero mean: greedy, no stop token.
struct engine_request {
    uint64_t id; // the caller's, comes back in the result
    const int32_t *prompt;
    size_t prompt_count;
    size_t max_new; // cut to what capacity leaves
    const int32_t *stop_ids;
    size_t stop_count;
};

enum engine_reason {
    ENGINE_STOP,     // a stop token came; it is not among the ids
    ENGINE_LENGTH,   // max_new tokens, or capacity reached
    ENGINE_REJECTED, // the request cannot run; `problem` says why
};

struct engine_result {
    uint64_t id;
    enum engine_reason reason;
    const int32_t *ids; // the answer; valid until the next call of engine_poll
    size_t count;
    size_t prompt_count;
    const char *problem; // "" unless rejected; valid as long as ids
};

int engine_create(struct model *model, const struct engine_options *options, struct engine **out,
                  struct error *err);
void engine_destroy(struct engine *engine); // drops what still runs

// Copies everything in the request. What is wrong with a request comes back as its result.
void engine_submit(struct engine *engine, const struct engine_request *request);

enum engine_poll {
    ENGINE_FAILED = -1, // the device failed; the engine can only be destroyed
    ENGINE_IDLE = 0,    // nothing is left of what was submitted
    ENGINE_RUNNING = 1, // one step was computed and nothing ended; call again
    ENGINE_RESULT = 2,  // *result is set
};

// Gives a result if there is one, else computes one step. Results come in the order in which
// requests end.
enum engine_poll engine_poll(struct engine *engine, struct engine_result *result,
                             struct error *err);

size_t engine_pending(const struct engine *engine); // submitted, result not yet taken

// Counts since creation, for progress lines.
struct engine_statistics {
    uint64_t steps;
    uint64_t prompt_tokens;
    uint64_t generated_tokens;
};
struct engine_statistics engine_statistics(const struct engine *engine);

#endif
