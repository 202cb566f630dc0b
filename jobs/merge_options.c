// SPDX-License-Identifier: Apache-2.0
#include "jobs/merge_job.h"

#include "base/mem.h"
#include "jobs/verbs.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define OPTION_AT(field) offsetof(struct merge_job_options, field)

const struct option merge_option_table[] = {
    {"base", OPTION_STRING, OPTION_AT(base), "DIR", NULL, 0, 0, NULL,
     "model directory that training began with; linear, slerp, nuslerp, multislerp and karcher "
     "also go without",
     false},
    {"vectors", OPTION_LIST, OPTION_AT(vectors), "FILE...", NULL, 0, 0, NULL,
     "task vectors, in any order", false},
    {"models", OPTION_LIST, OPTION_AT(models), "DIR...", NULL, 0, 0, NULL,
     "trained models instead of, or behind, vectors", false},
    {"config", OPTION_STRING, OPTION_AT(config), "FILE", NULL, 0, 0, NULL,
     "a mergekit configuration instead of base, models, method and parameters", false},
    {"method", OPTION_STRING, OPTION_AT(method), "NAME", "ties", 0, 0, NULL,
     "how to combine them; several with commas in a sweep: " MERGE_METHOD_CHOICES, false},
    {"weights", OPTION_LIST, OPTION_AT(weights), "W...", NULL, 0, 0, NULL,
     "one weight for each vector and model (default 1 each)", false},
    {"density", OPTION_LIST, OPTION_AT(density), "X...", "0.3", 0, 0, NULL,
     "share of the changes that is kept: one for all, or one for each", false},
    {"lambda", OPTION_NUMBER, OPTION_AT(lambda), "X", "1", -100, 100, NULL,
     "scale of the merged change", false},
    {"semantics", OPTION_CHOICE, OPTION_AT(semantics), "NAME", "paper", 0, 0,
     MERGE_SEMANTICS_CHOICES,
     "memo-ref: as the authors of MeMo merged, with the first model in the base's place", false},
    {"trim", OPTION_CHOICE, OPTION_AT(trim), "NAME", "tensor", 0, 0, "tensor|global",
     "ties: a threshold for each tensor, or one for the whole vector", false},
    {"rescale", OPTION_CHOICE, OPTION_AT(rescale), "NAME", NULL, 0, 0, MERGE_RESCALE_CHOICES,
     "what makes up for dropped changes (default: density for dare and della, none otherwise; "
     "mergekit has l1)",
     false},
    {"seed", OPTION_INT, OPTION_AT(seed), "N", "1", 0, INT64_MAX, NULL, "of random masks", false},
    {"dtype", OPTION_CHOICE, OPTION_AT(dtype), "NAME", NULL, 0, 0, "f32|bf16|f16",
     "of the result (default: the base's own)", false},
    {"sweep", OPTION_LIST, OPTION_AT(sweep), "S=X,X...", NULL, 0, 0, NULL,
     "settings and their values, as density=0.1,0.3 lambda=0.5,1: every combination becomes a "
     "model in OUT",
     false},
    {"data", OPTION_LIST, OPTION_AT(data), "PATH...", NULL, 0, 0, NULL,
     "with --sweep: sets of pairs on which every result is scored, closed-book", false},
    {"sample", OPTION_INT, OPTION_AT(sample), "N", "0", 0, INT32_MAX, NULL,
     "only the N pairs of each set with the smallest record ids (0: all)", false},
    {"memory", OPTION_NUMBER, OPTION_AT(memory), "GB", MERGE_MEMORY_DEFAULT, 0.05, 4096, NULL,
     "most memory of this process, mapped pages included", false},
    {"threads", OPTION_INT, OPTION_AT(threads), "N", "0", 0, 4096, NULL,
     "of each rank (0: the host's processors shared among its ranks)", false},
    {"out", OPTION_STRING, OPTION_AT(out), "DIR", NULL, 0, 0, NULL, "model directory to write",
     true},
    {0},
};

static int parse_number(const char *option, const char *text, double *out, struct error *err)
{
    char *end;
    *out = strtod(text, &end);
    if (*end != '\0' || end == text || !isfinite(*out))
        return error_set(err, "--%s: '%s' is not a number", option, text);
    return 0;
}

static int add_weights(struct merge_state *state, size_t models, struct error *err)
{
    const struct option_list *weights = &state->options->weights;
    if (weights->count != 0 && weights->count != models)
        return error_set(err, "%zu weights for %zu vectors", weights->count, models);
    for (size_t k = 0; k < weights->count; k++) {
        double value;
        if (parse_number("weights", weights->items[k], &value, err))
            return -1;
        merge_recipe_add(&state->config.recipe, SETTING_WEIGHT, (int)k, NULL, &value, 1);
    }
    return 0;
}

static int add_densities(struct merge_state *state, size_t models, struct error *err)
{
    const struct option_list *density = &state->options->density;
    if (density->count > 1 && density->count != models)
        return error_set(err, "%zu densities for %zu vectors", density->count, models);
    for (size_t k = 0; k < density->count; k++) {
        double value;
        if (parse_number("density", density->items[k], &value, err))
            return -1;
        merge_recipe_add(&state->config.recipe, SETTING_DENSITY, density->count == 1 ? -1 : (int)k,
                         NULL, &value, 1);
    }
    return 0;
}

static void add_inputs(struct merge_state *state)
{
    const struct merge_job_options *options = state->options;
    const struct option_list *lists[] = {&options->vectors, &options->models};
    struct merge_config *config = &state->config;
    config->base = options->base ? mem_strdup(options->base) : NULL;
    config->models =
        mem_calloc(options->vectors.count + options->models.count + 1, sizeof(*config->models));
    for (int l = 0; l < 2; l++)
        for (size_t k = 0; k < lists[l]->count; k++)
            config->models[config->count++] = mem_strdup(lists[l]->items[k]);
}

static int read_options(struct merge_state *state, struct error *err)
{
    const struct merge_job_options *options = state->options;
    const size_t models = options->vectors.count + options->models.count;
    if (models == 0)
        return error_set(err, "'--vectors' is required, or '--models', or '--config'");
    if (add_weights(state, models, err) || add_densities(state, models, err))
        return -1;
    merge_recipe_set(&state->config.recipe, SETTING_LAMBDA, options->lambda);
    add_inputs(state);
    return 0;
}

static enum merge_rescale rescale_named(const char *name)
{
    return strcmp(name, "l1") == 0     ? RESCALE_L1
           : strcmp(name, "none") == 0 ? RESCALE_NONE
                                       : RESCALE_DENSITY;
}

static enum dtype dtype_named(const char *name)
{
    return strcmp(name, "f32") == 0    ? DTYPE_F32
           : strcmp(name, "bf16") == 0 ? DTYPE_BF16
                                       : DTYPE_F16;
}

static void set_general(struct merge_recipe *recipe, const struct merge_job_options *options)
{
    recipe->semantics = strcmp(options->semantics, "memo-ref") == 0 ? MERGE_MEMO_REF : MERGE_PAPER;
    recipe->global_trim = strcmp(options->trim, "global") == 0;
    recipe->seed = (uint64_t)options->seed;
    if (options->rescale) {
        recipe->has_rescale = true;
        recipe->rescale = rescale_named(options->rescale);
    }
    if (options->dtype) {
        recipe->has_out_dtype = true;
        recipe->out_dtype = dtype_named(options->dtype);
    }
}

// With a configuration: its method and parameters; otherwise what the options say.
int merge_read_request(struct merge_state *state, struct error *err)
{
    const struct merge_job_options *options = state->options;
    const char *method = options->method;
    if (options->data.count > 0 && options->sweep.count == 0 && !strchr(method, ','))
        return error_set(err, "--data belongs to --sweep; `memo eval` scores one model");
    if (options->config) {
        if (options->base || options->vectors.count > 0 || options->models.count > 0 ||
            options->weights.count > 0)
            return error_set(err, "--config excludes --base, --vectors, --models and --weights");
        if (merge_config_read(fs_system(), options->config, &state->config, err))
            return -1;
        method = merge_traits(state->config.recipe.method)->name;
    } else if (read_options(state, err)) {
        return -1;
    }
    set_general(&state->config.recipe, options);
    return sweep_create(&state->config.recipe, method, &options->sweep, &state->sweep, err);
}
