// SPDX-License-Identifier: Apache-2.0
// Small models on disk for the tests of vectors and merging.
#ifndef MEMO_TESTS_WORKER_MERGE_FIXTURE_H
#define MEMO_TESTS_WORKER_MERGE_FIXTURE_H

#include "base/strbuf.h"
#include "kernels/device.h"
#include "worker/merge/merge.h"
#include "worker/merge/vector.h"

// Tensors a.weight [31, 33], b.bias [1, 1], c.empty [0, 4], d.weight [10, 100].
#define FIXTURE_MOST 1023

struct recipe {
    enum dtype dtype;
    bool sharded;
    uint64_t seed; // of the values
    double change; // standard deviation of what is added
    uint64_t change_seed;
    float poison;       // replaces element 3 of d.weight when not 0
    const char *rename; // d.weight's name, when not NULL
    uint64_t rows;      // of d.weight, when not 0
};

// Makes the model directory parent/name and returns its path, which the caller frees.
char *make_model(const char *parent, const char *name, const struct recipe *recipe);
void write_text(const char *directory, const char *name, const char *text);

// Writes parent/name, dense f32, and returns its path.
char *make_vector(const char *parent, const char *name, const char *base, const char *tuned);

// Three models tuned0 .. tuned2 of one base, and their vectors; freed by forget.
struct set {
    char *base;
    char *tuned[3];
    char *vectors[3];
};
struct set make_set(const char *parent, enum dtype dtype);
void forget(struct set *set);

void read_merged(const char *out, struct strbuf *bytes);
size_t count_entries(const char *directory);

#endif
