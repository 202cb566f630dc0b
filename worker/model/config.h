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

enum architecture { ARCHITECTURE_QWEN2 };

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
    double rms_epsilon;
    bool tied;     // the head is the embedding
    bool qkv_bias; // q, k and v have a bias
    enum activation activation;
    enum dtype dtype; // of the weights on disk
};

// An unknown architecture or a feature that is not implemented (sliding window in use, rope
// scaling) is an error that says so: nothing is ignored silently.
int model_config_parse(const char *json, size_t length, struct model_config *out,
                       struct error *err);
int model_config_validate(const struct model_config *config, struct error *err);
void model_config_write(const struct model_config *config, struct strbuf *out); // config.json

// Published shapes by name: "tiny" (about 4 M parameters with a vocabulary of 4,096),
// "qwen2.5-0.5b", "qwen2.5-1.5b", ... ; NULL-terminated list of names for --help.
int model_config_shape(const char *name, struct model_config *out, struct error *err);
extern const char *const model_shape_names[];

#endif
