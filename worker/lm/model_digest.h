// SPDX-License-Identifier: Apache-2.0
// The identity of a model directory's content: config.json and the weights.
#ifndef MEMO_WORKER_MODEL_DIGEST_H
#define MEMO_WORKER_MODEL_DIGEST_H

#include "base/error.h"
#include "base/fs.h"
#include "base/hash.h"

#define MODEL_DIGEST_FILE ".memo-digest"

// XXH3 over config.json and every .safetensors file, in the order of their names. Weights of many
// gigabytes are not read again as long as names, sizes and times of the files are those that
// .memo-digest in the directory was written for; a directory that cannot be written is no error.
int model_digest(struct fs *fs, const char *directory, struct digest *out, struct error *err);

#endif
