// SPDX-License-Identifier: Apache-2.0
// Groups of chunks of different documents that speak of the same things, found from the text alone.
#ifndef MEMO_DATASETS_GROUPS_H
#define MEMO_DATASETS_GROUPS_H

#include "datasets/corpus.h"

struct groups_options {
    size_t max_chunks; // of one group
    size_t hub_chunks; // names in more chunks than this connect nothing
};
#define GROUPS_DEFAULTS                                                                            \
    {                                                                                              \
        .max_chunks = 8, .hub_chunks = 32                                                          \
    }

// Fills corpus's groups from its documents and chunks. A chunk is in one group at most. Which
// chunks come together depends on the texts alone, not on the order of the documents.
void groups_find(struct corpus *corpus, const struct groups_options *options);

#endif
