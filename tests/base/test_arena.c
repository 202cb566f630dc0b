// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/arena.h"

#include <string.h>

static void allocations_are_zeroed_aligned_and_apart(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 31, 33, 1000, 5000, 70000, 3 << 20};
    struct arena arena = {0};
    unsigned char *blocks[8];
    for (int round = 0; round < 3; round++) { // later rounds reuse memory that was written to
        for (size_t i = 0; i < 8; i++) {
            blocks[i] = arena_alloc(&arena, sizes[i]);
            assert_int_equal((uintptr_t)blocks[i] % 16, 0);
            for (size_t j = 0; j < sizes[i]; j++)
                assert_int_equal(blocks[i][j], 0);
            memset(blocks[i], (int)i + 1, sizes[i]);
        }
        for (size_t i = 0; i < 8; i++)
            for (size_t j = 0; j < sizes[i]; j++)
                assert_int_equal(blocks[i][j], i + 1);
        arena_reset(&arena);
    }
    arena_release(&arena);
}

static void many_small_allocations_keep_their_content(void **state)
{
    (void)state;
    struct arena arena = {0};
    static uint32_t *numbers[20000];
    for (uint32_t i = 0; i < 20000; i++) {
        numbers[i] = arena_alloc(&arena, sizeof(uint32_t) * (1 + i % 5));
        *numbers[i] = i;
    }
    for (uint32_t i = 0; i < 20000; i++)
        assert_int_equal(*numbers[i], i);
    arena_release(&arena);
}

static void text_is_copied_with_a_nul(void **state)
{
    (void)state;
    struct arena arena = {0};
    char *inner = arena_strndup(&arena, "a\0bcd", 3);
    char *empty = arena_strndup(&arena, NULL, 0);
    char *formatted = arena_printf(&arena, "%s/%04d", "shard", 7);
    assert_memory_equal(inner, "a\0b\0", 4);
    assert_string_equal(empty, "");
    assert_string_equal(formatted, "shard/0007");
    assert_string_equal(arena_printf(&arena, "%s", ""), "");
    arena_release(&arena);
}

static void used_bytes_count_since_the_reset(void **state)
{
    (void)state;
    struct arena arena = {0};
    arena_alloc(&arena, 100);
    arena_alloc(&arena, 5000);
    assert_int_equal(arena.used_bytes, 5100);
    arena_reset(&arena);
    assert_int_equal(arena.used_bytes, 0);
    arena_release(&arena);
}

static void reset_keeps_the_largest_block(void **state)
{
    (void)state;
    struct arena arena = {0};
    void *large = arena_alloc(&arena, 2 << 20);
    arena_alloc(&arena, 2 << 10);
    arena_alloc(&arena, 900 << 10);
    arena_reset(&arena);
    assert_true(arena_alloc(&arena, 2 << 20) == large);
    arena_release(&arena);
}

static void empty_arena_resets_and_releases(void **state)
{
    (void)state;
    struct arena arena = {0};
    arena_reset(&arena);
    arena_release(&arena);
    arena_release(&arena);
    assert_null(arena.newest);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(allocations_are_zeroed_aligned_and_apart),
        cmocka_unit_test(many_small_allocations_keep_their_content),
        cmocka_unit_test(text_is_copied_with_a_nul),
        cmocka_unit_test(used_bytes_count_since_the_reset),
        cmocka_unit_test(reset_keeps_the_largest_block),
        cmocka_unit_test(empty_arena_resets_and_releases),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
