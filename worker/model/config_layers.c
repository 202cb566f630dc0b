// SPDX-License-Identifier: Apache-2.0
// Which kind each layer is. transformers 5 lists `layer_types`; before, every architecture had keys
// of its own: `use_sliding_window` and `max_window_layers` (Qwen), `sliding_window` (Mistral),
// `sliding_window_pattern` (Gemma), `full_attn_idxs` (LFM2).
#include "worker/model/config_internal.h"

#include <inttypes.h>
#include <string.h>

static const char *const kind_names[] = {"full_attention", "sliding_attention", "conv"};

enum { KINDS = sizeof kind_names / sizeof *kind_names };

static bool is_absent(const struct json *value)
{
    return !value || value->type == JSON_NULL;
}

static int read_window(const struct json *root, struct model_config *out, struct error *err)
{
    const struct json *value = json_get(root, "sliding_window");
    if (value && value->type == JSON_NULL)
        out->window = 0;
    return json_get_int(root, "sliding_window", 1, MODEL_POSITIONS_LIMIT, &out->window, err);
}

static int read_qwen(const struct json *root, struct model_config *out, struct error *err)
{
    bool slides = false;
    int64_t first = 28;
    if (json_get_bool(root, "use_sliding_window", &slides, err) ||
        json_get_int(root, "max_window_layers", 0, MODEL_POSITIONS_LIMIT, &first, err) ||
        read_window(root, out, err))
        return -1;
    if (!slides)
        out->window = 0;
    for (int64_t i = first; i < out->layers && out->window > 0; i++)
        out->layer_kinds[i] = LAYER_SLIDING;
    return 0;
}

static int read_mistral(const struct json *root, struct model_config *out, struct error *err)
{
    if (read_window(root, out, err))
        return -1;
    memset(out->layer_kinds, out->window > 0 ? LAYER_SLIDING : LAYER_FULL, (size_t)out->layers);
    return 0;
}

static int read_gemma(const struct json *root, struct model_config *out, struct error *err)
{
    int64_t pattern = 6;
    if (read_window(root, out, err) ||
        json_get_int(root, "_sliding_window_pattern", 1, MODEL_LAYERS_LIMIT, &pattern, err) ||
        json_get_int(root, "sliding_window_pattern", 1, MODEL_LAYERS_LIMIT, &pattern, err))
        return -1;
    for (int64_t i = 0; i < out->layers; i++)
        out->layer_kinds[i] = (i + 1) % pattern ? LAYER_SLIDING : LAYER_FULL;
    return 0;
}

static int read_lfm2(const struct json *root, struct model_config *out, struct error *err)
{
    const struct json *full = json_get(root, "full_attn_idxs");
    if (json_get_int(root, "conv_L_cache", 1, SHORT_CONV_TAPS_LIMIT, &out->conv_taps, err))
        return -1;
    if (is_absent(full))
        return 0;
    if (full->type != JSON_ARRAY)
        return error_set(err, "'full_attn_idxs' is not an array");
    memset(out->layer_kinds, LAYER_CONV, (size_t)out->layers);
    for (size_t i = 0; i < full->length; i++) {
        const struct json *index = &full->items[i];
        if (index->type != JSON_NUMBER || !index->is_integer || index->integer < 0 ||
            index->integer >= out->layers)
            return error_set(err, "'full_attn_idxs' entry %zu is no layer of %" PRId64, i,
                             out->layers);
        out->layer_kinds[index->integer] = LAYER_FULL;
    }
    return 0;
}

// Llama and Mistral of transformers do not read layer_types: theirs must say what happens anyway.
static bool may_be(const struct model_config *config, size_t layer, enum layer_kind kind)
{
    switch (config->architecture) {
    case ARCHITECTURE_LLAMA:
    case ARCHITECTURE_MISTRAL:
        return config->layer_kinds[layer] == kind;
    case ARCHITECTURE_LFM2:
        return kind == LAYER_FULL || kind == LAYER_CONV;
    default:
        return kind == LAYER_FULL || (kind == LAYER_SLIDING && config->window > 0);
    }
}

static int read_types(const struct json *root, struct model_config *out, struct error *err)
{
    const struct json *types = json_get(root, "layer_types");
    if (is_absent(types))
        return 0;
    if (types->type != JSON_ARRAY)
        return error_set(err, "'layer_types' is not an array");
    if (types->length != (size_t)out->layers)
        return error_set(err, "'layer_types' has %zu entries for %" PRId64 " layers", types->length,
                         out->layers);
    for (size_t i = 0; i < types->length; i++) {
        const struct json *type = &types->items[i];
        if (type->type != JSON_STRING)
            return error_set(err, "'layer_types' entry %zu is not a string", i);
        size_t kind = 0;
        while (kind < KINDS && strcmp(type->string, kind_names[kind]) != 0)
            kind++;
        if (kind == KINDS || !may_be(out, i, (enum layer_kind)kind))
            return error_set(err,
                             "'layer_types': layer %zu is '%s', which this %s model cannot have", i,
                             type->string, architecture_infos[out->architecture].name);
        out->layer_kinds[i] = (uint8_t)kind;
    }
    return 0;
}

static int64_t count_kind(const struct model_config *config, enum layer_kind kind)
{
    int64_t count = 0;
    for (int64_t i = 0; i < config->layers; i++)
        count += config->layer_kinds[i] == kind;
    return count;
}

int layers_config_read(const struct json *root, struct model_config *out, struct error *err)
{
    int rc = 0;
    switch (out->architecture) {
    case ARCHITECTURE_QWEN2:
    case ARCHITECTURE_QWEN3:
        rc = read_qwen(root, out, err);
        break;
    case ARCHITECTURE_MISTRAL:
        rc = read_mistral(root, out, err);
        break;
    case ARCHITECTURE_GEMMA3:
        rc = read_gemma(root, out, err);
        break;
    case ARCHITECTURE_LFM2:
        rc = read_lfm2(root, out, err);
        break;
    default:
        break;
    }
    if (rc || read_types(root, out, err))
        return -1;
    if (count_kind(out, LAYER_SLIDING) == 0)
        out->window = 0;
    return 0;
}

int layers_config_validate(const struct model_config *config, struct error *err)
{
    if (config->window < 0 || config->window > MODEL_POSITIONS_LIMIT)
        return error_set(err, "sliding_window is %" PRId64 ", outside 0..%d", config->window,
                         MODEL_POSITIONS_LIMIT);
    for (int64_t i = 0; i < config->layers; i++) {
        if (config->layer_kinds[i] == LAYER_SLIDING && config->window == 0)
            return error_set(err, "layer %" PRId64 " slides and there is no 'sliding_window'", i);
        if (config->layer_kinds[i] == LAYER_CONV &&
            (config->conv_taps < 1 || config->conv_taps > SHORT_CONV_TAPS_LIMIT))
            return error_set(err, "conv_L_cache is %" PRId64 ", outside 1..%d", config->conv_taps,
                             SHORT_CONV_TAPS_LIMIT);
    }
    return 0;
}

void layers_config_write(const struct model_config *config, struct json_writer *w)
{
    bool qwen =
        config->architecture == ARCHITECTURE_QWEN2 || config->architecture == ARCHITECTURE_QWEN3;
    if (qwen) {
        json_key(w, "use_sliding_window");
        json_bool(w, config->window > 0);
    }
    if (config->window > 0 || config->architecture == ARCHITECTURE_MISTRAL) {
        json_key(w, "sliding_window");
        if (config->window > 0)
            json_int(w, config->window);
        else
            json_null(w);
    }
    if (config->architecture == ARCHITECTURE_LFM2) {
        json_key(w, "conv_L_cache");
        json_int(w, config->conv_taps);
        json_key(w, "conv_bias");
        json_bool(w, false);
    }
    bool usual = count_kind(config, LAYER_FULL) == config->layers;
    if (config->architecture == ARCHITECTURE_MISTRAL ||
        (usual && config->architecture != ARCHITECTURE_GEMMA3))
        return;
    json_key(w, "layer_types");
    json_begin_array(w);
    for (int64_t i = 0; i < config->layers; i++)
        json_text(w, kind_names[config->layer_kinds[i]]);
    json_end_array(w);
}
