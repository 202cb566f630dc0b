// SPDX-License-Identifier: Apache-2.0
// The methods of method.h written down plainly, in float64 and over whole tensors: what the fast
// path (tensor.h) is tested against.
#ifndef MEMO_WORKER_MERGE_REFERENCE_H
#define MEMO_WORKER_MERGE_REFERENCE_H

#include "worker/merge/method.h"

// out, base and x[k] are [rows * columns]; rows along the last dimension. x[k] is tau_k, for a
// method on models theta_k. base may be NULL where the method needs none. Random masks are those of
// merge_uniform.
void merge_reference(const struct merge_parameters *parameters, size_t rows, size_t columns,
                     double *out, const float *base, const float *const *x);

#endif
