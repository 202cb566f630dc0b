// SPDX-License-Identifier: Apache-2.0
// The parts of reading and writing config.json.
#ifndef MEMO_WORKER_MODEL_CONFIG_INTERNAL_H
#define MEMO_WORKER_MODEL_CONFIG_INTERNAL_H

#include "base/json.h"
#include "worker/model/config.h"

#define MODEL_POSITIONS_LIMIT (1 << 26)

struct architecture_info {
    const char *name;       // model_type
    const char *class_name; // in `architectures`
    const char *epsilon_key;
    const char *activation_key;   // NULL: there is no choice
    struct model_config defaults; // what transformers assumes for absent keys
};

extern const struct architecture_info architecture_infos[ARCHITECTURES];

// config_rope.c
int rope_config_read(const struct json *root, struct model_config *out, struct error *err);
int rope_config_validate(const struct model_config *config, struct error *err);
void rope_config_write(const struct model_config *config, struct json_writer *w);

// config_layers.c: which layers slide, convolve or see everything.
int layers_config_read(const struct json *root, struct model_config *out, struct error *err);
int layers_config_validate(const struct model_config *config, struct error *err);
void layers_config_write(const struct model_config *config, struct json_writer *w);

#endif
