// SPDX-License-Identifier: Apache-2.0
// Everything that our engine needs to answer in text: a model directory opened on a device of its
// own, with its tokenizer, chat template and compiled schemas.
#ifndef MEMO_WORKER_ENGINE_HOST_H
#define MEMO_WORKER_ENGINE_HOST_H

#include "datasets/chat_template.h"
#include "kernels/device.h"
#include "worker/engine/engine.h"
#include "worker/lm/schema_cache.h"

enum { ENGINE_HOST_STOPS = 3 };

// Zero in a field means its default.
struct lm_engine_options {
    const char *model;            // directory: weights, tokenizer, chat template
    const char *chat_template;    // by name; NULL: detected
    struct device_options device; // of its own
    enum dtype dtype;             // of the weights
    bool fp8;                     // the layers' products in eight bits, see model_quantize
    size_t slots;                 // requests running at once; 32
    size_t context_tokens; // prompt and answer; the least of 8192 and the model's positions. More
                           // than the model's positions is an error
    size_t step_tokens;    // of one step of the engine; 512, and at least slots
    size_t cache_tokens;   // keys and values kept; four times context_tokens
};

struct engine_host {
    struct device *device;
    struct model *model;
    struct tokenizer *tokenizer;
    const struct chat_template *chat;
    struct engine *engine;
    struct schema_cache *schemas;
    int32_t stops[ENGINE_HOST_STOPS]; // tokens that end an answer
    size_t stop_count;
    size_t slots, context_tokens;
};

// Only what text needs; the rest stays NULL.
int engine_host_open_text(const struct lm_engine_options *options, struct engine_host *out,
                          struct error *err);
// Everything. On failure nothing is left open.
int engine_host_open(const struct lm_engine_options *options, struct engine_host *out,
                     struct error *err);
void engine_host_close(struct engine_host *host);

#endif
