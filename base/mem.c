// SPDX-License-Identifier: Apache-2.0
#include "base/mem.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Noreturn void out_of_memory(size_t bytes)
{
    fprintf(stderr, "memo: out of memory: %zu bytes could not be allocated\n", bytes);
    abort();
}

void *mem_alloc(size_t bytes)
{
    void *block = malloc(bytes ? bytes : 1);
    if (!block)
        out_of_memory(bytes);
    return block;
}

void *mem_alloc_aligned(size_t alignment, size_t bytes)
{
    void *block = NULL;
    if (posix_memalign(&block, alignment, bytes) != 0)
        out_of_memory(bytes);
    return block;
}

void *mem_calloc(size_t count, size_t element_bytes)
{
    if (count == 0 || element_bytes == 0)
        count = element_bytes = 1;
    void *block = calloc(count, element_bytes);
    if (!block)
        out_of_memory(count > SIZE_MAX / element_bytes ? SIZE_MAX : count * element_bytes);
    return block;
}

void *mem_realloc(void *block, size_t bytes)
{
    void *moved = realloc(block, bytes ? bytes : 1);
    if (!moved)
        out_of_memory(bytes);
    return moved;
}

void *mem_dup(const void *bytes, size_t length)
{
    void *block = mem_alloc(length);
    if (length > 0)
        memcpy(block, bytes, length);
    return block;
}

char *mem_strdup(const char *text)
{
    return mem_dup(text, strlen(text) + 1);
}

char *mem_printf(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    char *text = NULL;
    if (vasprintf(&text, format, args) < 0)
        out_of_memory(0);
    va_end(args);
    return text;
}

void *mem_grow(void *block, size_t *capacity, size_t needed, size_t element_bytes)
{
    if (needed <= *capacity)
        return block;
    size_t larger = *capacity < 8 ? 8 : *capacity;
    while (larger < needed) {
        if (larger > SIZE_MAX / 2)
            out_of_memory(SIZE_MAX);
        larger *= 2;
    }
    if (larger > SIZE_MAX / element_bytes)
        out_of_memory(SIZE_MAX);
    *capacity = larger;
    return mem_realloc(block, larger * element_bytes);
}
