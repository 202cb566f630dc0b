// SPDX-License-Identifier: Apache-2.0
// Reads and writes Hugging Face's config.json. Two layouts are in use: transformers 4 writes
// `torch_dtype` and a top-level `rope_theta`, transformers 5 writes `dtype`, `rope_parameters` and
// `layer_types`. A key that would change the result and that we do not implement is an error.
#include "worker/model/config.h"

#include "base/arena.h"
#include "base/json.h"

#include <inttypes.h>
#include <string.h>

// Limits: far above every published model, and low enough that no product of two dimensions or the
// total of all parameters leaves 64 bits.
enum {
    MAX_LAYERS = 1024,
    MAX_HIDDEN = 65536,
    MAX_HEADS = 1024,
    MAX_HEAD_WIDTH = HEAD_WIDTH_LIMIT,
    MAX_FFN = 1 << 20,
    MAX_VOCABULARY = 1 << 24,
    MAX_POSITIONS = 1 << 26,
};

static const struct {
    const char *name; // model_type, and the class in `architectures`
    const char *class_name;
    enum architecture architecture;
} architectures[] = {{"qwen2", "Qwen2ForCausalLM", ARCHITECTURE_QWEN2}};

static const struct {
    const char *name;
    enum dtype dtype;
} dtypes[] = {{"float32", DTYPE_F32}, {"bfloat16", DTYPE_BF16}, {"float16", DTYPE_F16}};

static int read_architecture(const struct json *root, struct model_config *out, struct error *err)
{
    const char *type = NULL;
    if (json_get_string(root, "model_type", &type, err))
        return -1;
    if (!type)
        return error_set(err, "no 'model_type'; supported: qwen2");
    for (size_t i = 0; i < sizeof architectures / sizeof *architectures; i++) {
        if (strcmp(type, architectures[i].name) == 0) {
            out->architecture = architectures[i].architecture;
            return 0;
        }
    }
    return error_set(err, "unsupported model_type '%s'; supported: qwen2", type);
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
        if (key->required && (!value || value->type == JSON_NULL))
            return error_set(err, "no '%s'", key->name);
        if (json_get_int(root, key->name, 1, key->maximum, integer_target(out, key), err))
            return -1;
    }
    if (out->kv_heads == 0)
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

// {"rope_type": "default"} (once "type") means no scaling; every other kind changes the angles.
static int check_rope_type(const struct json *rope, const char *key, struct error *err)
{
    if (!rope || rope->type == JSON_NULL)
        return 0;
    if (rope->type != JSON_OBJECT)
        return error_set(err, "'%s' is not an object", key);
    const char *type = NULL;
    if (json_get_string(rope, "type", &type, err) || json_get_string(rope, "rope_type", &type, err))
        return error_prefix(err, "%s", key);
    if (strcmp(key, "rope_scaling") == 0 && !type)
        return error_set(err, "'rope_scaling' has no 'rope_type'");
    if (type && strcmp(type, "default") != 0)
        return error_set(err, "rope scaling '%s' is not supported; only 'default' is", type);
    return 0;
}

static int read_rope(const struct json *root, struct model_config *out, struct error *err)
{
    const struct json *parameters = json_get(root, "rope_parameters");
    if (check_rope_type(json_get(root, "rope_scaling"), "rope_scaling", err) ||
        check_rope_type(parameters, "rope_parameters", err))
        return -1;
    if (json_get_number(root, "rope_theta", &out->rope_theta, err))
        return -1;
    if (json_get_number(parameters, "rope_theta", &out->rope_theta, err))
        return error_prefix(err, "rope_parameters");
    return 0;
}

static int check_layer_types(const struct json *root, int64_t layers, struct error *err)
{
    const struct json *types = json_get(root, "layer_types");
    if (!types || types->type == JSON_NULL)
        return 0;
    if (types->type != JSON_ARRAY)
        return error_set(err, "'layer_types' is not an array");
    if (types->length != (size_t)layers)
        return error_set(err, "'layer_types' has %zu entries for %" PRId64 " layers", types->length,
                         layers);
    for (size_t i = 0; i < types->length; i++) {
        const struct json *type = &types->items[i];
        if (type->type != JSON_STRING)
            return error_set(err, "'layer_types' entry %zu is not a string", i);
        if (strcmp(type->string, "full_attention") != 0)
            return error_set(err, "layer %zu is '%s'; only 'full_attention' is supported", i,
                             type->string);
    }
    return 0;
}

static int reject_if_true(const struct json *root, const char *key, struct error *err)
{
    bool value = false;
    if (json_get_bool(root, key, &value, err))
        return -1;
    return value ? error_set(err, "'%s' is true, which is not supported", key) : 0;
}

static int check_features(const struct json *root, int64_t layers, struct error *err)
{
    const struct json *quantization = json_get(root, "quantization_config");
    if (quantization && quantization->type != JSON_NULL)
        return error_set(err, "'quantization_config' is set; quantized weights are not supported");
    if (reject_if_true(root, "use_sliding_window", err) || reject_if_true(root, "use_mrope", err))
        return -1;
    return check_layer_types(root, layers, err);
}

static int read_activation(const struct json *root, struct model_config *out, struct error *err)
{
    const char *name = "silu";
    if (json_get_string(root, "hidden_act", &name, err))
        return -1;
    if (strcmp(name, "silu") != 0)
        return error_set(err, "unsupported hidden_act '%s'; supported: silu", name);
    out->activation = ACTIVATION_SILU;
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
    *out = (struct model_config){
        .max_positions = 32768, // what Qwen2Config of transformers assumes for absent keys
        .rope_theta = 10000.0,
        .rms_epsilon = 1e-6,
        .qkv_bias = true,
    };
    if (read_architecture(root, out, err) || read_integers(root, out, err) ||
        read_rope(root, out, err) || check_features(root, out->layers, err) ||
        read_activation(root, out, err) || read_dtype(root, out, err) ||
        json_get_number(root, "rms_norm_eps", &out->rms_epsilon, err) ||
        json_get_bool(root, "tie_word_embeddings", &out->tied, err))
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
    if (!(config->rope_theta >= 1.0 && config->rope_theta <= 1e12))
        return error_set(err, "rope_theta is %g, outside 1..1e12", config->rope_theta);
    if (!(config->rms_epsilon > 0.0 && config->rms_epsilon <= 0.1))
        return error_set(err, "rms_norm_eps is %g, outside 0..0.1", config->rms_epsilon);
    return 0;
}

static void write_rope(struct json_writer *w, double theta)
{
    json_key(w, "rope_scaling");
    json_null(w);
    json_key(w, "rope_theta");
    json_number(w, theta);
}

void model_config_write(const struct model_config *config, struct strbuf *out)
{
    struct json_writer w = {.out = out, .indent = 2};
    json_begin_object(&w);
    json_key(&w, "architectures");
    json_begin_array(&w);
    json_text(&w, architectures[config->architecture].class_name);
    json_end_array(&w);
    json_key(&w, "model_type");
    json_text(&w, architectures[config->architecture].name);
    for (size_t i = 0; i < sizeof integer_keys / sizeof *integer_keys; i++) {
        json_key(&w, integer_keys[i].name);
        json_int(&w,
                 *(const int64_t *)(const void *)((const char *)config + integer_keys[i].offset));
    }
    json_key(&w, "hidden_act");
    json_text(&w, "silu");
    json_key(&w, "rms_norm_eps");
    json_number(&w, config->rms_epsilon);
    write_rope(&w, config->rope_theta);
    json_key(&w, "tie_word_embeddings");
    json_bool(&w, config->tied);
    json_key(&w, "use_sliding_window");
    json_bool(&w, false);
    json_key(&w, "attention_dropout");
    json_number(&w, 0.0);
    json_key(&w, "torch_dtype");
    json_text(&w, dtypes[config->dtype].name);
    json_end_object(&w);
    strbuf_addc(out, '\n');
}
