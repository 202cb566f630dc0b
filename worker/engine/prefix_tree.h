// SPDX-License-Identifier: Apache-2.0
// Inside worker/engine: the blocks of the KV cache as a radix tree of token prefixes (Zheng et al.
// 2023). A block holds up to KV_BLOCK_TOKENS tokens and what they are is known before their keys
// and values are computed. Its parent holds the tokens before, so that a path from the root spells
// a prefix. Siblings may begin alike: only whole blocks are shared.
//
// Blocks that somebody uses (references > 0) keep their parents in use. Blocks that nobody uses are
// kept, for those who may come, until their memory is needed; the one that was left longest ago
// goes first, and never before what lies below it.
#ifndef MEMO_WORKER_ENGINE_PREFIX_TREE_H
#define MEMO_WORKER_ENGINE_PREFIX_TREE_H

#include "kernels/kernels.h"

#include <stdbool.h>

struct job;

enum { NO_BLOCK = -1 };

struct prefix_block {
    int32_t parent; // NO_BLOCK: begins a sequence
    int32_t first_child, next_sibling, previous_sibling;
    int32_t older, newer; // while kept
    uint32_t references;
    const struct job *owner; // who computes what is missing; NULL: nobody
    int32_t count;           // of the tokens that it holds or is going to
    int32_t computed;        // of them, whose keys and values are there
    int32_t tokens[KV_BLOCK_TOKENS];
};

struct prefix_tree {
    struct prefix_block *blocks; // by their number in the cache
    size_t block_count;
    int32_t first_child;    // of the root
    int32_t free;           // list by next_sibling
    int32_t oldest, newest; // of the kept ones
    size_t free_count, kept_count;
    uint64_t evictions;
};

struct prefix_tree *prefix_tree_create(size_t blocks);
void prefix_tree_destroy(struct prefix_tree *tree);

// Blocks that prefix_tree_add can still give.
static inline size_t prefix_tree_available(const struct prefix_tree *tree)
{
    return tree->free_count + tree->kept_count;
}

// The child of parent with which the tokens agree longest, in *common tokens; NO_BLOCK: none begins
// with the first.
int32_t prefix_tree_match(const struct prefix_tree *tree, int32_t parent, const int32_t *tokens,
                          size_t count, size_t *common);

// A new block with one reference. There must be one available. parent is in use.
int32_t prefix_tree_add(struct prefix_tree *tree, int32_t parent, const int32_t *tokens,
                        size_t count, const struct job *owner);

void prefix_tree_retain(struct prefix_tree *tree, int32_t block);
// Children before their parents. Of a block that nobody uses any more what was not computed is
// forgotten.
void prefix_tree_release(struct prefix_tree *tree, int32_t block);

#endif
