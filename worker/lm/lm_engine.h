// SPDX-License-Identifier: Apache-2.0
// Our own engine as a language model: a model directory on one device.
#ifndef MEMO_WORKER_LM_ENGINE_H
#define MEMO_WORKER_LM_ENGINE_H

#include "kernels/device.h"
#include "worker/engine/engine.h"
#include "worker/lm/lm.h"

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

// Beyond worker/lm/lm.h: a prompt longer than the context, invalid UTF-8, a schema outside the
// subset, or no room for the schema's shortest output are LM_REJECTED. An answer in JSON that was
// closed by force is LM_LENGTH. The digest is that of config.json, weights, tokenizer and chat
// template. Loads the model; everything is freed by lm_destroy.
int lm_engine_create(const struct lm_engine_options *options, struct lm **out, struct error *err);

// The digest that lm_engine_create would give, without loading the weights.
int lm_engine_digest(const struct lm_engine_options *options, struct digest *out,
                     struct error *err);

struct engine_statistics lm_engine_statistics(
    const struct lm *lm); // of one made by lm_engine_create

#endif
