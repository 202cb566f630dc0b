// SPDX-License-Identifier: Apache-2.0
// A directory for one test, made by the setup and removed with its content by the teardown. For
// tests only.
#ifndef MEMO_TESTS_BASE_TEMPORARY_DIRECTORY_H
#define MEMO_TESTS_BASE_TEMPORARY_DIRECTORY_H

#include "base/mem.h"

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>

static inline int remove_entry(const char *path, const struct stat *info, int type,
                               struct FTW *place)
{
    (void)info;
    (void)type;
    (void)place;
    return remove(path);
}

// *state becomes the path.
static inline int temporary_directory_setup(void **state)
{
    const char *parent = getenv("TMPDIR");
    char *path = mem_printf("%s/memo-test-XXXXXX", parent ? parent : "/tmp");
    *state = mkdtemp(path);
    return *state ? 0 : -1;
}

static inline int temporary_directory_teardown(void **state)
{
    int rc = nftw(*state, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    free(*state);
    return rc;
}

#endif
