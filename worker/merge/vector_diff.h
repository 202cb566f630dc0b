// SPDX-License-Identifier: Apache-2.0
// How two task vectors relate, layer by layer.
#ifndef MEMO_WORKER_MERGE_VECTOR_DIFF_H
#define MEMO_WORKER_MERGE_VECTOR_DIFF_H

#include "base/error.h"
#include "base/strbuf.h"

#include <stddef.h>
#include <stdint.h>

struct vector_relation {
    uint64_t elements;
    uint64_t both;      // neither is 0
    uint64_t conflicts; // of those: opposite signs
    double products;    // <a, b>
    double squares_a, squares_b;
};

struct vector_diff {
    struct vector_relation total;
    struct vector_relation outside; // tensors of no layer
    struct vector_relation *layers; // [count]
    size_t count;
};

double vector_cosine(const struct vector_relation *relation); // 0 when one is 0

// Names and shapes must be the same; bases, too.
int vector_diff(const char *a, const char *b, struct vector_diff *out, struct error *err);
void vector_diff_release(struct vector_diff *diff);

// A picture: a bar for each layer's cosine, and lines for norms and sign conflicts.
void vector_diff_draw(const struct vector_diff *diff, const char *a, const char *b,
                      struct strbuf *out);

#endif
