// SPDX-License-Identifier: Apache-2.0
// Where backward adds gradients. In float32 it adds to the sums themselves. With sums in bfloat16 a
// matrix's gradients of a whole pass are added in float32 in `product` first, and then to the sums
// with one rounding (kernels.h, struct accumulate), two where the head is the embedding; those of
// norms and biases, which are few, are never rounded: they are `vectors`, and what the sums have in
// their places stays 0.
#ifndef MEMO_WORKER_MODEL_GRADIENTS_H
#define MEMO_WORKER_MODEL_GRADIENTS_H

#include "kernels/device.h"
#include "worker/model/config.h"

// All on the device; the last three with bfloat16 only.
struct gradients {
    struct tensor sums; // [elements of model_trained_layout]
    float *vectors;     // [vector_elements of it]
    float *product;     // [gradients_product_elements]
    int64_t draw;       // of the pass: another one for every term of a sum
};

// Of the largest matrix.
size_t gradients_product_elements(const struct model_config *config);

#endif
