// SPDX-License-Identifier: Apache-2.0
#include "tests/worker/model_fixture.h"

#include "base/mem.h"
#include "base/random.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct model_config fixture_config(void)
{
    return (struct model_config){
        .architecture = ARCHITECTURE_QWEN2,
        .layers = 2,
        .hidden = 22,
        .heads = 6,
        .kv_heads = 2,
        .head_width = 6,
        .ffn = 31,
        .vocabulary = 37,
        .max_positions = 64,
        .rope_theta = 100.0,
        .rms_epsilon = 1e-6,
        .tied = true,
        .qkv_bias = true,
        .activation = ACTIVATION_SILU,
        .dtype = DTYPE_F32,
    };
}

struct model_config fixture_config_untied(void)
{
    struct model_config config = fixture_config();
    config.layers = 1;
    config.hidden = 33;
    config.heads = 7;
    config.kv_heads = 1;
    config.head_width = 10;
    config.ffn = 17;
    config.vocabulary = 51;
    config.tied = false;
    return config;
}

struct model_config fixture_config_gemma3(void)
{
    struct model_config config = fixture_config();
    config.architecture = ARCHITECTURE_GEMMA3;
    config.layers = 3;
    config.local_rope_theta = 10.0;
    config.attention_scalar = 5.0;
    config.window = 4;
    config.qkv_bias = false;
    config.head_norms = true;
    config.block_norms = true;
    config.offset_norms = true;
    config.scaled_embedding = true;
    config.activation = ACTIVATION_GELU_TANH;
    config.layer_kinds[0] = LAYER_SLIDING;
    config.layer_kinds[2] = LAYER_SLIDING;
    return config;
}

struct model_config fixture_config_lfm2(void)
{
    struct model_config config = fixture_config();
    config.architecture = ARCHITECTURE_LFM2;
    config.layers = 3;
    config.conv_taps = 3;
    config.qkv_bias = false;
    config.head_norms = true;
    config.layer_kinds[0] = LAYER_CONV;
    config.layer_kinds[2] = LAYER_CONV;
    return config;
}

struct device *fixture_device(void)
{
    struct error err;
    struct device *device = NULL;
    const char *backend = getenv("MEMO_TEST_BACKEND"), *products = getenv("MEMO_TEST_PRODUCTS");
    const bool invariant = products && strcmp(products, "invariant") == 0;
    struct device_options options = {.backend = backend ? backend : "ref",
                                     .isa = getenv("MEMO_TEST_ISA"),
                                     .threads = 2,
                                     .products = invariant ? PRODUCTS_INVARIANT : PRODUCTS_FASTEST};
    if (device_create(&options, &device, &err))
        fail_msg("%s", err.text);
    return device;
}

enum dtype fixture_dtype(void)
{
    const char *name = getenv("MEMO_TEST_DTYPE");
    return name && strcmp(name, "bf16") == 0 ? DTYPE_BF16 : DTYPE_F32;
}

struct model *fixture_model(struct device *device, const struct model_config *config,
                            enum dtype dtype, uint64_t seed)
{
    struct error err;
    struct model *model = NULL;
    if (model_create(device, config, dtype, &model, &err))
        fail_msg("%s", err.text);
    for (size_t i = 0; i < model->layout.parameter_count; i++) {
        const struct parameter *p = &model->layout.parameters[i];
        double deviation =
            p->rank == 2 && p->kind != PARAM_EMBEDDING ? 1.2 / sqrt((double)p->shape[1]) : 0.3;
        if (p->kind == PARAM_CONV_IN)
            deviation *= 0.5; // three of its rows are multiplied
        float mean = parameter_is_norm(p->kind) && !config->offset_norms ? 1 : 0;
        float *values = mem_alloc(p->count * sizeof *values);
        for (uint64_t j = 0; j < p->count; j++)
            values[j] = (float)(deviation * random_normal(seed, i, j) + mean);
        convert_from_f32(values, dtype, values, p->count);
        device_copy_in(device, (char *)model->weights.data + p->offset * dtype_bytes(dtype), values,
                       p->count * dtype_bytes(dtype));
        free(values);
    }
    return model;
}

void fixture_batch_fill(struct fixture_batch *out, const int *lengths, int64_t vocabulary,
                        uint64_t seed)
{
    size_t tokens = 0, sequences = 0;
    for (; lengths[sequences] >= 0; sequences++) {
        out->offsets[sequences] = (int32_t)tokens;
        for (int i = 0; i < lengths[sequences]; i++, tokens++) {
            uint64_t draw = random_u64(seed, 1, tokens);
            bool last = i + 1 == lengths[sequences];
            out->ids[tokens] = (int32_t)(random_u64(seed, 0, tokens) % (uint64_t)vocabulary);
            out->positions[tokens] = i;
            out->targets[tokens] =
                last || draw & 1 ? (int32_t)((draw >> 1) % (uint64_t)vocabulary) : -1;
        }
    }
    out->offsets[sequences] = (int32_t)tokens;
    out->batch = (struct batch){
        .ids = out->ids,
        .positions = out->positions,
        .targets = out->targets,
        .offsets = out->offsets,
        .tokens = tokens,
        .sequences = sequences,
    };
}

float *fixture_floats(struct device *device, size_t count)
{
    struct error err;
    void *block = NULL;
    if (device_alloc(device, count * sizeof(float), &block, &err))
        fail_msg("%s", err.text);
    return block;
}

float *fixture_copy_out(struct device *device, const float *block, size_t count)
{
    struct error err;
    float *out = mem_alloc(count * sizeof *out);
    if (device_copy_out(device, out, block, count * sizeof *out, &err))
        fail_msg("%s", err.text);
    return out;
}
