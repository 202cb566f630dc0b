// SPDX-License-Identifier: Apache-2.0
// Reads and writes Hugging Face's config.json. Two layouts are in use: transformers 4 writes
// `torch_dtype` and a top-level `rope_theta`, transformers 5 writes `dtype`, `rope_parameters` and
// `layer_types`. A key that would change the result and that we do not implement is an error.
// Rotary embedding and kinds of layers have files of their own.
#include "worker/model/config_internal.h"

#include "base/arena.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

// Limits: far above every published model, and low enough that no product of two dimensions or the
// total of all parameters leaves 64 bits.
enum {
    MAX_LAYERS = MODEL_LAYERS_LIMIT,
    MAX_HIDDEN = 65536,
    MAX_HEADS = 1024,
    MAX_HEAD_WIDTH = HEAD_WIDTH_LIMIT,
    MAX_FFN = 1 << 20,
    MAX_VOCABULARY = 1 << 24,
    MAX_POSITIONS = MODEL_POSITIONS_LIMIT,
};

static const struct {
    const char *name;
    enum dtype dtype;
} dtypes[] = {{"float32", DTYPE_F32}, {"bfloat16", DTYPE_BF16}, {"float16", DTYPE_F16}};

static const struct {
    const char *name;
    enum activation activation;
} activations[] = {{"silu", ACTIVATION_SILU}, {"gelu_pytorch_tanh", ACTIVATION_GELU_TANH}};

enum { ACTIVATION_NAMES = sizeof activations / sizeof *activations };

static int read_architecture(const struct json *root, struct model_config *out, struct error *err)
{
    const char *type = NULL;
    char supported[128] = "";
    size_t length = 0;
    if (json_get_string(root, "model_type", &type, err))
        return -1;
    for (size_t i = 0; i < ARCHITECTURES; i++) {
        if (type && strcmp(type, architecture_infos[i].name) == 0) {
            *out = architecture_infos[i].defaults;
            return 0;
        }
        length += (size_t)snprintf(supported + length, sizeof supported - length, "%s%s",
                                   i ? ", " : "", architecture_infos[i].name);
    }
    if (!type)
        return error_set(err, "no 'model_type'; supported: %s", supported);
    return error_set(err, "unsupported model_type '%s'; supported: %s", type, supported);
}

struct integer_key {
    const char *name;
    size_t offset; // in struct model_config
    int64_t maximum;
    bool required;
};

static const struct integer_key integer_keys[] = {
    {"num_hidden_layers", offsetof(struct model_config, layers), MAX_LAYERS, true},
    {"hidden_size", offsetof(struct model_config, hidden), MAX_HIDDEN, true},
    {"num_attention_heads", offsetof(struct model_config, heads), MAX_HEADS, true},
    {"num_key_value_heads", offsetof(struct model_config, kv_heads), MAX_HEADS, false},
    {"head_dim", offsetof(struct model_config, head_width), MAX_HEAD_WIDTH, false},
    {"intermediate_size", offsetof(struct model_config, ffn), MAX_FFN, true},
    {"vocab_size", offsetof(struct model_config, vocabulary), MAX_VOCABULARY, true},
    {"max_position_embeddings", offsetof(struct model_config, max_positions), MAX_POSITIONS, false},
};

static int64_t *integer_target(struct model_config *config, const struct integer_key *key)
{
    return (int64_t *)(void *)((char *)config + key->offset);
}

static int read_integers(const struct json *root, struct model_config *out, struct error *err)
{
    for (size_t i = 0; i < sizeof integer_keys / sizeof *integer_keys; i++) {
        const struct integer_key *key = &integer_keys[i];
        const struct json *value = json_get(root, key->name);
        if (key->required && *integer_target(out, key) == 0 && (!value || value->type == JSON_NULL))
            return error_set(err, "no '%s'", key->name);
        if (json_get_int(root, key->name, 1, key->maximum, integer_target(out, key), err))
            return -1;
    }
    const struct json *kv_heads = json_get(root, "num_key_value_heads");
    if (out->kv_heads == 0 || (kv_heads && kv_heads->type == JSON_NULL))
        out->kv_heads = out->heads;
    if (out->head_width == 0) {
        if (out->hidden % out->heads != 0)
            return error_set(err,
                             "hidden_size %" PRId64
                             " is no multiple of num_attention_heads %" PRId64
                             " and there is no 'head_dim'",
                             out->hidden, out->heads);
        out->head_width = out->hidden / out->heads;
    }
    return 0;
}

// LFM2 states the width before its adjustment: two thirds of it, times a factor, rounded up.
static int adjust_ffn(const struct json *root, struct model_config *out, struct error *err)
{
    bool adjust = true;
    int64_t multiple = 256;
    double factor = 1;
    const struct json *multiplier = json_get(root, "block_ffn_dim_multiplier");
    if (json_get_int(root, "block_ff_dim", 1, MAX_FFN, &out->ffn, err) ||
        json_get_bool(root, "block_auto_adjust_ff_dim", &adjust, err) ||
        json_get_int(root, "block_multiple_of", 1, MAX_FFN, &multiple, err) ||
        json_get_number(root, "block_ffn_dim_multiplier", &factor, err))
        return -1;
    if (!(factor > 0 && factor <= 1024))
        return error_set(err, "block_ffn_dim_multiplier is %g, outside 0..1024", factor);
    if (!adjust)
        return 0;
    out->ffn = (int64_t)(factor * (double)(2 * out->ffn / 3));
    if (!multiplier || multiplier->type != JSON_NULL)
        out->ffn = (out->ffn + multiple - 1) / multiple * multiple;
    return 0;
}

static int reject_if_true(const struct json *root, const char *key, struct error *err)
{
    bool value = false;
    if (json_get_bool(root, key, &value, err))
        return -1;
    return value ? error_set(err, "'%s' is true, which is not supported", key) : 0;
}

static int reject_if_set(const struct json *root, const char *key, struct error *err)
{
    const struct json *value = json_get(root, key);
    return value && value->type != JSON_NULL
               ? error_set(err, "'%s' is set, which is not supported", key)
               : 0;
}

static int check_features(const struct json *root, struct error *err)
{
    static const char *const flags[] = {"use_mrope", "attention_bias", "mlp_bias", "conv_bias",
                                        "use_bidirectional_attention"};
    static const char *const values[] = {"quantization_config", "attn_logit_softcapping",
                                         "final_logit_softcapping"};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        if (reject_if_true(root, flags[i], err))
            return -1;
    }
    for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
        if (reject_if_set(root, values[i], err))
            return -1;
    }
    return 0;
}

static int read_activation(const struct json *root, struct model_config *out, struct error *err)
{
    const char *key = architecture_infos[out->architecture].activation_key;
    const char *name = NULL;
    if (key && json_get_string(root, key, &name, err))
        return -1;
    if (!name)
        return 0;
    for (size_t i = 0; i < ACTIVATION_NAMES; i++) {
        if (strcmp(name, activations[i].name) == 0) {
            out->activation = activations[i].activation;
            return 0;
        }
    }
    return error_set(err, "unsupported %s '%s'; supported: silu, gelu_pytorch_tanh", key, name);
}

static int read_attention_scalar(const struct json *root, struct model_config *out,
                                 struct error *err)
{
    if (out->architecture != ARCHITECTURE_GEMMA3)
        return 0;
    if (json_get_number(root, "query_pre_attn_scalar", &out->attention_scalar, err))
        return -1;
    if (!(out->attention_scalar > 0 && out->attention_scalar <= 1e6))
        return error_set(err, "query_pre_attn_scalar is %g, outside 0..1e6", out->attention_scalar);
    return 0;
}

static int read_dtype(const struct json *root, struct model_config *out, struct error *err)
{
    const char *name = "float32"; // what transformers assumes when nothing is said
    if (json_get_string(root, "torch_dtype", &name, err) ||
        json_get_string(root, "dtype", &name, err))
        return -1;
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
        if (strcmp(name, dtypes[i].name) == 0) {
            out->dtype = dtypes[i].dtype;
            return 0;
        }
    }
    return error_set(err, "unsupported dtype '%s'; supported: float32, bfloat16, float16", name);
}

static int read_config(const struct json *root, struct model_config *out, struct error *err)
{
    if (root->type != JSON_OBJECT)
        return error_set(err, "not a JSON object");
    if (read_architecture(root, out, err) || read_integers(root, out, err) ||
        (out->architecture == ARCHITECTURE_LFM2 && adjust_ffn(root, out, err)) ||
        rope_config_read(root, out, err) || check_features(root, err) ||
        layers_config_read(root, out, err) || read_activation(root, out, err) ||
        read_attention_scalar(root, out, err) || read_dtype(root, out, err) ||
        json_get_number(root, architecture_infos[out->architecture].epsilon_key, &out->rms_epsilon,
                        err) ||
        json_get_bool(root, "tie_word_embeddings", &out->tied, err))
        return -1;
    if (out->architecture == ARCHITECTURE_LFM2 &&
        json_get_bool(root, "tie_embedding", &out->tied, err))
        return -1;
    return model_config_validate(out, err);
}

int model_config_parse(const char *json, size_t length, struct model_config *out, struct error *err)
{
    struct arena arena = {0};
    const struct json *root = NULL;
    int rc = json_parse(&arena, json, length, &root, err);
    if (rc == 0)
        rc = read_config(root, out, err);
    arena_release(&arena);
    return rc;
}

int model_config_validate(const struct model_config *config, struct error *err)
{
    for (size_t i = 0; i < sizeof integer_keys / sizeof *integer_keys; i++) {
        const struct integer_key *key = &integer_keys[i];
        int64_t value = *(const int64_t *)(const void *)((const char *)config + key->offset);
        if (value < 1 || value > key->maximum)
            return error_set(err, "%s is %" PRId64 ", outside 1..%" PRId64, key->name, value,
                             key->maximum);
    }
    if (config->heads % config->kv_heads != 0)
        return error_set(
            err, "num_attention_heads %" PRId64 " is no multiple of num_key_value_heads %" PRId64,
            config->heads, config->kv_heads);
    if (config->head_width % 2 != 0)
        return error_set(err, "head_dim is %" PRId64 "; rotary embedding needs an even one",
                         config->head_width);
    if (!(config->rms_epsilon > 0.0 && config->rms_epsilon <= 0.1))
        return error_set(err, "%s is %g, outside 0..0.1",
                         architecture_infos[config->architecture].epsilon_key, config->rms_epsilon);
    return rope_config_validate(config, err) || layers_config_validate(config, err) ? -1 : 0;
}

void model_config_write(const struct model_config *config, struct strbuf *out)
{
    const struct architecture_info *info = &architecture_infos[config->architecture];
    struct json_writer w = {.out = out, .indent = 2};
    json_begin_object(&w);
    json_key(&w, "architectures");
    json_begin_array(&w);
    json_text(&w, info->class_name);
    json_end_array(&w);
    json_key(&w, "model_type");
    json_text(&w, info->name);
    for (size_t i = 0; i < sizeof integer_keys / sizeof *integer_keys; i++) {
        json_key(&w, integer_keys[i].name);
        json_int(&w,
                 *(const int64_t *)(const void *)((const char *)config + integer_keys[i].offset));
    }
    if (info->activation_key) {
        json_key(&w, info->activation_key);
        json_text(&w, activations[config->activation].name);
    }
    json_key(&w, info->epsilon_key);
    json_number(&w, config->rms_epsilon);
    if (config->attention_scalar > 0) {
        json_key(&w, "query_pre_attn_scalar");
        json_number(&w, config->attention_scalar);
    }
    if (config->architecture == ARCHITECTURE_LFM2) {
        json_key(&w, "block_auto_adjust_ff_dim");
        json_bool(&w, false);
    }
    rope_config_write(config, &w);
    layers_config_write(config, &w);
    json_key(&w, "tie_word_embeddings");
    json_bool(&w, config->tied);
    json_key(&w, "attention_dropout");
    json_number(&w, 0.0);
    json_key(&w, "torch_dtype");
    json_text(&w, dtypes[config->dtype].name);
    json_end_object(&w);
    strbuf_addc(out, '\n');
}
