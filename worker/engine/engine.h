// SPDX-License-Identifier: Apache-2.0
// Batched generation with a model of our own. Requests wait in a queue, join the running batch as
// soon as there is room and leave it when they end, so that the batch stays full (continuous
// batching, Yu et al. 2022). Keys and values lie in blocks of tokens (Kwon et al. 2023); requests
// that begin with the same tokens share the blocks of these (Zheng et al. 2023), which are computed
// once and stay until memory is needed. A result depends on its request alone, bit for bit,
// whatever else is in the batch or in the cache. Not thread safe; the model's weights must not
// change while an engine uses it.
#ifndef MEMO_WORKER_ENGINE_ENGINE_H
#define MEMO_WORKER_ENGINE_ENGINE_H

#include "datasets/tokenizer.h"
#include "worker/engine/json_schema.h"
#include "worker/engine/sampling.h"
#include "worker/model/model.h"

#include <stddef.h>
#include <stdint.h>

struct engine;

struct engine_options {
    size_t slots;      // most requests running at once; hundreds are fine
    size_t capacity;   // tokens of one request, prompt and answer
    size_t max_tokens; // of one step, over all requests; at least slots. Longer prompts are cut up
    size_t cache_tokens; // keys and values kept, of running requests and of what may come again; at
                         // least capacity. 0: slots times capacity
    bool unpacked;       // reads the weights as they lie: slower, but no second copy of them
    const struct tokenizer *tokenizer; // outlives the engine; NULL: no text, no stop strings
};

// Fields that are left zero mean: greedy, nothing stops it, no constraint.
struct engine_request {
    uint64_t id; // the caller's, comes back in the result
    const int32_t *prompt;
    size_t prompt_count;
    size_t max_new; // cut to what capacity leaves
    const int32_t *stop_ids;
    size_t stop_count;
    const char *const *stop_strings; // each ends in NUL and is not empty
    size_t stop_string_count;
    struct sampling sampling;
    uint64_t seed; // token i of the answer is drawn by seed and i
    bool logprobs;
    struct json_schema *schema; // the answer obeys it; outlives the request. NULL: free text
};

enum engine_reason {
    ENGINE_STOP,     // a stop token or stop string came, or the schema's output is complete
    ENGINE_LENGTH,   // max_new tokens, or capacity reached
    ENGINE_REJECTED, // the request cannot run; `problem` says why
};

// Pointers are valid until the next call of engine_poll.
struct engine_result {
    uint64_t id;
    enum engine_reason reason;
    const int32_t
        *ids; // the answer, without the stop token; of a stop string only tokens before it
    size_t count;
    const char *text;  // the same decoded, cut right before a stop string; not NUL-terminated. NULL
    size_t text_bytes; // without a tokenizer
    // [count]: log of the model's own probability of each token (temperature 1, nothing masked or
    // penalised), 0 of those that the schema forced. NULL unless asked for.
    const float *logprobs;
    size_t prompt_count;
    size_t cached_count; // tokens of the prompt that were not computed for this request
    size_t forced_from;  // see json_output_forced_from; SIZE_MAX without a schema
    const char *problem; // "" unless rejected
};

int engine_create(struct model *model, const struct engine_options *options, struct engine **out,
                  struct error *err);
void engine_destroy(struct engine *engine); // drops what still runs

// What engine_create allocates on the device, but for the packed weights.
size_t engine_bytes_needed(struct model *model, const struct engine_options *options);

// Copies everything in the request but the schema. What is wrong with a request comes back as its
// result.
void engine_submit(struct engine *engine, const struct engine_request *request);

// No result will come of any request with this id; an unknown one is no error.
void engine_cancel(struct engine *engine, uint64_t id);

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

// What a running request has written so far, without the characters that may yet become a stop
// string; valid until the next engine_poll. False: no request with this id is running.
bool engine_peek(const struct engine *engine, uint64_t id, const char **text, size_t *bytes);

size_t engine_pending(const struct engine *engine); // submitted, result not yet taken

// Counts since creation, for progress lines; blocks as they are now.
struct engine_statistics {
    uint64_t steps;
    uint64_t prompt_tokens;     // of prompts, computed for the first time
    uint64_t cached_tokens;     // of prompts, found computed
    uint64_t recomputed_tokens; // after a preemption
    uint64_t generated_tokens;
    uint64_t preemptions; // requests put back because the cache was full
    uint64_t evictions;   // blocks whose contents were forgotten for others
    size_t blocks_used;   // by running requests
    size_t blocks_kept;   // by nobody, for requests that may come
    size_t blocks;
};
struct engine_statistics engine_statistics(const struct engine *engine);

#endif
