// SPDX-License-Identifier: Apache-2.0
// Small allocations that cannot fail: when memory is out the process prints one line and aborts.
// Large blocks (weights, caches) are allocated through kernels/device.h, whose failures are errors.
#ifndef MEMO_BASE_MEM_H
#define MEMO_BASE_MEM_H

#include <stddef.h>

void *mem_alloc(size_t bytes);                           // uninitialised
void *mem_alloc_aligned(size_t alignment, size_t bytes); // a power of two; uninitialised
void *mem_calloc(size_t count, size_t element_bytes);
void *mem_realloc(void *block, size_t bytes);
void *mem_dup(const void *bytes, size_t length);
char *mem_strdup(const char *text);
char *mem_printf(const char *format, ...) __attribute__((format(printf, 1, 2)));

// Makes room for at least `needed` elements; *capacity grows by doubling. Returns the moved block.
void *mem_grow(void *block, size_t *capacity, size_t needed, size_t element_bytes);

#endif
