// SPDX-License-Identifier: Apache-2.0
// Trains a byte-level BPE tokenizer with Qwen2's pre-tokenizer and NFC. The result depends on the
// multiset of words alone: not on the order of the texts, nor on threads or machine.
#ifndef MEMO_DATASETS_BPE_TRAIN_H
#define MEMO_DATASETS_BPE_TRAIN_H

#include "base/error.h"
#include "datasets/tokenizer.h"

#include <stddef.h>
#include <stdint.h>

#define BPE_SPECIAL_TOKENS 3 // <|endoftext|> (padding), <|im_start|>, <|im_end|> (end of turn)
#define BPE_MIN_VOCABULARY (256 + BPE_SPECIAL_TOKENS)

struct bpe_trainer;

struct bpe_trainer *bpe_trainer_create(void);
void bpe_trainer_destroy(struct bpe_trainer *trainer);

// Counts the words of a text, in which special tokens are ordinary text. Invalid UTF-8 is an error
// that names the byte offset; nothing of the text is counted then.
int bpe_trainer_add(struct bpe_trainer *trainer, const char *bytes, size_t length,
                    struct error *err);

// Merges the most frequent pair of tokens, of equals the one with the lowest left id and then the
// lowest right id, until the vocabulary, special tokens included, has vocabulary_size tokens or no
// pair occurs twice: ask the tokenizer for the size it got. Ids: the 256 bytes in the order of
// GPT-2's byte alphabet, the merged tokens in the order of merging, the special tokens.
int bpe_trainer_finish(struct bpe_trainer *trainer, int32_t vocabulary_size, struct tokenizer **out,
                       struct error *err);

#endif
