// SPDX-License-Identifier: Apache-2.0
// Where each parameter stands in one flat allocation. Parameters, gradients, moments and
// checkpoints share the layout; initialisation, optimizer, files and all-reduce loop over the
// table. q, k, v (and gate, up) follow one another, so that each group is one matrix to the
// kernels.
#ifndef MEMO_WORKER_MODEL_LAYOUT_H
#define MEMO_WORKER_MODEL_LAYOUT_H

#include "worker/model/config.h"

enum parameter_kind {
    PARAM_EMBEDDING,
    PARAM_INPUT_NORM,
    PARAM_Q,
    PARAM_K,
    PARAM_V,
    PARAM_Q_BIAS,
    PARAM_K_BIAS,
    PARAM_V_BIAS,
    PARAM_O,
    PARAM_POST_NORM,
    PARAM_GATE,
    PARAM_UP,
    PARAM_DOWN,
    PARAM_FINAL_NORM,
    PARAM_HEAD,
    PARAM_KINDS,
};

struct parameter {
    char name[96]; // Hugging Face's, "model.layers.3.mlp.up_proj.weight"
    enum parameter_kind kind;
    int64_t layer; // -1 outside the layers
    uint64_t shape[2];
    int rank;
    uint64_t offset; // elements
    uint64_t count;
    bool decays; // weight decay: matrices yes; norms and biases no
};

struct layout {
    struct parameter *parameters;
    size_t parameter_count;
    uint64_t elements; // total
};

void layout_create(const struct model_config *config, struct layout *out);
void layout_release(struct layout *layout);
const struct parameter *layout_find(const struct layout *layout, enum parameter_kind kind,
                                    int64_t layer); // NULL when the model has none

#endif
