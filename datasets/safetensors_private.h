// SPDX-License-Identifier: Apache-2.0
// Shared by the parser and by what opens files and shards.
#ifndef MEMO_DATASETS_SAFETENSORS_PRIVATE_H
#define MEMO_DATASETS_SAFETENSORS_PRIVATE_H

#include "base/arena.h"
#include "datasets/safetensors.h"

// What struct safetensors owns.
struct safetensors_memory {
    struct arena arena; // entries, names, metadata
    struct fs_map *maps;
    size_t map_count;
};

// Fills out with the tensors of one file, sorted by name. Everything lies in the arena, except the
// tensors' data, which stays in bytes.
int safetensors_parse_file(const uint8_t *bytes, size_t length, const char *file,
                           struct arena *arena, struct safetensors *out, struct error *err);

int safetensors_compare_names(const void *a, const void *b); // of two entries, for qsort

#endif
