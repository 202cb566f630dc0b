// SPDX-License-Identifier: Apache-2.0
// Device memory that is host memory: everything is done when the call returns.
#include "kernels/backend.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
    CACHE_LINE_BYTES = 64,
    // Blocks of weights and activations are walked with large strides; huge pages keep the
    // translation buffers from missing at every row.
    HUGE_PAGE_BYTES = 2 << 20,
};

static int host_alloc(struct device *device, size_t bytes, void **out, struct error *err)
{
    (void)device;
    size_t alignment = bytes >= HUGE_PAGE_BYTES ? HUGE_PAGE_BYTES : CACHE_LINE_BYTES;
    *out = NULL;
    if (bytes > SIZE_MAX - alignment)
        return error_set(err, "cannot allocate %zu bytes: no address space holds them", bytes);
    size_t whole = bytes > 0 ? (bytes + CACHE_LINE_BYTES - 1) / CACHE_LINE_BYTES * CACHE_LINE_BYTES
                             : CACHE_LINE_BYTES;
    void *block = NULL;
    if (posix_memalign(&block, alignment, whole) != 0)
        return error_set(err, "cannot allocate %zu bytes of memory", bytes);
    if (alignment == HUGE_PAGE_BYTES)
        (void)madvise(block, whole, MADV_HUGEPAGE); // advice: works without
    memset(block, 0, whole);
    *out = block;
    return 0;
}

static void host_free(struct device *device, void *block)
{
    (void)device;
    free(block);
}

static void host_zero(struct device *device, void *block, size_t bytes)
{
    (void)device;
    if (bytes > 0)
        memset(block, 0, bytes);
}

// Whole pages go back to the system, which gives zeroed ones when they are touched again.
static void host_discard(struct device *device, void *block, size_t bytes)
{
    enum { PAGE_BYTES = 4096 };
    const size_t before = (PAGE_BYTES - (uintptr_t)block % PAGE_BYTES) % PAGE_BYTES;
    const size_t pages = bytes > before ? (bytes - before) / PAGE_BYTES * PAGE_BYTES : 0;
    char *first = (char *)block + before;
    if (pages == 0 || madvise(first, pages, MADV_DONTNEED) != 0) {
        host_zero(device, block, bytes);
        return;
    }
    memset(block, 0, before);
    memset(first + pages, 0, bytes - before - pages);
}

static void host_copy(struct device *device, void *out, const void *in, size_t bytes)
{
    (void)device;
    if (bytes > 0)
        memmove(out, in, bytes);
}

static int host_copy_out(struct device *device, void *host, const void *in, size_t bytes,
                         struct error *err)
{
    (void)err;
    host_copy(device, host, in, bytes);
    return 0;
}

static int host_sync(struct device *device, struct error *err)
{
    (void)device;
    (void)err;
    return 0;
}

const struct memory memory_host = {
    .alloc = host_alloc,
    .free = host_free,
    .zero = host_zero,
    .discard = host_discard,
    .copy = host_copy,
    .copy_in = host_copy,
    .copy_out = host_copy_out,
    .sync = host_sync,
};
