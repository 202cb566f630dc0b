// SPDX-License-Identifier: Apache-2.0
// mergekit's configuration files: `models` or one entry of `slices` that takes all layers,
// `merge_method`, `base_model`, `dtype`, `out_dtype`, `tokenizer_source: base`, and `parameters`
// general or of one model, as numbers, gradients, or lists of {filter, value}. Any other key is an
// error that names it. Model names are directories, relative to the configuration's own.
#ifndef MEMO_WORKER_MERGE_CONFIG_H
#define MEMO_WORKER_MERGE_CONFIG_H

#include "base/fs.h"
#include "worker/merge/recipe.h"

struct merge_config {
    char *base; // NULL: none
    char **models;
    size_t count;
    struct merge_recipe recipe;
};

int merge_config_read(struct fs *fs, const char *path, struct merge_config *out, struct error *err);
// The same from bytes; directory: what names are relative to.
int merge_config_parse(const char *bytes, size_t length, const char *directory,
                       struct merge_config *out, struct error *err);
void merge_config_release(struct merge_config *config);

#endif
