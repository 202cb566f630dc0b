// SPDX-License-Identifier: Apache-2.0
#include "jobs/bench_floor.h"

#include "worker/model/layout.h"

static void add_matrices(const struct model_config *config, enum dtype element, bool codes,
                         struct decoder_cost *cost)
{
    struct layout layout;
    double bytes = 0;
    layout_create(config, &layout);
    for (size_t p = 0; p < layout.parameter_count; p++) {
        const struct parameter *parameter = &layout.parameters[p];
        if (parameter->layer < 0 || parameter->rank != 2)
            continue;
        cost->layers += (double)parameter->count;
        bytes += codes ? (double)parameter->count + 4.0 * (double)parameter->shape[0]
                       : (double)parameter->count * (double)dtype_bytes(element);
    }
    layout_release(&layout);
    cost->last_ffn = 3.0 * (double)config->hidden * (double)config->ffn;
    cost->head = (double)config->vocabulary * (double)config->hidden;
    cost->weight_bytes = bytes + cost->head * (double)dtype_bytes(element);
}

struct decoder_cost decoder_cost_of(const struct model_config *config, enum dtype element,
                                    bool codes)
{
    struct decoder_cost cost = {
        .window = (double)config->window,
        .position_bytes =
            2.0 * (double)(config->kv_heads * config->head_width) * (double)dtype_bytes(element),
        .pair_flops = 4.0 * (double)(config->heads * config->head_width),
    };
    add_matrices(config, element, codes, &cost);
    for (int64_t i = 0; i < config->layers; i++) {
        cost.full += config->layer_kinds[i] == LAYER_FULL;
        cost.sliding += config->layer_kinds[i] == LAYER_SLIDING;
    }
    return cost;
}

// Summed over the layers: what a position sees that has this many before it and with it.
static double seen(const struct decoder_cost *cost, double positions)
{
    return cost->full * positions +
           cost->sliding * (positions < cost->window ? positions : cost->window);
}

struct effort decode_step_effort(const struct decoder_cost *cost, struct decode_step step)
{
    const double sequences = (double)step.sequences, tokens = sequences * (double)step.length;
    const double mean = (double)step.position + ((double)step.length + 1) / 2;
    return (struct effort){
        .tokens = tokens,
        .bytes = cost->weight_bytes +
                 sequences * cost->position_bytes * seen(cost, (double)step.position),
        .flops =
            tokens * (2 * (cost->layers - cost->last_ffn) + cost->pair_flops * seen(cost, mean)) +
            sequences * 2 * (cost->last_ffn + cost->head),
    };
}

// Pairs of positions in which one attends to another, of `count` tokens behind `before` others.
static double pairs(double before, double count)
{
    return count * before + count * (count + 1) / 2;
}

struct effort document_load_effort(const struct decoder_cost *cost,
                                   const struct document_load *load)
{
    const double documents = (double)load->documents, document = (double)load->document;
    const double requests = documents * (double)load->requests, answer = (double)load->answer;
    const double own = (double)load->own + answer - 1;
    const double tokens = documents * document + requests * own;
    const double scores = documents * pairs(0, document) + requests * pairs(document, own);
    const double steps = documents * document / (double)load->step_tokens + answer;
    const double attending = cost->full + cost->sliding;
    return (struct effort){
        .tokens = requests * answer,
        .bytes = steps * cost->weight_bytes + cost->position_bytes * attending * answer *
                                                  (documents * document + requests * own / 2),
        .flops = 2 * cost->layers * tokens + 2 * cost->head * requests * answer +
                 cost->pair_flops * attending * scores,
    };
}

struct effort document_step_effort(const struct decoder_cost *cost,
                                   const struct document_load *load, double generated)
{
    const double documents = (double)load->documents, document = (double)load->document;
    const double requests = documents * (double)load->requests;
    const double own = (double)load->own + generated;
    return (struct effort){
        .tokens = requests,
        .bytes = cost->weight_bytes + cost->position_bytes * (documents * seen(cost, document) +
                                                              requests * seen(cost, own)),
        .flops = requests *
                 (2 * (cost->layers + cost->head) + cost->pair_flops * seen(cost, document + own)),
    };
}

double effort_seconds(struct effort effort, double bytes_per_second, double flops)
{
    const double reading = effort.bytes / bytes_per_second, computing = effort.flops / flops;
    return reading > computing ? reading : computing;
}
