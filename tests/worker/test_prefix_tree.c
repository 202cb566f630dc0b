// SPDX-License-Identifier: Apache-2.0
#include "worker/engine/prefix_tree.h"

#include "base/random.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

enum { B = KV_BLOCK_TOKENS };

static void tokens_fill(int32_t *out, int32_t first)
{
    for (int32_t i = 0; i < B; i++)
        out[i] = first + i;
}

static int32_t add(struct prefix_tree *tree, int32_t parent, int32_t first, size_t count)
{
    int32_t tokens[B];
    tokens_fill(tokens, first);
    int32_t block = prefix_tree_add(tree, parent, tokens, count, NULL);
    tree->blocks[block].computed = (int32_t)count;
    return block;
}

static size_t match(const struct prefix_tree *tree, int32_t parent, const int32_t *tokens,
                    int32_t *block)
{
    size_t common;
    *block = prefix_tree_match(tree, parent, tokens, B, &common);
    return common;
}

static void longest_beginning_is_found(void **state)
{
    (void)state;
    struct prefix_tree *tree = prefix_tree_create(4);
    int32_t tokens[B], block;
    int32_t whole = add(tree, NO_BLOCK, 100, B), part = add(tree, NO_BLOCK, 200, 10);
    int32_t below = add(tree, whole, 100, 5);
    tokens_fill(tokens, 100);
    assert_int_equal(match(tree, NO_BLOCK, tokens, &block), B);
    assert_int_equal(block, whole);
    assert_int_equal(match(tree, whole, tokens, &block), 5);
    assert_int_equal(block, below);
    tokens[7] = -1;
    assert_int_equal(match(tree, NO_BLOCK, tokens, &block), 7);
    assert_int_equal(block, whole);
    tokens_fill(tokens, 200);
    assert_int_equal(match(tree, NO_BLOCK, tokens, &block), 10);
    assert_int_equal(block, part);
    tokens[0] = -1;
    assert_int_equal(match(tree, NO_BLOCK, tokens, &block), 0);
    assert_int_equal(block, NO_BLOCK);
    prefix_tree_destroy(tree);
}

static void what_was_left_longest_ago_goes_first_and_leaves_before_parents(void **state)
{
    (void)state;
    struct prefix_tree *tree = prefix_tree_create(4);
    int32_t tokens[B], found;
    int32_t old = add(tree, NO_BLOCK, 0, B), child = add(tree, old, 1000, B);
    int32_t young = add(tree, NO_BLOCK, 2000, B);
    prefix_tree_release(tree, child);
    prefix_tree_release(tree, old);
    prefix_tree_release(tree, young);
    assert_int_equal(tree->kept_count, 3);
    assert_int_equal(prefix_tree_available(tree), 4);
    prefix_tree_retain(tree, old); // used again: now younger than the others
    prefix_tree_release(tree, old);
    add(tree, NO_BLOCK, 3000, B); // the free one
    assert_int_equal(tree->evictions, 0);
    assert_int_equal(add(tree, NO_BLOCK, 4000, B), child);
    assert_int_equal(add(tree, NO_BLOCK, 5000, B), young);
    tokens_fill(tokens, 0);
    assert_int_equal(match(tree, NO_BLOCK, tokens, &found), B);
    assert_int_equal(add(tree, NO_BLOCK, 6000, B), old);
    assert_int_equal(tree->evictions, 3);
    assert_int_equal(prefix_tree_available(tree), 0);
    prefix_tree_destroy(tree);
}

static void what_was_not_computed_is_forgotten(void **state)
{
    (void)state;
    struct prefix_tree *tree = prefix_tree_create(2);
    int32_t tokens[B], found;
    int32_t block = add(tree, NO_BLOCK, 0, B), below = add(tree, block, 50, 7);
    tree->blocks[block].computed = 9;
    tree->blocks[below].computed = 0;
    prefix_tree_retain(tree, block); // two users
    prefix_tree_release(tree, below);
    prefix_tree_release(tree, block);
    assert_int_equal(tree->blocks[block].count, B);
    prefix_tree_release(tree, block);
    assert_int_equal(tree->free_count, 1);
    assert_int_equal(tree->kept_count, 1);
    tokens_fill(tokens, 0);
    assert_int_equal(match(tree, NO_BLOCK, tokens, &found), 9);
    prefix_tree_destroy(tree);
}

// Users come with paths of random prefixes and go; blocks are never lost, nor taken from a user.
static void blocks_are_neither_lost_nor_taken(void **state)
{
    (void)state;
    enum { BLOCKS = 40, USERS = 6, DEPTH = 5 };
    struct prefix_tree *tree = prefix_tree_create(BLOCKS);
    int32_t paths[USERS][DEPTH], depths[USERS] = {0}, names[USERS][DEPTH];
    for (uint64_t round = 0; round < 3000; round++) {
        size_t user = random_u64(3, round, 0) % USERS;
        for (int32_t d = depths[user]; d-- > 0;)
            prefix_tree_release(tree, paths[user][d]);
        depths[user] = (int32_t)(random_u64(3, round, 1) % (DEPTH + 1));
        for (int32_t d = 0; d < depths[user]; d++) {
            int32_t tokens[B], parent = d > 0 ? paths[user][d - 1] : NO_BLOCK, block;
            names[user][d] = (int32_t)(random_u64(3, round, 2 + (uint64_t)d) % 4) * 100;
            tokens_fill(tokens, names[user][d]);
            if (match(tree, parent, tokens, &block) == B)
                prefix_tree_retain(tree, block);
            else
                block = add(tree, parent, names[user][d], B);
            paths[user][d] = block;
        }
        size_t used = 0;
        for (size_t i = 0; i < BLOCKS; i++)
            used += tree->blocks[i].references > 0;
        for (size_t u = 0; u < USERS; u++)
            for (int32_t d = 0; d < depths[u]; d++) {
                const struct prefix_block *block = &tree->blocks[paths[u][d]];
                assert_int_equal(block->tokens[0], names[u][d]);
                assert_int_equal(block->parent, d > 0 ? paths[u][d - 1] : NO_BLOCK);
            }
        // A block without users is kept or free; those in the list of free ones have no user.
        assert_true(used + tree->kept_count + tree->free_count >= BLOCKS);
        assert_int_equal(used, BLOCKS - prefix_tree_available(tree));
    }
    assert_true(tree->evictions > 100);
    prefix_tree_destroy(tree);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(longest_beginning_is_found),
        cmocka_unit_test(what_was_left_longest_ago_goes_first_and_leaves_before_parents),
        cmocka_unit_test(what_was_not_computed_is_forgotten),
        cmocka_unit_test(blocks_are_neither_lost_nor_taken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
