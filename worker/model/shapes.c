// SPDX-License-Identifier: Apache-2.0
// Shapes by name, as their published config.json files state them (0.5b, 1.5b and 32b the Instruct
// models', the others the base models'). Two are ours: `tiny`, 4.2 M parameters that two CPU cores
// train in minutes, and `micro`, 0.1 M that take no time, for tests.
#include "worker/model/config_internal.h"

#include "base/strbuf.h"

#include <string.h>

static const struct shape {
    const char *name;
    enum architecture architecture;
    int64_t layers, hidden, heads, kv_heads, head_width, ffn, vocabulary, max_positions;
    double rope_theta, rms_epsilon;
    bool tied;
    enum dtype dtype;
} shapes[] = {
    {"tiny", ARCHITECTURE_QWEN2, 4, 256, 4, 2, 64, 768, 4096, 4096, 1e4, 1e-6, true, DTYPE_F32},
    {"micro", ARCHITECTURE_QWEN2, 2, 64, 2, 1, 32, 128, 512, 4096, 1e4, 1e-6, true, DTYPE_F32},
    {"qwen2.5-0.5b", ARCHITECTURE_QWEN2, 24, 896, 14, 2, 64, 4864, 151936, 32768, 1e6, 1e-6, true,
     DTYPE_BF16},
    {"qwen2.5-1.5b", ARCHITECTURE_QWEN2, 28, 1536, 12, 2, 128, 8960, 151936, 32768, 1e6, 1e-6, true,
     DTYPE_BF16},
    {"qwen2.5-3b", ARCHITECTURE_QWEN2, 36, 2048, 16, 2, 128, 11008, 151936, 32768, 1e6, 1e-6, true,
     DTYPE_BF16},
    {"qwen2.5-7b", ARCHITECTURE_QWEN2, 28, 3584, 28, 4, 128, 18944, 152064, 131072, 1e6, 1e-6,
     false, DTYPE_BF16},
    {"qwen2.5-14b", ARCHITECTURE_QWEN2, 48, 5120, 40, 8, 128, 13824, 152064, 131072, 1e6, 1e-5,
     false, DTYPE_BF16},
    {"qwen2.5-32b", ARCHITECTURE_QWEN2, 64, 5120, 40, 8, 128, 27648, 152064, 32768, 1e6, 1e-6,
     false, DTYPE_BF16},
    {"qwen3-0.6b", ARCHITECTURE_QWEN3, 28, 1024, 16, 8, 128, 3072, 151936, 40960, 1e6, 1e-6, true,
     DTYPE_BF16},
    {"llama3.2-1b", ARCHITECTURE_LLAMA, 16, 2048, 32, 8, 64, 8192, 128256, 131072, 5e5, 1e-5, true,
     DTYPE_BF16},
    {"gemma3-1b", ARCHITECTURE_GEMMA3, 26, 1152, 4, 1, 256, 6912, 262144, 32768, 1e6, 1e-6, true,
     DTYPE_BF16},
    {"lfm2-1.2b", ARCHITECTURE_LFM2, 16, 2048, 32, 8, 64, 8192, 65536, 128000, 1e6, 1e-5, true,
     DTYPE_BF16},
};

const char *const model_shape_names[] = {
    "tiny",       "micro",       "qwen2.5-0.5b", "qwen2.5-1.5b", "qwen2.5-3b",
    "qwen2.5-7b", "qwen2.5-14b", "qwen2.5-32b",  "qwen3-0.6b",   "llama3.2-1b",
    "gemma3-1b",  "lfm2-1.2b",   NULL,
};

// Repeated beyond the published depth, for whoever asks for more layers.
static void set_layer_kinds(struct model_config *config)
{
    static const bool attends[16] = {
        [2] = true, [5] = true, [8] = true, [10] = true, [12] = true, [14] = true};
    for (int i = 0; i < MODEL_LAYERS_LIMIT; i++) {
        if (config->architecture == ARCHITECTURE_GEMMA3)
            config->layer_kinds[i] = (i + 1) % 6 ? LAYER_SLIDING : LAYER_FULL;
        if (config->architecture == ARCHITECTURE_LFM2)
            config->layer_kinds[i] = attends[i % 16] ? LAYER_FULL : LAYER_CONV;
    }
}

static struct model_config config_of(const struct shape *shape)
{
    struct model_config config = architecture_infos[shape->architecture].defaults;
    config.layers = shape->layers;
    config.hidden = shape->hidden;
    config.heads = shape->heads;
    config.kv_heads = shape->kv_heads;
    config.head_width = shape->head_width;
    config.ffn = shape->ffn;
    config.vocabulary = shape->vocabulary;
    config.max_positions = shape->max_positions;
    config.rope_theta = shape->rope_theta;
    config.rms_epsilon = shape->rms_epsilon;
    config.tied = shape->tied;
    config.dtype = shape->dtype;
    config.window = shape->architecture == ARCHITECTURE_GEMMA3 ? 512 : 0;
    if (shape->architecture == ARCHITECTURE_LLAMA)
        config.rope_scaling = (struct rope_scaling){.kind = ROPE_LLAMA3,
                                                    .factor = 32,
                                                    .original_positions = 8192,
                                                    .low_frequency_factor = 1,
                                                    .high_frequency_factor = 4};
    set_layer_kinds(&config);
    return config;
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
