// SPDX-License-Identifier: Apache-2.0
// The files of a Hugging Face model directory that are not weights.
#ifndef MEMO_DATASETS_MODEL_DIRECTORY_H
#define MEMO_DATASETS_MODEL_DIRECTORY_H

#include "base/error.h"
#include "base/fs.h"

// Copies config.json, generation_config.json, tokenizer and chat template files, those that are
// there, from one model directory into another, which is created. Weights are not touched.
int model_directory_copy(struct fs *fs, const char *from, const char *to, struct error *err);

// The same without config.json.
int model_directory_copy_tokenizer(struct fs *fs, const char *from, const char *to,
                                   struct error *err);

#endif
