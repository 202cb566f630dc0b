// SPDX-License-Identifier: Apache-2.0
// What a decoder is made of, read from a Hugging Face config.json.
#ifndef MEMO_WORKER_MODEL_CONFIG_H
#define MEMO_WORKER_MODEL_CONFIG_H

#include "base/error.h"
#include "base/strbuf.h"
#include "kernels/kernels.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum architecture {
    ARCHITECTURE_QWEN2,
    ARCHITECTURE_QWEN3,
    ARCHITECTURE_LLAMA,
    ARCHITECTURE_MISTRAL,
    ARCHITECTURE_GEMMA3,
    ARCHITECTURE_LFM2,
    ARCHITECTURES,
};

enum { MODEL_LAYERS_LIMIT = 1024 };

enum layer_kind { LAYER_FULL, LAYER_SLIDING, LAYER_CONV };

// How the rotary frequencies of a pre-trained model are changed for longer texts, see
// config_rope.c.
enum rope_kind { ROPE_DEFAULT, ROPE_LINEAR, ROPE_LLAMA3, ROPE_YARN };

struct rope_scaling {
    enum rope_kind kind;
    double factor;
    int64_t original_positions;   // llama3 and yarn: of the pre-training
    double low_frequency_factor;  // llama3
    double high_frequency_factor; // llama3
    double beta_fast, beta_slow;  // yarn
    double attention_factor;      // yarn: multiplies cosines and sines
    bool truncate;                // yarn: the ramp's ends are whole numbers
};

struct model_config {
    enum architecture architecture;
    int64_t layers;
    int64_t hidden; // D
    int64_t heads;
    int64_t kv_heads;
    int64_t head_width;
    int64_t ffn; // F
    int64_t vocabulary;
    int64_t max_positions;
    double rope_theta;
    double local_rope_theta; // of sliding layers, unscaled; 0: like all others
    struct rope_scaling rope_scaling;
    double rms_epsilon;
    double attention_scalar; // scores are divided by its root; 0: by that of the head width
    int64_t window;          // positions that a token of a sliding layer sees, itself included
    int64_t conv_taps;       // of convolution layers
    bool tied;               // the head is the embedding
    bool qkv_bias;           // q, k and v have a bias
    bool head_norms;         // every head of q and k is normalised before it is rotated
    bool block_norms;        // what attention and feed-forward add is normalised first
    bool offset_norms;       // a norm's weight is stored less 1
    bool scaled_embedding;   // by the root of D
    enum activation activation;
    enum dtype dtype;                        // of the weights on disk
    uint8_t layer_kinds[MODEL_LAYERS_LIMIT]; // enum layer_kind
};

// An unknown architecture or a feature that is not implemented is an error that names the key:
// nothing is ignored silently.
int model_config_parse(const char *json, size_t length, struct model_config *out,
                       struct error *err);
int model_config_validate(const struct model_config *config, struct error *err);
void model_config_write(const struct model_config *config, struct strbuf *out); // config.json

// Positions that the model can tell apart: more than max_positions when YaRN extends them.
int64_t model_config_positions(const struct model_config *config);

// inverse_frequency[head_width / 2] of full layers, or of sliding ones.
void model_config_frequencies(const struct model_config *config, enum layer_kind kind, float *out);

// Published shapes by name: "tiny" (about 4 M parameters with a vocabulary of 4,096),
// "qwen2.5-0.5b", "qwen2.5-1.5b", ... ; NULL-terminated list of names for --help.
int model_config_shape(const char *name, struct model_config *out, struct error *err);
extern const char *const model_shape_names[];

#endif
