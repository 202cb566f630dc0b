// SPDX-License-Identifier: Apache-2.0
#include "worker/engine/prefix_tree.h"

#include "base/mem.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct prefix_tree *prefix_tree_create(size_t blocks)
{
    struct prefix_tree *tree = mem_calloc(1, sizeof *tree);
    tree->blocks = mem_calloc(blocks, sizeof *tree->blocks);
    tree->block_count = tree->free_count = blocks;
    tree->first_child = tree->oldest = tree->newest = NO_BLOCK;
    for (size_t i = 0; i < blocks; i++)
        tree->blocks[i].next_sibling = i + 1 < blocks ? (int32_t)i + 1 : NO_BLOCK;
    return tree;
}

void prefix_tree_destroy(struct prefix_tree *tree)
{
    if (!tree)
        return;
    free(tree->blocks);
    free(tree);
}

static int32_t *first_child_of(struct prefix_tree *tree, int32_t parent)
{
    return parent == NO_BLOCK ? &tree->first_child : &tree->blocks[parent].first_child;
}

static void link_child(struct prefix_tree *tree, int32_t number)
{
    struct prefix_block *block = &tree->blocks[number];
    int32_t *first = first_child_of(tree, block->parent);
    block->previous_sibling = NO_BLOCK;
    block->next_sibling = *first;
    if (*first != NO_BLOCK)
        tree->blocks[*first].previous_sibling = number;
    *first = number;
}

static void unlink_child(struct prefix_tree *tree, int32_t number)
{
    struct prefix_block *block = &tree->blocks[number];
    if (block->previous_sibling != NO_BLOCK)
        tree->blocks[block->previous_sibling].next_sibling = block->next_sibling;
    else
        *first_child_of(tree, block->parent) = block->next_sibling;
    if (block->next_sibling != NO_BLOCK)
        tree->blocks[block->next_sibling].previous_sibling = block->previous_sibling;
}

static void keep(struct prefix_tree *tree, int32_t number)
{
    struct prefix_block *block = &tree->blocks[number];
    block->older = tree->newest;
    block->newer = NO_BLOCK;
    if (tree->newest != NO_BLOCK)
        tree->blocks[tree->newest].newer = number;
    else
        tree->oldest = number;
    tree->newest = number;
    tree->kept_count++;
}

static void unkeep(struct prefix_tree *tree, int32_t number)
{
    struct prefix_block *block = &tree->blocks[number];
    if (block->older != NO_BLOCK)
        tree->blocks[block->older].newer = block->newer;
    else
        tree->oldest = block->newer;
    if (block->newer != NO_BLOCK)
        tree->blocks[block->newer].older = block->older;
    else
        tree->newest = block->older;
    tree->kept_count--;
}

static void forget(struct prefix_tree *tree, int32_t number)
{
    assert(tree->blocks[number].first_child == NO_BLOCK);
    unlink_child(tree, number);
    tree->blocks[number].next_sibling = tree->free;
    tree->free = number;
    tree->free_count++;
}

static size_t common_tokens(const struct prefix_block *block, const int32_t *tokens, size_t count)
{
    size_t most = (size_t)block->count < count ? (size_t)block->count : count, common = 0;
    while (common < most && block->tokens[common] == tokens[common])
        common++;
    return common;
}

int32_t prefix_tree_match(const struct prefix_tree *tree, int32_t parent, const int32_t *tokens,
                          size_t count, size_t *common)
{
    int32_t best = NO_BLOCK;
    int32_t child = parent == NO_BLOCK ? tree->first_child : tree->blocks[parent].first_child;
    *common = 0;
    for (; child != NO_BLOCK; child = tree->blocks[child].next_sibling) {
        size_t here = common_tokens(&tree->blocks[child], tokens, count);
        bool readier =
            best != NO_BLOCK && tree->blocks[child].computed > tree->blocks[best].computed;
        if (here > *common || (here > 0 && here == *common && readier)) {
            best = child;
            *common = here;
        }
    }
    return best;
}

int32_t prefix_tree_add(struct prefix_tree *tree, int32_t parent, const int32_t *tokens,
                        size_t count, const struct job *owner)
{
    if (tree->free_count == 0) {
        int32_t oldest = tree->oldest;
        unkeep(tree, oldest);
        forget(tree, oldest);
        tree->evictions++;
    }
    int32_t number = tree->free;
    struct prefix_block *block = &tree->blocks[number];
    tree->free = block->next_sibling;
    tree->free_count--;
    block->parent = parent;
    block->first_child = NO_BLOCK;
    block->references = 1;
    block->owner = owner;
    block->count = (int32_t)count;
    block->computed = 0;
    memcpy(block->tokens, tokens, count * sizeof *tokens);
    link_child(tree, number);
    return number;
}

void prefix_tree_retain(struct prefix_tree *tree, int32_t number)
{
    if (tree->blocks[number].references++ == 0)
        unkeep(tree, number);
}

void prefix_tree_release(struct prefix_tree *tree, int32_t number)
{
    struct prefix_block *block = &tree->blocks[number];
    assert(block->references > 0);
    if (--block->references > 0)
        return;
    block->owner = NULL;
    block->count = block->computed;
    if (block->computed > 0)
        keep(tree, number);
    else
        forget(tree, number);
}
