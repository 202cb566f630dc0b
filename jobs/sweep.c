// SPDX-License-Identifier: Apache-2.0
#include "jobs/sweep.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

#define AXES_LIMIT 8
#define VALUES_LIMIT 64

struct axis {
    enum merge_setting setting;
    double values[VALUES_LIMIT];
    char labels[VALUES_LIMIT][24];
    size_t count;
};

static int parse_axis(const char *spec, struct axis *out, struct error *err)
{
    const char *equals = strchr(spec, '=');
    char *name = mem_printf("%.*s", (int)(equals ? equals - spec : 0), spec);
    const int setting = merge_setting_find(name);
    free(name);
    if (!equals || setting < 0)
        return error_set(err, "--sweep: '%s' is not SETTING=VALUE,VALUE,...", spec);
    out->setting = (enum merge_setting)setting;
    out->count = 0;
    for (const char *at = equals + 1;; at++) {
        char *end;
        if (out->count == VALUES_LIMIT)
            return error_set(err, "--sweep: more than %d values in '%s'", VALUES_LIMIT, spec);
        out->values[out->count] = strtod(at, &end);
        if (end == at || (*end != ',' && *end != '\0') || end - at >= 24)
            return error_set(err, "--sweep: '%s' has something that is not a number", spec);
        memcpy(out->labels[out->count], at, (size_t)(end - at));
        out->labels[out->count++][end - at] = '\0';
        if (*end == '\0')
            return 0;
        at = end;
    }
}

// Whether the setting changes what the method does.
static bool matters(enum merge_method method, enum merge_setting setting)
{
    const struct merge_traits *traits = merge_traits(method);
    switch (setting) {
    case SETTING_DENSITY:
        return traits->sparsify != SPARSIFY_NONE;
    case SETTING_GAMMA:
        return traits->sparsify == SPARSIFY_OUTLIERS;
    case SETTING_EPSILON:
        return traits->sparsify == SPARSIFY_RANKED;
    case SETTING_LAMBDA:
        return traits->family != FAMILY_SPAN && method != MERGE_LINEAR;
    case SETTING_SELECT_TOPK:
        return method == MERGE_SCE;
    case SETTING_T:
        return method == MERGE_SLERP;
    case SETTING_MAX_ITER:
    case SETTING_TOL:
        return method == MERGE_KARCHER;
    default:
        return true;
    }
}

static bool is_set_by(const struct axis *axes, size_t count, enum merge_setting setting)
{
    for (size_t a = 0; a < count; a++) {
        if (axes[a].setting == setting)
            return true;
    }
    return false;
}

static struct merge_recipe *add_recipe(struct sweep *sweep, char *name)
{
    sweep->recipes = mem_realloc(sweep->recipes, (sweep->count + 1) * sizeof(*sweep->recipes));
    sweep->names = mem_realloc(sweep->names, (sweep->count + 1) * sizeof(*sweep->names));
    sweep->names[sweep->count] = name;
    sweep->recipes[sweep->count] = (struct merge_recipe){0};
    return &sweep->recipes[sweep->count++];
}

// The combination that `number` counts, in mixed radix over the axes that matter.
static void make_recipe(const struct merge_recipe *base, enum merge_method method,
                        const struct axis *axes, size_t axis_count, size_t number,
                        struct sweep *out)
{
    struct strbuf name = {0};
    struct merge_recipe *recipe = add_recipe(out, NULL);
    recipe->method = method;
    recipe->semantics = base->semantics;
    recipe->global_trim = base->global_trim && method == MERGE_TIES;
    recipe->has_rescale = base->has_rescale;
    recipe->rescale = base->rescale;
    recipe->seed = base->seed;
    recipe->has_out_dtype = base->has_out_dtype;
    recipe->out_dtype = base->out_dtype;
    for (size_t r = 0; r < base->rule_count; r++) {
        const struct merge_rule *rule = &base->rules[r];
        if (!is_set_by(axes, axis_count, rule->setting))
            merge_recipe_add(recipe, rule->setting, rule->model, rule->filter, rule->values,
                             rule->count);
    }
    strbuf_adds(&name, merge_traits(method)->name);
    for (size_t a = 0; a < axis_count; a++) {
        if (!matters(method, axes[a].setting))
            continue;
        const size_t v = number % axes[a].count;
        number /= axes[a].count;
        merge_recipe_set(recipe, axes[a].setting, axes[a].values[v]);
        strbuf_addf(&name, "-%s%s", merge_setting_name(axes[a].setting), axes[a].labels[v]);
    }
    out->names[out->count - 1] = strbuf_detach(&name);
}

static int add_method(const struct merge_recipe *base, const char *name, const struct axis *axes,
                      size_t axis_count, struct sweep *out, struct error *err)
{
    enum merge_method method;
    size_t combinations = 1;
    if (merge_parse_method(name, &method, err))
        return error_prefix(err, "--method");
    for (size_t a = 0; a < axis_count; a++)
        combinations *= matters(method, axes[a].setting) ? axes[a].count : 1;
    if (out->count + combinations > SWEEP_LIMIT)
        return error_set(err, "more than %d combinations", SWEEP_LIMIT);
    for (size_t c = 0; c < combinations; c++)
        make_recipe(base, method, axes, axis_count, c, out);
    return 0;
}

int sweep_create(const struct merge_recipe *base, const char *methods,
                 const struct option_list *specs, struct sweep *out, struct error *err)
{
    struct axis *axes = mem_calloc(AXES_LIMIT, sizeof(*axes));
    int rc = 0;
    *out = (struct sweep){0};
    if (specs->count > AXES_LIMIT)
        rc = error_set(err, "--sweep: at most %d settings", AXES_LIMIT);
    for (size_t a = 0; rc == 0 && a < specs->count; a++)
        rc = parse_axis(specs->items[a], &axes[a], err);
    char *list = mem_strdup(methods), *rest = list;
    for (char *name; rc == 0 && (name = strsep(&rest, ",")) != NULL;)
        rc = add_method(base, name, axes, specs->count, out, err);
    free(list);
    free(axes);
    if (rc != 0)
        sweep_release(out);
    return rc;
}

void sweep_release(struct sweep *sweep)
{
    for (size_t i = 0; i < sweep->count; i++) {
        merge_recipe_release(&sweep->recipes[i]);
        free(sweep->names[i]);
    }
    free(sweep->recipes);
    free(sweep->names);
    *sweep = (struct sweep){0};
}
