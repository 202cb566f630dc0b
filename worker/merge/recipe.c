// SPDX-License-Identifier: Apache-2.0
#include "worker/merge/recipe.h"

#include "base/json.h"
#include "base/mem.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    double minimum, maximum;
} settings[MERGE_SETTINGS] = {
    [SETTING_WEIGHT] = {"weight", -1e6, 1e6},
    [SETTING_DENSITY] = {"density", 1e-6, 1},
    [SETTING_GAMMA] = {"gamma", 0, 1},
    [SETTING_EPSILON] = {"epsilon", 0, 0.5},
    [SETTING_LAMBDA] = {"lambda", -1e6, 1e6},
    [SETTING_NORMALIZE] = {"normalize", 0, 1},
    [SETTING_RESCALE] = {"rescale", 0, 1},
    [SETTING_SELECT_TOPK] = {"select_topk", 0, 1},
    [SETTING_FILTER_WISE] = {"filter_wise", 0, 1},
    [SETTING_ROW_WISE] = {"nuslerp_row_wise", 0, 1},
    [SETTING_FLATTEN] = {"nuslerp_flatten", 0, 1},
    [SETTING_T] = {"t", 0, 1},
    [SETTING_MAX_ITER] = {"max_iter", 1, 1e6},
    [SETTING_TOL] = {"tol", 1e-15, 1},
};

const char *merge_setting_name(enum merge_setting setting)
{
    return settings[setting].name;
}

int merge_setting_find(const char *name)
{
    for (int s = 0; s < MERGE_SETTINGS; s++) {
        if (strcmp(settings[s].name, name) == 0)
            return s;
    }
    return -1;
}

void merge_recipe_release(struct merge_recipe *recipe)
{
    free(recipe->rules);
    arena_release(&recipe->arena);
    *recipe = (struct merge_recipe){0};
}

void merge_recipe_add(struct merge_recipe *recipe, enum merge_setting setting, int model,
                      const char *filter, const double *values, size_t count)
{
    char *text = NULL;
    double *copy = arena_alloc(&recipe->arena, count * sizeof(*copy));
    memcpy(copy, values, count * sizeof(*copy));
    if (filter) {
        text = arena_alloc(&recipe->arena, strlen(filter) + 1);
        memcpy(text, filter, strlen(filter) + 1);
    }
    recipe->rules = mem_grow(recipe->rules, &recipe->rule_capacity, recipe->rule_count + 1,
                             sizeof(*recipe->rules));
    recipe->rules[recipe->rule_count++] = (struct merge_rule){setting, model, text, copy, count};
}

void merge_recipe_set(struct merge_recipe *recipe, enum merge_setting setting, double value)
{
    merge_recipe_add(recipe, setting, -1, NULL, &value, 1);
}

static int check_rule(const struct merge_rule *rule, struct error *err)
{
    const double minimum = settings[rule->setting].minimum,
                 maximum = settings[rule->setting].maximum;
    for (size_t i = 0; i < rule->count; i++) {
        if (!(rule->values[i] >= minimum && rule->values[i] <= maximum))
            return error_set(err, "%s %g is outside %g to %g", settings[rule->setting].name,
                             rule->values[i], minimum, maximum);
    }
    return 0;
}

static int check_semantics(const struct merge_recipe *recipe, size_t models, struct error *err)
{
    if (recipe->semantics == MERGE_PAPER)
        return 0;
    if (recipe->method != MERGE_LINEAR && recipe->method != MERGE_TASK_ARITHMETIC &&
        recipe->method != MERGE_TIES)
        return error_set(err, "memo-ref knows linear, task_arithmetic and ties, not %s",
                         merge_traits(recipe->method)->name);
    if (models < 2)
        return error_set(err,
                         "memo-ref takes the first model as the base of the others: name at "
                         "least 2, not %zu",
                         models);
    return 0;
}

int merge_recipe_check(const struct merge_recipe *recipe, size_t models, bool has_base,
                       struct error *err)
{
    const struct merge_traits *traits = merge_traits(recipe->method);
    for (size_t r = 0; r < recipe->rule_count; r++) {
        if (check_rule(&recipe->rules[r], err))
            return -1;
    }
    if (check_semantics(recipe, models, err))
        return -1;
    if (models == 0)
        return error_set(err, "nothing to merge: name at least one task vector or model");
    if (models > MERGE_MODELS_LIMIT)
        return error_set(err, "%zu models: at most %d are merged at once", models,
                         MERGE_MODELS_LIMIT);
    if (models < traits->least)
        return error_set(err, "%s merges at least %zu models, not %zu", traits->name, traits->least,
                         models);
    if (models > traits->most)
        return error_set(err, "%s merges %zu models, not %zu", traits->name, traits->most, models);
    if (traits->needs_base && !has_base && recipe->semantics == MERGE_PAPER)
        return error_set(err, "%s needs the base that the models were trained from", traits->name);
    if (recipe->global_trim && recipe->method != MERGE_TIES)
        return error_set(err, "a global trim belongs to ties, not to %s", traits->name);
    return 0;
}

static void describe_rule(struct json_writer *w, const struct merge_rule *rule)
{
    json_begin_object(w);
    json_key(w, settings[rule->setting].name);
    json_begin_array(w);
    for (size_t i = 0; i < rule->count; i++)
        json_number(w, rule->values[i]);
    json_end_array(w);
    if (rule->model >= 0) {
        json_key(w, "model");
        json_int(w, rule->model);
    }
    if (rule->filter) {
        json_key(w, "filter");
        json_text(w, rule->filter);
    }
    json_end_object(w);
}

static const char *rescale_name(enum merge_rescale rescale)
{
    static const char *const names[] = {"none", "density", "l1"};
    return names[rescale];
}

void merge_recipe_describe(const struct merge_recipe *recipe, struct strbuf *out)
{
    struct json_writer w = {.out = out};
    json_begin_object(&w);
    json_key(&w, "method");
    json_text(&w, merge_traits(recipe->method)->name);
    json_key(&w, "semantics");
    json_text(&w, recipe->semantics == MERGE_PAPER ? "paper" : "memo-ref");
    json_key(&w, "trim");
    json_text(&w, recipe->global_trim ? "global" : "tensor");
    if (recipe->has_rescale) {
        json_key(&w, "rescale");
        json_text(&w, rescale_name(recipe->rescale));
    }
    if (recipe->has_out_dtype) {
        json_key(&w, "dtype");
        json_text(&w, dtype_name(recipe->out_dtype));
    }
    json_key(&w, "seed");
    json_int(&w, (int64_t)recipe->seed);
    json_key(&w, "parameters");
    json_begin_array(&w);
    for (size_t r = 0; r < recipe->rule_count; r++)
        describe_rule(&w, &recipe->rules[r]);
    json_end_array(&w);
    json_end_object(&w);
}

int merge_layer_of(const char *tensor)
{
    for (const char *at = tensor; (at = strstr(at, "layers.")); at++) {
        if ((at == tensor || at[-1] == '.') && isdigit((unsigned char)at[7]))
            return (int)strtol(at + 7, NULL, 10);
    }
    return -1;
}

static double gradient(const struct merge_rule *rule, double place)
{
    const double scaled = place * (double)(rule->count - 1);
    const size_t i = (size_t)scaled, next = i + 1 < rule->count ? i + 1 : i;
    const double part = scaled - (double)i;
    return (1 - part) * rule->values[i] + part * rule->values[next];
}

static bool find(const struct merge_recipe *recipe, enum merge_setting setting, int model,
                 const char *tensor, double place, double *out)
{
    for (size_t r = 0; r < recipe->rule_count; r++) {
        const struct merge_rule *rule = &recipe->rules[r];
        if (rule->setting != setting || rule->model != model ||
            (rule->filter && strcmp(rule->filter, "*") != 0 && !strstr(tensor, rule->filter)))
            continue;
        *out = gradient(rule, place);
        return true;
    }
    return false;
}

static double setting(const struct merge_recipe *recipe, enum merge_setting which, int model,
                      const char *tensor, double place, double fallback)
{
    double value = fallback;
    if (model < 0 || !find(recipe, which, model, tensor, place, &value))
        find(recipe, which, -1, tensor, place, &value);
    return value;
}

// slerp's t, where it is given, is the second model's share.
static void weigh_by_t(const struct merge_recipe *recipe, const char *tensor, double place,
                       double *weight)
{
    double t;
    if (!find(recipe, SETTING_T, -1, tensor, place, &t))
        return;
    weight[0] = 1 - t;
    weight[1] = t;
}

static enum merge_groups groups_of(const struct merge_recipe *recipe, const char *tensor,
                                   double place)
{
    if (recipe->method == MERGE_MODEL_STOCK)
        return setting(recipe, SETTING_FILTER_WISE, -1, tensor, place, 0) != 0 ? GROUP_ROW
                                                                               : GROUP_TENSOR;
    if (recipe->method != MERGE_NUSLERP ||
        setting(recipe, SETTING_FLATTEN, -1, tensor, place, 1) != 0)
        return GROUP_TENSOR;
    return setting(recipe, SETTING_ROW_WISE, -1, tensor, place, 0) != 0 ? GROUP_COLUMN : GROUP_ROW;
}

static enum merge_rescale rescale_of(const struct merge_recipe *recipe, const char *tensor,
                                     double place)
{
    const enum merge_rescale usual = merge_traits(recipe->method)->rescale;
    const enum merge_rescale how = recipe->has_rescale     ? recipe->rescale
                                   : usual != RESCALE_NONE ? usual
                                                           : RESCALE_L1;
    const double asked = recipe->has_rescale ? 1 : usual != RESCALE_NONE;
    return setting(recipe, SETTING_RESCALE, -1, tensor, place, asked) != 0 ? how : RESCALE_NONE;
}

void merge_recipe_resolve(const struct merge_recipe *recipe, const char *tensor, int layers,
                          size_t models, const struct merge_parameter_arrays *arrays,
                          struct merge_parameters *out)
{
    const struct merge_traits *traits = merge_traits(recipe->method);
    const int layer = merge_layer_of(tensor);
    const double place = layer < 0 ? 0 : layers > 1 ? (double)layer / (layers - 1) : 1;
    const bool divides = traits->normalizes || recipe->method == MERGE_MULTISLERP;
    for (size_t k = 0; k < models; k++) {
        const int model = (int)k;
        arrays->weight[k] = setting(recipe, SETTING_WEIGHT, model, tensor, place, 1);
        arrays->density[k] = setting(recipe, SETTING_DENSITY, model, tensor, place, 1);
        arrays->gamma[k] = setting(recipe, SETTING_GAMMA, model, tensor, place, 0.01);
        arrays->epsilon[k] = setting(recipe, SETTING_EPSILON, model, tensor, place, 0.15);
    }
    if (recipe->method == MERGE_SLERP)
        weigh_by_t(recipe, tensor, place, arrays->weight);
    *out = (struct merge_parameters){
        .method = recipe->method,
        .vectors = models,
        .weight = arrays->weight,
        .density = arrays->density,
        .gamma = arrays->gamma,
        .epsilon = arrays->epsilon,
        .seed = recipe->seed,
        .lambda = setting(recipe, SETTING_LAMBDA, -1, tensor, place, 1),
        .normalize = setting(recipe, SETTING_NORMALIZE, -1, tensor, place, divides) != 0,
        .rescale = rescale_of(recipe, tensor, place),
        .groups = groups_of(recipe, tensor, place),
        .select_topk = setting(recipe, SETTING_SELECT_TOPK, -1, tensor, place, 1),
        .max_iter = (int64_t)setting(recipe, SETTING_MAX_ITER, -1, tensor, place, 10),
        .tol = setting(recipe, SETTING_TOL, -1, tensor, place, 1e-5)};
}
