// SPDX-License-Identifier: Apache-2.0
// How near an answer comes to the expected one.
#ifndef MEMO_DATASETS_ANSWER_SCORE_H
#define MEMO_DATASETS_ANSWER_SCORE_H

#include <stdbool.h>
#include <stddef.h>

// Byte for byte, but for white space at both ends.
bool answer_is_exact(const char *answer, size_t answer_bytes, const char *expected,
                     size_t expected_bytes);

// The F1 of the words of both as SQuAD's evaluation has it (Rajpurkar et al. 2016): lower case,
// without the punctuation of ASCII and without the words a, an and the; words count as often as
// they stand. 2 P R / (P + R) with P and R the shares of the answer's and of the expected words
// that they have in common. 1 when both have no word, 0 when one has none. Any bytes.
double answer_token_f1(const char *answer, size_t answer_bytes, const char *expected,
                       size_t expected_bytes);

#endif
