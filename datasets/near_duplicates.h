// SPDX-License-Identifier: Apache-2.0
// Finds texts that say almost the same: those whose sets of five-word shingles have a Jaccard
// similarity of at least a threshold.
#ifndef MEMO_DATASETS_NEAR_DUPLICATES_H
#define MEMO_DATASETS_NEAR_DUPLICATES_H

#include "base/hash.h"

#include <stddef.h>

#define NEAR_DUPLICATE_THRESHOLD 0.8 // four fifths of all phrases shared
#define NEAR_DUPLICATE_NONE ((size_t)-1)

struct near_duplicate_text {
    const char *text; // valid UTF-8
    size_t length;
    struct digest digest; // of the text; no two are equal
};

// of[i] becomes the index of the text that is kept instead of text i, or NEAR_DUPLICATE_NONE when
// text i itself is kept. Of similar texts the longest is kept, the smallest digest among equally
// long ones, so the answer does not depend on the order of the texts.
void near_duplicates_find(const struct near_duplicate_text *texts, size_t count, double threshold,
                          size_t *of);

// The exact similarity of two texts, 0 to 1; texts without words are not similar to anything.
double near_duplicate_similarity(const struct near_duplicate_text *a,
                                 const struct near_duplicate_text *b);

#endif
