// SPDX-License-Identifier: Apache-2.0
// The choice of merges from counted words; part of training.
#ifndef MEMO_DATASETS_BPE_MERGER_H
#define MEMO_DATASETS_BPE_MERGER_H

#include "datasets/tokenizer_internal.h"

struct bpe_word {
    const char *bytes;
    uint32_t length;
    int64_t count;
};

// t holds the 256 bytes as tokens 0 to 255. Adds merged tokens and their merges until t has
// `limit` tokens or no pair occurs twice.
int bpe_merge_words(const struct bpe_word *words, size_t word_count, struct tokenizer *t,
                    int32_t limit, struct error *err);

#endif
