// SPDX-License-Identifier: Apache-2.0
// Files that lie outside the repository: under $MEMO_TEST_DATA, by default ../shared/data beside
// the checkout. A test that finds none of them says so and ends with SKIPPED.
#ifndef MEMO_TESTS_TEST_DATA_H
#define MEMO_TESTS_TEST_DATA_H

#include "base/fs.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>

#define SKIPPED 77 // ctest's SKIP_RETURN_CODE

// The path of a file or directory there, which the caller frees; NULL, with the reason printed,
// when it is absent.
static inline char *test_data_path(const char *relative)
{
    const char *root = getenv("MEMO_TEST_DATA");
    char *path = fs_join(root ? root : MEMO_SOURCE_DIRECTORY "/../shared/data", relative);
    if (fs_exists(fs_system(), path))
        return path;
    printf("skipped: '%s' is absent; set MEMO_TEST_DATA\n", path);
    free(path);
    return NULL;
}

#endif
