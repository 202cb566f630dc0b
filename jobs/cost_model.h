// SPDX-License-Identifier: Apache-2.0
// What a run will cost, by arithmetic: no file, no device. Generation, per chunk of T tokens, with
// the assumptions named as in struct cost_assumptions and I the tokens of an instruction:
//
//     1a  1 request     prompt I + T                       output direct * pair
//     1b  1 request     prompt I + T, T of it cached       output indirect * pair
//     2   per 60 pairs  prompt I + 60 * pair               output composite * composite_tokens
//     3   per pair, (1 + failing) judgements               output 10
//         per failing pair a rewriting, prompt I + T + pair, I + T of it cached, output pair
//     4   per 40 verified pairs a list of names; per name  output lookups * pair
//     5   per group, each of `anchors` pairs with `batches` batches of 20 pairs, cached but for the
//         first anchor of a document                       output cross * composite_tokens
//
// Seconds of a GPU: uncached prompt tokens / prefill rate + output tokens / decode rate, with
//
//     prefill = prefill_share * flops / (2 * parameters)
//     decode  = batch / max((weights + batch * context * kv) / (decode_share * bandwidth),
//                           batch * 2 * parameters / (prefill_share * flops))
//
// batch being as many sequences of that context as the memory holds beside the weights. Training: 6
// FLOP per parameter and token (Kaplan et al. 2020, section 2.1) at `mfu` of the GPU's.
#ifndef MEMO_JOBS_COST_MODEL_H
#define MEMO_JOBS_COST_MODEL_H

#include "datasets/reflections.h"
#include "worker/model/config.h"

#include <stddef.h>

struct cost_hardware {
    const char *name;
    double memory_bytes;
    double flops; // bf16 matrix products, as measured or published, not the peak of a data sheet
    double bandwidth; // bytes per second, read
    const char *source;
};
extern const struct cost_hardware cost_hardware_rows[];
extern const size_t cost_hardware_count;

struct cost_assumptions {
    double tokens_per_word;
    double direct, indirect, composite; // pairs per 1,000 tokens of text
    double pair, composite_tokens;      // tokens of a pair as JSON
    double instruction;                 // tokens
    double failing, kept;               // shares of the pairs that step 3 judges
    double names, lookups;              // names per verified pair, pairs per name
    double anchors, batches, cross;     // pairs, batches, pairs per comparison
    double group_chunks;                // chunks of a group, where the corpus does not say
    double grouped;                     // share of the chunks that is in a group, likewise
    double prefill_share, decode_share; // of the hardware's flops and bandwidth
    double memory_share;                // of the memory, for weights, keys and values
    double busy;                        // share of the wall time in which a GPU works
    double trained;                     // tokens of a pair with its chat template
    double mfu;                         // share of the flops that training reaches
    double stored;                      // bytes of a pair on disk
};
// One row per assumption: for --assume, the printed list and the JSON.
struct cost_assumption {
    const char *name;
    size_t offset; // in struct cost_assumptions
    double fallback;
    const char *meaning;
};
extern const struct cost_assumption cost_assumption_rows[];
extern const size_t cost_assumption_count;
double *cost_assumption_value(const struct cost_assumption *row, struct cost_assumptions *values);
void cost_assumptions_default(struct cost_assumptions *out);

struct cost_text {
    double words; // 0: unknown
    double tokens;
    double chunks;
    double groups; // negative: by the assumptions
};

struct cost_step {
    double requests, prompt_tokens, cached_tokens, output_tokens, pairs;
};

struct cost_model { // the shape of a language model
    double parameters;
    double weight_bytes;     // bf16
    double kv_bytes;         // keys and values of a token
    double activation_bytes; // of a token in training, layers' inputs only
};

struct cost_generation {
    double tasks;
    struct cost_step steps[REFLECTION_STEPS]; // STEP_CLOZE unused
    struct cost_step all;                     // pairs: kept at the end
    double context;                           // tokens of a sequence on average
    double batch;                             // sequences at once on a GPU
    double prefill_rate, decode_rate;         // tokens per second of a GPU
    double gpu_hours;
    double disk_bytes;
};

struct cost_training {
    double pairs, tokens, flops;
    double gpu_hours;
    double memory_bytes; // of a GPU, but for activations
    double activation_bytes;
    double disk_bytes; // checkpoints and the model
};

void cost_model_shape(const struct model_config *config, struct cost_model *out);

// steps: bits of enum reflection_step. rate_in and rate_out replace the rates unless 0. *out is
// valid but for hours when the model does not fit, which is an error that says by how much.
int cost_generate(const struct cost_text *text, const struct cost_assumptions *assume,
                  const struct cost_model *model, const struct cost_hardware *hardware,
                  unsigned steps, double rate_in, double rate_out, struct cost_generation *out,
                  struct error *err);

struct cost_training_options {
    double pairs, epochs;
    double gpus;
    int zero;            // 0, 1 or 2
    double moment_bytes; // of a parameter: 8, 4 or 2
    double grad_bytes;   // 4 or 2
    double micro_tokens; // of a micro-batch
    double checkpoints;  // kept
};
void cost_train(const struct cost_training_options *options, const struct cost_assumptions *assume,
                const struct cost_model *model, const struct cost_hardware *hardware,
                struct cost_training *out);

#endif
