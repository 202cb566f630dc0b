// SPDX-License-Identifier: Apache-2.0
// An arena: many small allocations with one lifetime, freed together. Zero-initialise with
// `struct arena arena = {0}`; not thread safe.
#ifndef MEMO_BASE_ARENA_H
#define MEMO_BASE_ARENA_H

#include <stddef.h>

struct arena_block;

struct arena {
    struct arena_block *newest;
    size_t used_bytes; // handed out since the last reset
};

void *arena_alloc(struct arena *arena, size_t bytes); // zeroed, 16-byte aligned, never NULL
char *arena_strndup(struct arena *arena, const char *bytes, size_t length); // adds a NUL
char *arena_printf(struct arena *arena, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void arena_reset(struct arena *arena);   // forgets everything, keeps the largest block
void arena_release(struct arena *arena); // frees everything

#endif
