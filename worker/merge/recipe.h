// SPDX-License-Identifier: Apache-2.0
// How models are to be merged: a method, and rules that give its parameters for each model and
// tensor. The rules are those of mergekit's configurations: of a model's own rules and then of the
// general ones the first whose filter is part of the tensor's name counts; several values are a
// gradient over the layers, from the first to the last.
#ifndef MEMO_WORKER_MERGE_RECIPE_H
#define MEMO_WORKER_MERGE_RECIPE_H

#include "base/arena.h"
#include "base/strbuf.h"
#include "kernels/device.h"
#include "worker/merge/method.h"

enum merge_semantics {
    MERGE_PAPER,    // the formulas of method.h
    MERGE_MEMO_REF, // as the authors of MeMo published their merging: the first model is the base
};
#define MERGE_SEMANTICS_CHOICES "paper|memo-ref"

enum merge_setting {
    SETTING_WEIGHT,
    SETTING_DENSITY,
    SETTING_GAMMA,
    SETTING_EPSILON,
    SETTING_LAMBDA,
    SETTING_NORMALIZE,
    SETTING_RESCALE,
    SETTING_SELECT_TOPK,
    SETTING_FILTER_WISE,
    SETTING_ROW_WISE,
    SETTING_FLATTEN,
    SETTING_T,
    SETTING_MAX_ITER,
    SETTING_TOL,
};
#define MERGE_SETTINGS 14

// The name in configurations, or -1 when there is no such setting.
const char *merge_setting_name(enum merge_setting setting);
int merge_setting_find(const char *name);

struct merge_rule {
    enum merge_setting setting;
    int model;          // -1: all
    const char *filter; // NULL: every tensor
    const double *values;
    size_t count; // above 1: a gradient
};

struct merge_recipe {
    enum merge_method method;
    enum merge_semantics semantics;
    bool global_trim; // ties: one threshold for each vector, not for each tensor
    bool has_rescale;
    enum merge_rescale rescale;
    uint64_t seed;
    bool has_out_dtype;
    enum dtype out_dtype;
    struct merge_rule *rules;
    size_t rule_count, rule_capacity;
    struct arena arena; // rules and texts
};

void merge_recipe_release(struct merge_recipe *recipe);
// Copies filter and values. Rules of one setting and model count in the order added.
void merge_recipe_add(struct merge_recipe *recipe, enum merge_setting setting, int model,
                      const char *filter, const double *values, size_t count);
void merge_recipe_set(struct merge_recipe *recipe, enum merge_setting setting, double value);

// Ranges of all values, and whether the method goes with these models.
int merge_recipe_check(const struct merge_recipe *recipe, size_t models, bool has_base,
                       struct error *err);

// One line of JSON that says everything; equal recipes have equal lines.
void merge_recipe_describe(const struct merge_recipe *recipe, struct strbuf *out);

// The parameters of a tensor, for models in the order given to the recipe. layers: how many the
// model has. out's arrays are of the caller: [models].
struct merge_parameter_arrays {
    double *weight, *density, *gamma, *epsilon;
};
void merge_recipe_resolve(const struct merge_recipe *recipe, const char *tensor, int layers,
                          size_t models, const struct merge_parameter_arrays *arrays,
                          struct merge_parameters *out);

// The layer that a tensor's name says, or -1.
int merge_layer_of(const char *tensor);

#endif
