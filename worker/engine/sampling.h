// SPDX-License-Identifier: Apache-2.0
// How the next token is drawn from logits.
#ifndef MEMO_WORKER_SAMPLING_H
#define MEMO_WORKER_SAMPLING_H

#include "base/error.h"
#include "kernels/kernels.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Zero in a field means that it has no effect; all zero is greedy decoding.
struct sampling {
    float temperature; // 0: greedy
    float top_p;       // 0 or 1: all tokens
    float min_p;
    int32_t top_k;
    float repetition_penalty; // 0 or 1: none
};

// "" when the fields make sense, else what does not.
const char *sampling_problem(const struct sampling *sampling);

// Whether the token is simply that of the largest logit, whatever came before.
static inline bool sampling_is_argmax(const struct sampling *sampling)
{
    return sampling->temperature == 0 &&
           (sampling->repetition_penalty == 0 || sampling->repetition_penalty == 1);
}

// One draw, as the operation `sample` defines it (struct sample_row in kernels.h), which does the
// same where the logits are. Steps and their order are those of Hugging Face's generate().
struct draw {
    float *logits; // [vocabulary], overwritten
    const struct sampling *sampling;
    const uint64_t *mask; // [(vocabulary + 63) / 64], at least one bit set; NULL: all tokens
    const int32_t *seen;  // prompt and answer so far, each below vocabulary
    size_t seen_count;
    uint64_t seed, index; // the random number is a function of these two
    bool wants_logprob;

    int32_t token; // the result
    float logprob; // its log probability in the logits as they came, when wanted
};

// The draw as the operation reads it, without mask and tokens seen.
struct sample_row draw_row(const struct draw *draw);

// Threads and their memory. Results do not depend on the number of threads.
struct sampler;
int sampler_create(size_t vocabulary, int threads, struct sampler **out, struct error *err);
void sampler_destroy(struct sampler *sampler);
void sampler_draw(struct sampler *sampler, struct draw *draws, size_t count);

#endif
