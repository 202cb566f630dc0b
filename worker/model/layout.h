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
    PARAM_Q_NORM,
    PARAM_K_NORM,
    PARAM_O,
    PARAM_CONV_IN,
    PARAM_CONV,
    PARAM_CONV_OUT,
    PARAM_ATTENTION_OUT_NORM, // of what attention adds to the stream
    PARAM_POST_NORM,          // in front of the feed-forward block
    PARAM_GATE,
    PARAM_UP,
    PARAM_DOWN,
    PARAM_FFN_OUT_NORM,
    PARAM_FINAL_NORM,
    PARAM_HEAD,
    PARAM_KINDS,
};

struct parameter {
    char name[96]; // Hugging Face's, "model.layers.3.mlp.up_proj.weight"
    enum parameter_kind kind;
    int64_t layer;     // -1 outside the layers
    uint64_t shape[3]; // 1 beyond the rank
    int rank;
    uint64_t offset; // elements
    uint64_t count;
    bool decays;            // weight decay: matrices yes; norms and biases no
    uint64_t vector_offset; // of what does not decay: elements of this kind before it
};

struct layout {
    struct parameter *parameters;
    size_t parameter_count;
    uint64_t elements;        // total
    uint64_t vector_elements; // of what does not decay
};

static inline bool parameter_is_norm(enum parameter_kind kind)
{
    switch (kind) {
    case PARAM_INPUT_NORM:
    case PARAM_Q_NORM:
    case PARAM_K_NORM:
    case PARAM_ATTENTION_OUT_NORM:
    case PARAM_POST_NORM:
    case PARAM_FFN_OUT_NORM:
    case PARAM_FINAL_NORM:
        return true;
    default:
        return false;
    }
}

void layout_create(const struct model_config *config, struct layout *out);
void layout_release(struct layout *layout);
const struct parameter *layout_find(const struct layout *layout, enum parameter_kind kind,
                                    int64_t layer); // NULL when the model has none

#endif
