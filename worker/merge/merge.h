// SPDX-License-Identifier: Apache-2.0
// Merging: theta_out = f(theta_base, tau_1 .. tau_K), tau_k = theta_k - theta_base, tensor by
// tensor. With weights w_k, computed in float64 and rounded once:
//
//     linear           theta_base + sum_k w_k tau_k / sum_k w_k
//     task arithmetic  theta_base + lambda sum_k w_k tau_k             (Ilharco et al. 2023)
//     TIES             theta_base + lambda merged                     (Yadav et al. 2023)
//                      trim: per tensor keep the density * n largest |tau_k|, ties by lowest index;
//                      elect: s = sign(sum_k w_k tau_k) over what was kept; merged = sum of the
//                      kept w_k tau_k with sign s, divided by the sum of their w_k; 0 where s is
//
// Inputs are mapped and the output is streamed tensor by tensor: memory holds the largest tensor,
// not the model. The order in which vectors are named does not matter: they are summed in digest
// order.
#ifndef MEMO_WORKER_MERGE_MERGE_H
#define MEMO_WORKER_MERGE_MERGE_H

#include "base/error.h"
#include "base/fs.h"
#include "base/hash.h"

#include <stddef.h>
#include <stdint.h>

enum merge_method { MERGE_LINEAR, MERGE_TASK_ARITHMETIC, MERGE_TIES };

#define MERGE_METHOD_CHOICES "linear|task_arithmetic|ties"

int merge_parse_method(const char *text, enum merge_method *out, struct error *err);

struct merge_options {
    enum merge_method method;
    const double *weights; // [vectors]
    double lambda;
    double density; // TIES; in (0, 1]
};

// One tensor: base, taus[k] and out are [count] f32; out may be base.
void merge_tensor(const struct merge_options *options, float *out, const float *base,
                  const float *const *taus, size_t vectors, size_t count);

// What reading and writing a model directory or a vector came to.
struct merge_stats {
    size_t tensors;
    uint64_t parameters;
    uint64_t bytes_read;
    uint64_t bytes_written;
};

// Merges task vector files into a copy of the model directory `base`, in base's dtypes. A vector
// that was taken from another base, or differs in names or shapes, is an error that says how; NaN
// or infinity in a vector or in the result, which may be too large for the base's dtype, is an
// error that names the tensor. out must be another directory than base; nothing stands under
// out/model.safetensors until it is complete.
int merge_models(struct fs *fs, const char *base, const char *const *vectors, size_t count,
                 const struct merge_options *options, const char *out, struct merge_stats *stats,
                 struct error *err);

#endif
