// SPDX-License-Identifier: Apache-2.0
// A sweep: one base recipe, several methods, several values of settings; every combination becomes
// a recipe with a name such as "ties-density0.3-lambda1".
#ifndef MEMO_JOBS_SWEEP_H
#define MEMO_JOBS_SWEEP_H

#include "base/options.h"
#include "worker/merge/recipe.h"

#define SWEEP_LIMIT 256 // combinations; each is a model on disk

struct sweep {
    struct merge_recipe *recipes;
    char **names;
    size_t count;
};

// methods: "ties,dare_ties"; specs: "density=0.1,0.3" and so on. Values that a method does not use
// are left out, so that it appears once. base is copied rule by rule; what a spec sets replaces it.
int sweep_create(const struct merge_recipe *base, const char *methods,
                 const struct option_list *specs, struct sweep *out, struct error *err);
void sweep_release(struct sweep *sweep);

#endif
