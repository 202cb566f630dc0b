// SPDX-License-Identifier: Apache-2.0
// Decode steps as captured work. A step in which every sequence has one token, whose logits are
// wanted, is padded to the next of a few sizes; steps of one size then differ only in what the
// device's arrays hold, so that the whole step is captured once and enqueued as one. The first step
// of a size runs as it is (what libraries prepare, they prepare then), the second is captured.
//
// Only where the device captures, and not for models with states (padding would write them) or
// adapters.
#ifndef MEMO_WORKER_MODEL_STEP_GRAPH_H
#define MEMO_WORKER_MODEL_STEP_GRAPH_H

#include "worker/model/kv_cache.h"

struct step_graphs;

struct step_graphs *step_graphs_create(struct kv_cache *cache); // NULL: no step is captured
void step_graphs_destroy(struct step_graphs *graphs);

bool step_graphs_captures(const struct kv_cache *cache, const struct step_tokens *step);
// Tokens of the step as it will run; the step's own when it will not be captured.
size_t step_graphs_padded(const struct kv_cache *cache, const struct step_tokens *step);

// Enqueues the work of a padded step, of which `draws` says what becomes of the logits.
int step_graphs_run(struct kv_cache *cache, size_t padded, bool draws, void (*enqueue)(void *),
                    void *context, struct error *err);

#endif
