// SPDX-License-Identifier: Apache-2.0
// What generation cannot do without: operations, and bytes that must be read, each once. Of a shape
// alone, so that every figure can be checked by hand.
#ifndef MEMO_JOBS_BENCH_FLOOR_H
#define MEMO_JOBS_BENCH_FLOOR_H

#include "kernels/bench.h"
#include "worker/model/config.h"

// Of a decoder of this shape.
struct decoder_cost {
    double layers;        // weights of the layers' matrices
    double last_ffn;      // of them the last layer's feed-forward block
    double head;          // weights of the head
    double weight_bytes;  // of all of these, as they are multiplied
    double full, sliding; // layers that attend to everything before, or to `window` positions
    double window;
    double position_bytes; // keys and values of a position in one layer
    double pair_flops;     // of a position that attends to another, in one layer
};

// element: of activations, keys, values and the head; codes: the layers' weights have eight bits
// and a float32 scale per output.
struct decoder_cost decoder_cost_of(const struct model_config *config, enum dtype element,
                                    bool codes);

// What a step does, whatever its speed.
struct effort {
    double tokens;
    double bytes;
    double flops;
};

// `sequences` with `length` new tokens each from `position` on. Reads all weights once and the keys
// and values of all earlier positions. Matrices inside the layers take part in every token, but
// what follows attention in the last layer, and the head, only in the tokens whose logits are
// wanted: one of each sequence.
struct decode_step {
    size_t sequences, length, position;
};
struct effort decode_step_effort(const struct decoder_cost *cost, struct decode_step step);

// Many requests on few documents: `requests` on each.
struct document_load {
    size_t documents, requests;
    size_t document, own, answer; // tokens: shared, of a request behind them, generated
    size_t step_tokens;           // most of a step
};
// All of it. Steps are as few as step_tokens and the length of the answers allow; keys and values
// of a document are read once per step for all requests on it.
struct effort document_load_effort(const struct decoder_cost *cost,
                                   const struct document_load *load);
// One step in which every request generates a token, having generated `generated` before.
struct effort document_step_effort(const struct decoder_cost *cost,
                                   const struct document_load *load, double generated);

// Seconds, at least: the larger of reading and computing, which may overlap.
double effort_seconds(struct effort effort, double bytes_per_second, double flops);

#endif
