// SPDX-License-Identifier: Apache-2.0
// Our own engine as a language model: a model directory on one device.
#ifndef MEMO_WORKER_LM_ENGINE_H
#define MEMO_WORKER_LM_ENGINE_H

#include "worker/lm/engine_host.h"
#include "worker/lm/lm.h"

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
