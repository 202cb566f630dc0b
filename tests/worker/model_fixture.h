// SPDX-License-Identifier: Apache-2.0
// Small models and packed batches for the tests of worker/.
#ifndef MEMO_TESTS_WORKER_MODEL_FIXTURE_H
#define MEMO_TESTS_WORKER_MODEL_FIXTURE_H

#include "worker/model/model.h"

#include <stdint.h>

// Two layers, six heads over two, tied, every size odd or unrelated to the others.
struct model_config fixture_config(void);
// One layer, seven heads over one, untied, head width unrelated to hidden.
struct model_config fixture_config_untied(void);

// Three layers, windows between full attention, norms everywhere, scaled embedding.
struct model_config fixture_config_gemma3(void);
// Three layers, convolution, attention, convolution.
struct model_config fixture_config_lfm2(void);

// $MEMO_TEST_BACKEND with $MEMO_TEST_ISA, or the reference backend; with
// MEMO_TEST_PRODUCTS=invariant one that promises equal bits in every batch.
struct device *fixture_device(void);

// Float32, or what MEMO_TEST_DTYPE=bf16 says: of the weights of tests about equal bits.
enum dtype fixture_dtype(void);

// Every tensor random, norms around 1, biases too; deviation as wide as the tests need gradients to
// be.
struct model *fixture_model(struct device *device, const struct model_config *config,
                            enum dtype dtype, uint64_t seed);

struct fixture_batch {
    int32_t ids[256];
    int32_t positions[256];
    int32_t targets[256];
    int32_t offsets[33];
    struct batch batch; // points at the above
};

// Sequences of the given lengths (ended by -1) with random ids; about half the tokens have targets,
// the last token of a sequence always.
void fixture_batch_fill(struct fixture_batch *out, const int *lengths, int64_t vocabulary,
                        uint64_t seed);

float *fixture_floats(struct device *device, size_t count); // zeroed, on the device
float *fixture_copy_out(struct device *device, const float *block, size_t count); // caller frees

#endif
