// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/mem.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void zero_bytes_are_a_block(void **state)
{
    (void)state;
    void *blocks[] = {mem_alloc(0), mem_calloc(0, 8), mem_calloc(8, 0), mem_dup(NULL, 0),
                      mem_realloc(mem_alloc(4), 0)};
    for (size_t i = 0; i < sizeof(blocks) / sizeof(blocks[0]); i++) {
        assert_non_null(blocks[i]);
        free(blocks[i]);
    }
}

static void copies_are_equal(void **state)
{
    (void)state;
    char *bytes = mem_dup("a\0b", 3);
    char *text = mem_strdup("text");
    char *formatted = mem_printf("%s-%d", text, 31);
    assert_memory_equal(bytes, "a\0b", 3);
    assert_string_equal(text, "text");
    assert_string_equal(formatted, "text-31");
    free(bytes);
    free(text);
    free(formatted);
}

static void grow_doubles_and_keeps_content(void **state)
{
    (void)state;
    size_t capacity = 0;
    int *numbers = NULL;
    size_t moves = 0;
    for (size_t i = 0; i < 1000; i++) {
        size_t before = capacity;
        numbers = mem_grow(numbers, &capacity, i + 1, sizeof(*numbers));
        moves += capacity != before;
        numbers[i] = (int)i;
    }
    assert_true(capacity >= 1000 && capacity <= 2048);
    assert_int_equal(moves, 8); // 8, 16, ..., 1024
    for (int i = 0; i < 1000; i++)
        assert_int_equal(numbers[i], i);
    free(numbers);
}

static void grow_leaves_a_large_enough_block_alone(void **state)
{
    (void)state;
    size_t capacity = 4;
    char *block = mem_alloc(4);
    assert_true(mem_grow(block, &capacity, 4, 1) == block);
    assert_int_equal(capacity, 4);
    free(block);
}

// What an allocation that cannot be had leaves of the process: its standard error, and the signal.
static int run_in_child(void (*work)(void), char *text, size_t text_bytes)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        work();
        _exit(0);
    }
    close(ends[1]);
    size_t length = 0;
    for (ssize_t got; (got = read(ends[0], text + length, text_bytes - 1 - length)) > 0;)
        length += (size_t)got;
    text[length] = '\0';
    close(ends[0]);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

static void grow_beyond_address_space(void)
{
    size_t capacity = 0;
    free(mem_grow(NULL, &capacity, SIZE_MAX / 4, 8));
}

static void impossible_size_aborts_with_one_line(void **state)
{
    (void)state;
    char text[4096];
    int status = run_in_child(grow_beyond_address_space, text, sizeof(text));
    assert_true(WIFSIGNALED(status));
    assert_int_equal(WTERMSIG(status), SIGABRT);
    assert_memory_equal(text, "memo: out of memory: ", 21);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(zero_bytes_are_a_block),
        cmocka_unit_test(copies_are_equal),
        cmocka_unit_test(grow_doubles_and_keeps_content),
        cmocka_unit_test(grow_leaves_a_large_enough_block_alone),
        cmocka_unit_test(impossible_size_aborts_with_one_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
