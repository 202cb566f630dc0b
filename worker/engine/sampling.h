// SPDX-License-Identifier: Apache-2.0
// How the next token is drawn from logits.
#ifndef MEMO_WORKER_SAMPLING_H
#define MEMO_WORKER_SAMPLING_H

#include <stdint.h>

// Zero in a field means that it has no effect; all zero is greedy decoding.
struct sampling {
    float temperature; // 0: greedy
    float top_p;       // 0 or 1: all tokens
    float min_p;
    int32_t top_k;
    float repetition_penalty; // 0 or 1: none
};

#endif
