// SPDX-License-Identifier: Apache-2.0
// Blocks grow by doubling from 4 KiB to 1 MiB; a request beyond that gets a block of its own size.
// Only the newest block is filled; the rest of an older one is given up.
#include "base/arena.h"

#include "base/mem.h"

#include <stdalign.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_BLOCK_BYTES ((size_t)4096)
#define LARGE_BLOCK_BYTES ((size_t)1 << 20)

struct arena_block {
    struct arena_block *older;
    size_t capacity;
    size_t used;
    alignas(16) char bytes[];
};

static struct arena_block *block_create(struct arena_block *older, size_t needed)
{
    size_t capacity = FIRST_BLOCK_BYTES;
    if (older)
        capacity =
            older->capacity < LARGE_BLOCK_BYTES / 2 ? older->capacity * 2 : LARGE_BLOCK_BYTES;
    if (capacity < needed)
        capacity = needed;
    size_t total = capacity + sizeof(struct arena_block);
    struct arena_block *block = mem_alloc(total < capacity ? SIZE_MAX : total);
    block->older = older;
    block->capacity = capacity;
    block->used = 0;
    return block;
}

// Not zeroed. alignment is a power of two, at most 16.
static char *take(struct arena *arena, size_t bytes, size_t alignment)
{
    struct arena_block *block = arena->newest;
    size_t start = block ? (block->used + alignment - 1) & ~(alignment - 1) : 0;
    if (!block || start > block->capacity || bytes > block->capacity - start) {
        block = arena->newest = block_create(block, bytes);
        start = 0;
    }
    block->used = start + bytes;
    arena->used_bytes += bytes;
    return block->bytes + start;
}

void *arena_alloc(struct arena *arena, size_t bytes)
{
    void *memory = take(arena, bytes ? bytes : 1, 16); // so that two addresses always differ
    memset(memory, 0, bytes);
    return memory;
}

char *arena_strndup(struct arena *arena, const char *bytes, size_t length)
{
    char *copy = take(arena, length + 1, 1);
    if (length > 0)
        memcpy(copy, bytes, length);
    copy[length] = '\0';
    return copy;
}

char *arena_printf(struct arena *arena, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    int length = vsnprintf(NULL, 0, format, args);
    char *text = take(arena, length < 0 ? 1 : (size_t)length + 1, 1);
    text[0] = '\0';
    if (length > 0)
        vsnprintf(text, (size_t)length + 1, format, again);
    va_end(again);
    va_end(args);
    return text;
}

void arena_reset(struct arena *arena)
{
    struct arena_block *largest = arena->newest;
    for (struct arena_block *block = arena->newest; block; block = block->older)
        if (block->capacity > largest->capacity)
            largest = block;

    struct arena_block *block = arena->newest;
    while (block) {
        struct arena_block *older = block->older;
        if (block != largest)
            free(block);
        block = older;
    }
    if (largest) {
        largest->older = NULL;
        largest->used = 0;
    }
    arena->newest = largest;
    arena->used_bytes = 0;
}

void arena_release(struct arena *arena)
{
    arena_reset(arena);
    free(arena->newest);
    arena->newest = NULL;
}
