// SPDX-License-Identifier: Apache-2.0
// The names in a directory of reflections; private to the set and the index.
//
//     DIR/attempt-0001/...h5    one directory for each time a job began, numbered by exclusive
//     DIR/attempt-0002/...h5    mkdir
//
// Segments count in the order (attempt, file name).
#ifndef MEMO_DATASETS_REFLECTIONS_DIRECTORY_H
#define MEMO_DATASETS_REFLECTIONS_DIRECTORY_H

#include "base/error.h"
#include "base/fs.h"

#include <stddef.h>

struct segment_name {
    unsigned long attempt;
    char *file; // name inside the attempt's directory
};

struct segment_names {
    struct segment_name *names; // in the order in which they count
    size_t count;
    size_t capacity;
};

// Files under temporary names are not listed.
int segment_names_list(struct fs *fs, const char *directory, struct segment_names *out,
                       struct error *err);
void segment_names_release(struct segment_names *names);

int segment_name_compare(const struct segment_name *a, const struct segment_name *b);
char *segment_name_path(const char *directory, const struct segment_name *name); // caller frees

#endif
