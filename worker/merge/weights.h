// SPDX-License-Identifier: Apache-2.0
// Weights of a model directory as merging sees them: named tensors of floats, whatever their dtype.
#ifndef MEMO_WORKER_MERGE_WEIGHTS_H
#define MEMO_WORKER_MERGE_WEIGHTS_H

#include "base/hash.h"
#include "datasets/safetensors.h"
#include "kernels/device.h"

#include <stddef.h>

// F32, BF16 and F16 only; anything else is an error that names the tensor.
int weights_dtype(const struct safetensors_entry *entry, enum dtype *out, struct error *err);
size_t weights_count(const struct safetensors_entry *entry); // elements

// The tensor as f32: the mapping itself when it is aligned f32, otherwise converted into scratch
// ([weights_count]).
const float *weights_f32(const struct safetensors_entry *entry, enum dtype dtype, float *scratch);

// Digest of names, dtypes, shapes and content, in name order: the same weights in other shards or
// file names have the same digest.
struct digest weights_digest(const struct safetensors *tensors);

// Both hold the same names with the same shapes; otherwise an error that lists the first
// differences and says how many there are. a_name and b_name are for the message.
int weights_match(const struct safetensors *a, const char *a_name, const struct safetensors *b,
                  const char *b_name, struct error *err);

#endif
