// SPDX-License-Identifier: Apache-2.0
// Rotary frequencies and how config.json describes them. transformers 4 writes `rope_theta` and
// `rope_scaling` {"type" or "rope_type"}, transformers 5 `rope_parameters`, which Gemma nests under
// the kinds of layers.
//
// f_i = theta^(-2 i / d), and with it
//     linear  f_i / factor (Chen et al. 2023)
//     llama3  wavelengths 2 pi / f_i below original / high stay, those above original / low are
//             divided by factor, those between are interpolated (Grattafiori et al. 2024)
//     yarn    f_i / factor where a ramp over i is 1, f_i where it is 0; the ramp runs between the
//             dimensions that turn beta_fast and beta_slow times in the original context, and the
//             cosines and sines are multiplied by 0.1 ln(factor) + 1 (Peng et al. 2023)
#include "worker/model/config_internal.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

static const char *const kind_names[] = {"default", "linear", "llama3", "yarn"};

enum { KINDS = sizeof kind_names / sizeof *kind_names };

static const double two_pi = 6.28318530717958647692;

// {"rope_type": "default"} (once "type") means no scaling.
static int read_kind(const struct json *rope, const char *key, enum rope_kind *out,
                     struct error *err)
{
    const char *type = NULL;
    if (json_get_string(rope, "type", &type, err) || json_get_string(rope, "rope_type", &type, err))
        return -1;
    if (strcmp(key, "rope_scaling") == 0 && !type)
        return error_set(err, "no 'rope_type'");
    *out = ROPE_DEFAULT;
    for (size_t i = 0; type && i < KINDS; i++) {
        if (strcmp(type, kind_names[i]) == 0) {
            *out = (enum rope_kind)i;
            return 0;
        }
    }
    return type ? error_set(err,
                            "rope scaling '%s' is not supported; supported: default, linear, "
                            "llama3, yarn",
                            type)
                : 0;
}

static int require(const struct json *rope, const char *key, double *out, struct error *err)
{
    const struct json *value = json_get(rope, key);
    if (!value || value->type == JSON_NULL)
        return error_set(err, "no '%s'", key);
    return json_get_number(rope, key, out, err);
}

static double yarn_magnitude(double factor, double scale)
{
    return factor <= 1 ? 1 : 0.1 * scale * log(factor) + 1;
}

static int read_yarn(const struct json *rope, struct rope_scaling *out, struct error *err)
{
    double scale = 0, scale_all = 0;
    out->beta_fast = 32;
    out->beta_slow = 1;
    out->truncate = true;
    if (json_get_number(rope, "mscale", &scale, err) ||
        json_get_number(rope, "mscale_all_dim", &scale_all, err))
        return -1;
    out->attention_factor = yarn_magnitude(out->factor, 1);
    if (scale != 0 && scale_all != 0)
        out->attention_factor =
            yarn_magnitude(out->factor, scale) / yarn_magnitude(out->factor, scale_all);
    return json_get_number(rope, "attention_factor", &out->attention_factor, err) ||
                   json_get_number(rope, "beta_fast", &out->beta_fast, err) ||
                   json_get_number(rope, "beta_slow", &out->beta_slow, err) ||
                   json_get_bool(rope, "truncate", &out->truncate, err)
               ? -1
               : 0;
}

static int read_scaling(const struct json *rope, const char *key, struct model_config *config,
                        struct error *err)
{
    struct rope_scaling scaling = {.original_positions = config->max_positions};
    double whole = 1;
    if (read_kind(rope, key, &scaling.kind, err) ||
        json_get_number(rope, "partial_rotary_factor", &whole, err))
        return -1;
    if (whole != 1)
        return error_set(err, "'partial_rotary_factor' is %g; only 1 is supported", whole);
    if (scaling.kind == ROPE_DEFAULT)
        return 0;
    if (require(rope, "factor", &scaling.factor, err) ||
        json_get_int(rope, "original_max_position_embeddings", 1, MODEL_POSITIONS_LIMIT,
                     &scaling.original_positions, err))
        return -1;
    if (scaling.kind == ROPE_LLAMA3 &&
        (require(rope, "low_freq_factor", &scaling.low_frequency_factor, err) ||
         require(rope, "high_freq_factor", &scaling.high_frequency_factor, err)))
        return -1;
    if (scaling.kind == ROPE_YARN && read_yarn(rope, &scaling, err))
        return -1;
    config->rope_scaling = scaling;
    return 0;
}

// One object of either layout.
static int read_object(const struct json *rope, const char *key, struct model_config *out,
                       struct error *err)
{
    if (!rope || rope->type == JSON_NULL)
        return 0;
    if (rope->type != JSON_OBJECT)
        return error_set(err, "'%s' is not an object", key);
    if (read_scaling(rope, key, out, err) ||
        json_get_number(rope, "rope_theta", &out->rope_theta, err))
        return error_prefix(err, "'%s'", key);
    return 0;
}

static int read_local(const struct json *rope, struct model_config *out, struct error *err)
{
    static const char *const key = "sliding_attention";
    enum rope_kind kind = ROPE_DEFAULT;
    if (!rope || rope->type == JSON_NULL)
        return 0;
    if (rope->type != JSON_OBJECT)
        return error_set(err, "'%s' is not an object", key);
    if (read_kind(rope, key, &kind, err) ||
        json_get_number(rope, "rope_theta", &out->local_rope_theta, err))
        return error_prefix(err, "'%s'", key);
    if (kind != ROPE_DEFAULT)
        return error_set(err, "'%s': rope scaling '%s' is not supported", key, kind_names[kind]);
    return 0;
}

int rope_config_read(const struct json *root, struct model_config *out, struct error *err)
{
    const struct json *parameters = json_get(root, "rope_parameters");
    double whole = 1;
    if (json_get_number(root, "partial_rotary_factor", &whole, err))
        return -1;
    if (whole != 1)
        return error_set(err, "'partial_rotary_factor' is %g; only 1 is supported", whole);
    if (json_get_number(root, "rope_theta", &out->rope_theta, err) ||
        read_object(json_get(root, "rope_scaling"), "rope_scaling", out, err))
        return -1;
    if (out->local_rope_theta == 0)
        return read_object(parameters, "rope_parameters", out, err);
    if (json_get_number(root, "rope_local_base_freq", &out->local_rope_theta, err))
        return -1;
    if (!parameters || parameters->type == JSON_NULL)
        return 0;
    if (parameters->type != JSON_OBJECT)
        return error_set(err, "'rope_parameters' is not an object");
    if (read_object(json_get(parameters, "full_attention"), "full_attention", out, err) ||
        read_local(json_get(parameters, "sliding_attention"), out, err))
        return error_prefix(err, "'rope_parameters'");
    return 0;
}

static bool is_within(double value, double low, double high)
{
    return value >= low && value <= high;
}

int rope_config_validate(const struct model_config *config, struct error *err)
{
    const struct rope_scaling *s = &config->rope_scaling;
    if (!is_within(config->rope_theta, 1, 1e12))
        return error_set(err, "rope_theta is %g, outside 1..1e12", config->rope_theta);
    if (config->local_rope_theta != 0 && !is_within(config->local_rope_theta, 1, 1e12))
        return error_set(err, "rope_local_base_freq is %g, outside 1..1e12",
                         config->local_rope_theta);
    if (s->kind == ROPE_DEFAULT)
        return 0;
    if (!is_within(s->factor, 1, 1e6))
        return error_set(err, "the rope scaling's factor is %g, outside 1..1e6", s->factor);
    if (s->kind != ROPE_LINEAR &&
        (s->original_positions < 1 || s->original_positions > MODEL_POSITIONS_LIMIT))
        return error_set(err, "original_max_position_embeddings is %" PRId64 ", outside 1..%d",
                         s->original_positions, MODEL_POSITIONS_LIMIT);
    if (s->kind == ROPE_LLAMA3 && !(is_within(s->low_frequency_factor, 1e-6, 1e6) &&
                                    is_within(s->high_frequency_factor, 1e-6, 1e6) &&
                                    s->low_frequency_factor < s->high_frequency_factor))
        return error_set(err,
                         "low_freq_factor %g is not below high_freq_factor %g, or out of range",
                         s->low_frequency_factor, s->high_frequency_factor);
    if (s->kind != ROPE_YARN)
        return 0;
    if (!(config->rope_theta > 1 && is_within(s->beta_slow, 1e-6, 1e6) &&
          is_within(s->beta_fast, s->beta_slow, 1e6)))
        return error_set(err, "beta_fast %g and beta_slow %g of rope_theta %g give no ramp",
                         s->beta_fast, s->beta_slow, config->rope_theta);
    if (!is_within(s->attention_factor, 1e-3, 1e3))
        return error_set(err, "attention_factor is %g, outside 0.001..1000", s->attention_factor);
    return 0;
}

static void write_number(struct json_writer *w, const char *key, double value)
{
    json_key(w, key);
    json_number(w, value);
}

static void write_scaling(const struct rope_scaling *s, struct json_writer *w)
{
    if (s->kind == ROPE_DEFAULT) {
        json_null(w);
        return;
    }
    json_begin_object(w);
    json_key(w, "rope_type");
    json_text(w, kind_names[s->kind]);
    write_number(w, "factor", s->factor);
    if (s->kind != ROPE_LINEAR) {
        json_key(w, "original_max_position_embeddings");
        json_int(w, s->original_positions);
    }
    if (s->kind == ROPE_LLAMA3) {
        write_number(w, "low_freq_factor", s->low_frequency_factor);
        write_number(w, "high_freq_factor", s->high_frequency_factor);
    }
    if (s->kind == ROPE_YARN) {
        write_number(w, "attention_factor", s->attention_factor);
        write_number(w, "beta_fast", s->beta_fast);
        write_number(w, "beta_slow", s->beta_slow);
        json_key(w, "truncate");
        json_bool(w, s->truncate);
    }
    json_end_object(w);
}

void rope_config_write(const struct model_config *config, struct json_writer *w)
{
    json_key(w, "rope_scaling");
    write_scaling(&config->rope_scaling, w);
    write_number(w, "rope_theta", config->rope_theta);
    if (config->local_rope_theta != 0)
        write_number(w, "rope_local_base_freq", config->local_rope_theta);
}

int64_t model_config_positions(const struct model_config *config)
{
    const struct rope_scaling *s = &config->rope_scaling;
    double extended = s->kind == ROPE_YARN ? s->factor * (double)s->original_positions : 0;
    if (extended > MODEL_POSITIONS_LIMIT)
        extended = MODEL_POSITIONS_LIMIT;
    return extended > (double)config->max_positions ? (int64_t)extended : config->max_positions;
}

static double llama3_frequency(const struct rope_scaling *s, double frequency)
{
    double turns = (double)s->original_positions * frequency / two_pi; // in the original context
    if (turns > s->high_frequency_factor)
        return frequency;
    if (turns < s->low_frequency_factor)
        return frequency / s->factor;
    double smooth =
        (turns - s->low_frequency_factor) / (s->high_frequency_factor - s->low_frequency_factor);
    return (1 - smooth) * frequency / s->factor + smooth * frequency;
}

// The dimension, of head_width, whose pair turns `turns` times in the original context.
static double turning_dimension(const struct model_config *config, double turns)
{
    double positions = (double)config->rope_scaling.original_positions;
    return (double)config->head_width * log(positions / (turns * two_pi)) /
           (2 * log(config->rope_theta));
}

static double yarn_frequency(const struct model_config *config, double frequency, size_t i)
{
    const struct rope_scaling *s = &config->rope_scaling;
    double low = turning_dimension(config, s->beta_fast);
    double high = turning_dimension(config, s->beta_slow);
    if (s->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, (double)config->head_width - 1);
    if (low == high)
        high += 0.001;
    double ramp = fmin(fmax(((double)i - low) / (high - low), 0), 1);
    return frequency / s->factor * ramp + frequency * (1 - ramp);
}

void model_config_frequencies(const struct model_config *config, enum layer_kind kind, float *out)
{
    size_t half = (size_t)config->head_width / 2;
    bool local = kind == LAYER_SLIDING && config->local_rope_theta != 0;
    double theta = local ? config->local_rope_theta : config->rope_theta;
    const struct rope_scaling *s = &config->rope_scaling;
    for (size_t i = 0; i < half; i++) {
        double frequency = pow(theta, -(double)i / (double)half);
        if (!local && s->kind == ROPE_LINEAR)
            frequency /= s->factor;
        if (!local && s->kind == ROPE_LLAMA3)
            frequency = llama3_frequency(s, frequency);
        if (!local && s->kind == ROPE_YARN)
            frequency = yarn_frequency(config, frequency, i);
        out[i] = (float)frequency;
    }
}
