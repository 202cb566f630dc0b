// SPDX-License-Identifier: Apache-2.0
// Chunks of different documents that mention the same names, brought together. What a name is, the
// caller says: groups.c takes capitalised words of the text, entity_groups.c what step 4 surfaced.
#ifndef MEMO_DATASETS_GROUPS_JOIN_H
#define MEMO_DATASETS_GROUPS_JOIN_H

#include "datasets/corpus.h"
#include "datasets/groups.h"

struct group_mention {
    uint64_t name;  // a hash of it
    uint32_t words; // of the name
    uint32_t chunk; // index into corpus->chunks
};

struct chunk_groups {
    uint32_t *offsets; // [count + 1] into chunks
    uint32_t *chunks;  // indices, ascending inside a group
    size_t count;
};

// A chunk is in one group at most; a group has 2 to options->max_chunks. Mentions may repeat and
// come in any order. Release *out.
void groups_join(const struct corpus *corpus, const struct group_mention *mentions, size_t count,
                 const struct groups_options *options, struct chunk_groups *out);
void chunk_groups_release(struct chunk_groups *groups);

#endif
