// SPDX-License-Identifier: Apache-2.0
// Question-answer pairs as training and evaluation see them, from reflections or JSON Lines.
#ifndef MEMO_DATASETS_PAIRS_H
#define MEMO_DATASETS_PAIRS_H

#include "base/error.h"
#include "base/fs.h"
#include "base/hash.h"

#include <stddef.h>

struct pair {
    struct digest id;     // record id; for JSON Lines the digest of question and answer
    const char *question; // UTF-8, NUL-terminated
    size_t question_bytes;
    const char *answer;
    size_t answer_bytes;
};

struct pair_list {
    struct pair *pairs; // ascending id
    size_t count;
    size_t duplicates; // left out: the same question and answer under another id
    void *memory;
};

// Every source is a reflections directory or a .jsonl file with the keys question and answer. With
// sample above 0 only the `sample` pairs with the smallest ids are kept: a uniform sample that does
// not depend on the order of anything. No pair at all is an error.
int pair_list_open(struct fs *fs, const char *const *sources, size_t source_count, size_t sample,
                   struct pair_list *out, struct error *err);
void pair_list_close(struct pair_list *list);

#endif
