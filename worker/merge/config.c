// SPDX-License-Identifier: Apache-2.0
#include "worker/merge/config.h"

#include "base/mem.h"
#include "worker/merge/yaml.h"

#include <stdlib.h>
#include <string.h>

struct parsing {
    struct merge_config *config;
    const char *directory;
};

// Every key of object is one of names, which ends with NULL.
static int check_keys(const struct json *object, const char *where, const char *const *names,
                      struct error *err)
{
    if (object->type != JSON_OBJECT)
        return error_set(err, "%s is %s, not a mapping", where, json_type_name(object->type));
    for (size_t i = 0; i < object->length; i++) {
        const char *const *name = names;
        while (*name && strcmp(*name, object->keys[i]) != 0)
            name++;
        if (!*name)
            return error_set(err, "unknown key '%s' in %s", object->keys[i], where);
    }
    return 0;
}

static int read_value(const char *name, const struct json *value, double *out, struct error *err)
{
    if (value->type != JSON_NUMBER && value->type != JSON_BOOL)
        return error_set(err, "parameter '%s' is %s, not a number", name,
                         json_type_name(value->type));
    *out = value->type == JSON_BOOL ? value->boolean : value->number;
    return 0;
}

// A number, or a gradient.
static int add_values(struct parsing *parsing, int setting, int model, const char *filter,
                      const struct json *value, struct error *err)
{
    const char *name = merge_setting_name((enum merge_setting)setting);
    const size_t count = value->type == JSON_ARRAY ? value->length : 1;
    if (count == 0)
        return error_set(err, "parameter '%s' is an empty list", name);
    double *values = mem_calloc(count, sizeof(*values));
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < count; i++)
        rc =
            read_value(name, value->type == JSON_ARRAY ? &value->items[i] : value, &values[i], err);
    if (rc == 0)
        merge_recipe_add(&parsing->config->recipe, (enum merge_setting)setting, model, filter,
                         values, count);
    free(values);
    return rc;
}

static int add_condition(struct parsing *parsing, int setting, int model,
                         const struct json *condition, struct error *err)
{
    static const char *const keys[] = {"filter", "value", NULL};
    const char *filter = NULL;
    if (check_keys(condition, "a condition of a parameter", keys, err) ||
        json_get_string(condition, "filter", &filter, err))
        return -1;
    const struct json *value = json_get(condition, "value");
    if (!value)
        return error_set(err, "a condition of parameter '%s' has no value",
                         merge_setting_name((enum merge_setting)setting));
    return add_values(parsing, setting, model, filter, value, err);
}

static int add_parameter(struct parsing *parsing, int setting, int model, const struct json *value,
                         struct error *err)
{
    if (value->type == JSON_OBJECT)
        return add_condition(parsing, setting, model, value, err);
    if (value->type != JSON_ARRAY || value->length == 0 || value->items[0].type != JSON_OBJECT)
        return add_values(parsing, setting, model, NULL, value, err);
    for (size_t i = 0; i < value->length; i++) {
        if (add_condition(parsing, setting, model, &value->items[i], err))
            return -1;
    }
    return 0;
}

static int add_parameters(struct parsing *parsing, int model, const struct json *parameters,
                          struct error *err)
{
    if (!parameters || parameters->type == JSON_NULL)
        return 0;
    if (parameters->type != JSON_OBJECT)
        return error_set(err, "parameters is %s, not a mapping", json_type_name(parameters->type));
    for (size_t i = 0; i < parameters->length; i++) {
        const char *name = parameters->keys[i];
        const int setting = merge_setting_find(name);
        if (strcmp(name, "int8_mask") == 0) // how mergekit stores its masks
            continue;
        if (setting < 0)
            return error_set(err, "unknown parameter '%s'", name);
        if (add_parameter(parsing, setting, model, &parameters->items[i], err))
            return -1;
    }
    return 0;
}

static char *resolve_path(const struct parsing *parsing, const char *name)
{
    return name[0] == '/' ? mem_strdup(name) : fs_join(parsing->directory, name);
}

static int add_model(struct parsing *parsing, const char *name, const struct json *parameters,
                     struct error *err)
{
    struct merge_config *config = parsing->config;
    char *path = resolve_path(parsing, name);
    if (config->base && strcmp(path, config->base) == 0 &&
        merge_traits(config->recipe.method)->needs_base) { // listed only to be complete
        free(path);
        return 0;
    }
    config->models = mem_realloc(config->models, (config->count + 1) * sizeof(*config->models));
    config->models[config->count++] = path;
    return add_parameters(parsing, (int)config->count - 1, parameters, err);
}

static int read_model(struct parsing *parsing, const struct json *entry, const char *where,
                      const char *const *keys, struct error *err)
{
    const char *name = NULL;
    if (check_keys(entry, where, keys, err) || json_get_string(entry, "model", &name, err))
        return -1;
    if (!name)
        return error_set(err, "an entry of %s has no model", where);
    return add_model(parsing, name, json_get(entry, "parameters"), err);
}

static int read_models(struct parsing *parsing, const struct json *models, const char *where,
                       const char *const *keys, struct error *err)
{
    if (models->type != JSON_ARRAY || models->length == 0)
        return error_set(err, "%s is not a list of models", where);
    for (size_t i = 0; i < models->length; i++) {
        if (read_model(parsing, &models->items[i], where, keys, err))
            return -1;
    }
    return 0;
}

static int check_layers(const struct json *sources, struct error *err)
{
    const struct json *first = NULL;
    for (size_t i = 0; i < sources->length; i++) {
        const struct json *range = json_get(&sources->items[i], "layer_range");
        first = first ? first : range;
        const bool pair = range && range->type == JSON_ARRAY && range->length == 2 &&
                          range->items[0].is_integer && range->items[1].is_integer;
        if (!pair || range->items[0].integer != 0 ||
            range->items[1].integer != first->items[1].integer)
            return error_set(err,
                             "layer_range of source %zu is not [0, N] as that of the others: "
                             "only whole models can be merged",
                             i + 1);
    }
    return 0;
}

static int read_slices(struct parsing *parsing, const struct json *slices, struct error *err)
{
    static const char *const slice_keys[] = {"sources", "parameters", NULL};
    static const char *const source_keys[] = {"model", "layer_range", "parameters", NULL};
    if (slices->type != JSON_ARRAY || slices->length != 1)
        return error_set(err, "slices must be one slice that takes whole models");
    const struct json *slice = &slices->items[0];
    if (check_keys(slice, "a slice", slice_keys, err))
        return -1;
    const struct json *sources = json_get(slice, "sources");
    if (!sources || sources->type != JSON_ARRAY)
        return error_set(err, "a slice has no list of sources");
    return check_layers(sources, err) ||
                   read_models(parsing, sources, "sources", source_keys, err) ||
                   add_parameters(parsing, -1, json_get(slice, "parameters"), err)
               ? -1
               : 0;
}

static int read_dtype(struct merge_recipe *recipe, const char *name, struct error *err)
{
    static const char *const names[] = {"float32", "bfloat16", "float16"};
    static const enum dtype dtypes[] = {DTYPE_F32, DTYPE_BF16, DTYPE_F16};
    for (int i = 0; i < 3; i++) {
        if (strcmp(name, names[i]) == 0) {
            recipe->has_out_dtype = true;
            recipe->out_dtype = dtypes[i];
            return 0;
        }
    }
    return error_set(err, "dtype '%s' is none of float32, bfloat16 and float16", name);
}

// slerp goes from the base to the other model; karcher's base is one more model.
static void place_base(struct merge_config *config)
{
    const enum merge_method method = config->recipe.method;
    if (!config->base ||
        (method != MERGE_SLERP && method != MERGE_KARCHER && method != MERGE_LINEAR))
        return;
    size_t at = 0;
    while (at < config->count && strcmp(config->models[at], config->base) != 0)
        at++;
    if (at == config->count && method != MERGE_LINEAR) {
        config->models = mem_realloc(config->models, (at + 1) * sizeof(*config->models));
        config->models[config->count++] = mem_strdup(config->base);
    }
    if (method == MERGE_SLERP && config->count == 2 && at == 1) { // the base first
        char *other = config->models[0];
        config->models[0] = config->models[1];
        config->models[1] = other;
    }
    free(config->base);
    config->base = NULL;
}

static int read_names(struct parsing *parsing, const struct json *root, struct error *err)
{
    struct merge_config *config = parsing->config;
    const char *method = NULL, *base = NULL, *dtype = NULL, *out_dtype = NULL, *tokenizer = "base";
    if (json_get_string(root, "merge_method", &method, err) ||
        json_get_string(root, "base_model", &base, err) ||
        json_get_string(root, "dtype", &dtype, err) ||
        json_get_string(root, "out_dtype", &out_dtype, err) ||
        json_get_string(root, "tokenizer_source", &tokenizer, err))
        return -1;
    if (!method)
        return error_set(err, "no merge_method");
    if (strcmp(tokenizer, "base") != 0)
        return error_set(err, "tokenizer_source '%s': models must share one tokenizer, use base",
                         tokenizer);
    if (base)
        config->base = resolve_path(parsing, base);
    out_dtype = out_dtype ? out_dtype : dtype;
    return merge_parse_method(method, &config->recipe.method, err) ||
                   (out_dtype && read_dtype(&config->recipe, out_dtype, err))
               ? -1
               : 0;
}

static int read_root(struct parsing *parsing, const struct json *root, struct error *err)
{
    static const char *const keys[] = {"merge_method", "base_model",       "models",
                                       "slices",       "parameters",       "dtype",
                                       "out_dtype",    "tokenizer_source", NULL};
    static const char *const model_keys[] = {"model", "parameters", NULL};
    if (check_keys(root, "the configuration", keys, err) || read_names(parsing, root, err))
        return -1;
    const struct json *models = json_get(root, "models"), *slices = json_get(root, "slices");
    if (!models == !slices)
        return error_set(err, "give either models or slices");
    const int rc = models ? read_models(parsing, models, "models", model_keys, err)
                          : read_slices(parsing, slices, err);
    if (rc != 0 || add_parameters(parsing, -1, json_get(root, "parameters"), err))
        return -1;
    place_base(parsing->config);
    return 0;
}

int merge_config_parse(const char *bytes, size_t length, const char *directory,
                       struct merge_config *out, struct error *err)
{
    struct arena arena = {0};
    const struct json *root;
    struct parsing parsing = {out, directory};
    *out = (struct merge_config){0};
    int rc =
        yaml_parse(&arena, bytes, length, &root, err) || read_root(&parsing, root, err) ? -1 : 0;
    if (rc != 0)
        merge_config_release(out);
    arena_release(&arena);
    return rc;
}

int merge_config_read(struct fs *fs, const char *path, struct merge_config *out, struct error *err)
{
    struct strbuf text = {0};
    const char *slash = strrchr(path, '/');
    char *directory = slash ? mem_printf("%.*s", (int)(slash - path), path) : mem_strdup(".");
    *out = (struct merge_config){0};
    int rc = fs_read(fs, path, &text, err);
    if (rc == 0 && merge_config_parse(text.bytes, text.length, directory, out, err))
        rc = error_prefix(err, "'%s'", path);
    free(directory);
    strbuf_release(&text);
    return rc;
}

void merge_config_release(struct merge_config *config)
{
    for (size_t i = 0; i < config->count; i++)
        free(config->models[i]);
    free(config->models);
    free(config->base);
    merge_recipe_release(&config->recipe);
    *config = (struct merge_config){0};
}
