// SPDX-License-Identifier: Apache-2.0
// Files of datasets/prompts as they were when the binary was built, so that it needs none of them
// where it runs.
#ifndef MEMO_DATASETS_EMBEDDED_H
#define MEMO_DATASETS_EMBEDDED_H

#include <stddef.h>

struct embedded_file {
    const char *name; // without a directory
    const char *bytes;
    size_t length; // a NUL follows
};
extern const struct embedded_file embedded_files[];
extern const size_t embedded_file_count;

#endif
