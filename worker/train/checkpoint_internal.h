// SPDX-License-Identifier: Apache-2.0
// What saving and loading of checkpoints share: names and layout of files, and their directory.
#ifndef MEMO_WORKER_TRAIN_CHECKPOINT_INTERNAL_H
#define MEMO_WORKER_TRAIN_CHECKPOINT_INTERNAL_H

#include "base/mem.h"
#include "worker/train/checkpoint_manifest.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct part_header {
    char magic[8];
    uint32_t version;
    uint32_t zero;
    uint64_t begin;
    uint64_t end;
    uint64_t step;
    uint8_t zeros[24];
};
_Static_assert(sizeof(struct part_header) == 64, "the header is 64 bytes on disk");

static inline struct part_header part_header(const struct manifest *manifest, size_t part)
{
    struct part_header header = {.version = CHECKPOINT_VERSION,
                                 .begin = manifest_part_begin(manifest, part),
                                 .end = manifest_part_end(manifest, part),
                                 .step = manifest->step};
    memcpy(header.magic, "MEMOCKPT", sizeof(header.magic));
    return header;
}

static inline char *part_path(const char *directory, size_t part)
{
    return mem_printf("%s/part-%05zu.bin", directory, part);
}

static inline char *step_path(const char *directory, uint64_t step)
{
    return mem_printf("%s/step-%08" PRIu64, directory, step);
}

static inline size_t weights_bytes(const struct manifest *manifest,
                                   const struct part_header *header)
{
    const size_t bytes = (header->end - header->begin) * dtype_bytes(manifest->form.weights);
    return (bytes + 63) / 64 * 64;
}

// The number in "step-NNNNNNNN", or -1.
static inline int64_t step_of_name(const char *name)
{
    if (strncmp(name, "step-", 5) != 0 || strlen(name) != 13 || strspn(name + 5, "0123456789") != 8)
        return -1;
    return strtoll(name + 5, NULL, 10);
}

// --- checkpoint_directory.c ---

// What cannot be removed now is removed by the next save.
void checkpoint_remove(struct fs *fs, const char *path);

// Removes what was interrupted and all but the newest `keep` whole checkpoints and the best one by
// this figure.
int checkpoint_tidy(struct fs *fs, const char *directory, size_t keep, const char *figure,
                    struct error *err);

#endif
