// SPDX-License-Identifier: Apache-2.0
// Shapes by name, as their published config.json files state them (0.5b, 1.5b and 32b the Instruct
// models', the others the base models'). `tiny` is ours: 4.2 M parameters that two CPU cores train
// in minutes.
#include "worker/model/config.h"

#include "base/strbuf.h"

#include <string.h>

static const struct shape {
    const char *name;
    int64_t layers, hidden, heads, kv_heads, head_width, ffn, vocabulary, max_positions;
    double rope_theta, rms_epsilon;
    bool tied;
    enum dtype dtype;
} shapes[] = {
    {"tiny", 4, 256, 4, 2, 64, 768, 4096, 4096, 1e4, 1e-6, true, DTYPE_F32},
    {"qwen2.5-0.5b", 24, 896, 14, 2, 64, 4864, 151936, 32768, 1e6, 1e-6, true, DTYPE_BF16},
    {"qwen2.5-1.5b", 28, 1536, 12, 2, 128, 8960, 151936, 32768, 1e6, 1e-6, true, DTYPE_BF16},
    {"qwen2.5-3b", 36, 2048, 16, 2, 128, 11008, 151936, 32768, 1e6, 1e-6, true, DTYPE_BF16},
    {"qwen2.5-7b", 28, 3584, 28, 4, 128, 18944, 152064, 131072, 1e6, 1e-6, false, DTYPE_BF16},
    {"qwen2.5-14b", 48, 5120, 40, 8, 128, 13824, 152064, 131072, 1e6, 1e-5, false, DTYPE_BF16},
    {"qwen2.5-32b", 64, 5120, 40, 8, 128, 27648, 152064, 32768, 1e6, 1e-6, false, DTYPE_BF16},
};

const char *const model_shape_names[] = {
    "tiny",       "qwen2.5-0.5b", "qwen2.5-1.5b", "qwen2.5-3b",
    "qwen2.5-7b", "qwen2.5-14b",  "qwen2.5-32b",  NULL,
};

static struct model_config config_of(const struct shape *shape)
{
    return (struct model_config){
        .architecture = ARCHITECTURE_QWEN2,
        .layers = shape->layers,
        .hidden = shape->hidden,
        .heads = shape->heads,
        .kv_heads = shape->kv_heads,
        .head_width = shape->head_width,
        .ffn = shape->ffn,
        .vocabulary = shape->vocabulary,
        .max_positions = shape->max_positions,
        .rope_theta = shape->rope_theta,
        .rms_epsilon = shape->rms_epsilon,
        .tied = shape->tied,
        .qkv_bias = true,
        .activation = ACTIVATION_SILU,
        .dtype = shape->dtype,
    };
}

int model_config_shape(const char *name, struct model_config *out, struct error *err)
{
    struct strbuf known = {0};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        if (strcmp(name, shapes[i].name) == 0) {
            *out = config_of(&shapes[i]);
            strbuf_release(&known);
            return 0;
        }
        strbuf_addf(&known, "%s%s", i ? ", " : "", shapes[i].name);
    }
    error_set(err, "unknown shape '%s'; known: %s", name, known.bytes);
    strbuf_release(&known);
    return -1;
}
