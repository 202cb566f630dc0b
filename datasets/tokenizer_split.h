// SPDX-License-Identifier: Apache-2.0
// The pre-tokenizer: a regular expression that cuts text into words, inside which BPE works. Its
// matches and the gaps between them are the pieces, so that no byte is lost.
#ifndef MEMO_DATASETS_TOKENIZER_SPLIT_H
#define MEMO_DATASETS_TOKENIZER_SPLIT_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>

struct splitter;
struct splitter_scratch;

extern const char splitter_pattern_gpt2[]; // that of a plain ByteLevel pre-tokenizer
extern const char splitter_pattern_qwen2[];

// pattern is in the dialect of tokenizer.json (Oniguruma's). A construct whose meaning differs
// between that and ours is an error, not a silent difference.
int splitter_create(const char *pattern, size_t length, struct splitter **out, struct error *err);
void splitter_destroy(struct splitter *splitter);
const char *splitter_pattern(const struct splitter *splitter); // as it was given

struct splitter_scratch *splitter_scratch_create(const struct splitter *splitter);
void splitter_scratch_destroy(struct splitter_scratch *scratch);

// The piece that begins at `begin` < length of valid UTF-8 ends at *end > begin.
int splitter_next(const struct splitter *splitter, struct splitter_scratch *scratch,
                  const char *text, size_t length, size_t begin, size_t *end, struct error *err);

#endif
