// SPDX-License-Identifier: Apache-2.0
#include "worker/model/step_graph.h"

#include "base/mem.h"

#include <stdlib.h>

enum {
    TOKENS_LIMIT = 256, // of a captured step: a larger one does not wait for its launches
    GRAPHS_LIMIT = 64,  // sizes of steps and of groups
};

struct step_graph {
    size_t tokens, group_tokens;
    bool draws;
    const void *weights;
    void *captured; // NULL: it ran once
};

struct step_graphs {
    struct device *device;
    struct step_graph graphs[GRAPHS_LIMIT];
    size_t count;
};

struct step_graphs *step_graphs_create(struct kv_cache *cache)
{
    const struct model *model = cache->model;
    if (!device_captures(model->device) || model->lora || cache->filled)
        return NULL;
    struct step_graphs *graphs = mem_calloc(1, sizeof *graphs);
    graphs->device = model->device;
    return graphs;
}

static void forget_all(struct step_graphs *graphs)
{
    for (size_t i = 0; i < graphs->count; i++)
        device_forget(graphs->device, graphs->graphs[i].captured);
    graphs->count = 0;
}

void step_graphs_destroy(struct step_graphs *graphs)
{
    if (!graphs)
        return;
    forget_all(graphs);
    free(graphs);
}

static bool one_token_each(const struct step_tokens *step)
{
    if (step->tokens == 0 || step->wanted_count != step->tokens)
        return false;
    for (size_t t = 0; t < step->tokens; t++)
        if (step->wanted[t] != (int32_t)t ||
            (t > 0 && step->sequences[t] == step->sequences[t - 1]))
            return false;
    return true;
}

bool step_graphs_captures(const struct kv_cache *cache, const struct step_tokens *step)
{
    return cache->graphs && step->tokens <= TOKENS_LIMIT && one_token_each(step);
}

// No more than the cache's arrays hold.
size_t step_graphs_padded(const struct kv_cache *cache, const struct step_tokens *step)
{
    const struct kv_cache_size *size = &cache->size;
    if (!step_graphs_captures(cache, step))
        return step->tokens;
    const size_t most = size->max_tokens < size->sequences ? size->max_tokens : size->sequences;
    const size_t eights = (step->tokens + 7) / 8 * 8;
    const size_t padded = step->tokens <= 2 ? step->tokens : step->tokens <= 4 ? 4 : eights;
    return padded <= most ? padded : step->tokens <= most ? most : step->tokens;
}

static struct step_graph *find(struct step_graphs *graphs, const struct step_graph *key)
{
    for (size_t i = 0; i < graphs->count; i++) {
        struct step_graph *each = &graphs->graphs[i];
        if (each->tokens == key->tokens && each->group_tokens == key->group_tokens &&
            each->draws == key->draws && each->weights == key->weights)
            return each;
    }
    return NULL;
}

int step_graphs_run(struct kv_cache *cache, size_t padded, bool draws, void (*enqueue)(void *),
                    void *context, struct error *err)
{
    struct step_graphs *graphs = cache->graphs;
    const struct step_graph key = {.tokens = padded,
                                   .group_tokens = cache->lookup.plan.group_tokens,
                                   .draws = draws,
                                   .weights = cache->model->weights.data};
    struct step_graph *graph = find(graphs, &key);
    if (!graph) {
        // Weights that moved, or more sizes than are kept: begin again.
        if (graphs->count == GRAPHS_LIMIT ||
            (graphs->count > 0 && graphs->graphs[0].weights != key.weights))
            forget_all(graphs);
        graphs->graphs[graphs->count++] = key;
        enqueue(context);
        return 0;
    }
    if (!graph->captured && device_capture(graphs->device, enqueue, context, &graph->captured, err))
        return -1;
    device_replay(graphs->device, graph->captured);
    return 0;
}
