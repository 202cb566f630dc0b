// SPDX-License-Identifier: Apache-2.0
// What saving and loading of checkpoints share: names and layout of files, and the steps of a save.
#ifndef MEMO_WORKER_TRAIN_CHECKPOINT_INTERNAL_H
#define MEMO_WORKER_TRAIN_CHECKPOINT_INTERNAL_H

#include "base/mem.h"
#include "worker/train/checkpoint_manifest.h"
#include "worker/train/trainer.h"

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

// --- saving: open, write the parts, gather their digests, seal ---

struct checkpoint_place {
    struct fs *fs;
    char *directory, *path; // of all checkpoints, of this one
    size_t keep;
};
void checkpoint_place_release(struct checkpoint_place *place);

// Collective: 1 with a place to write to and what the manifest says so far; 0, the state was saved
// before, and -1 leave nothing to release.
int checkpoint_open(struct trainer *trainer, struct fs *fs, const char *directory, size_t keep,
                    struct checkpoint_place *place, struct manifest *manifest, struct error *err);

// A unit of the optimizer as a part in host memory.
struct part_copy {
    struct part_header header;
    const struct optimizer_unit *unit;
    size_t state_at; // in the copy, behind the weights
    unsigned char *host;
    size_t bytes;
};
bool checkpoint_writes_unit(const struct trainer *trainer, const struct optimizer_unit *unit);
int part_open(const struct manifest *manifest, const struct optimizer_unit *unit,
              struct part_copy *out, struct error *err);
int part_fill(const struct part_copy *part, const struct trainer *trainer, struct error *err);
// *digest is that of the file.
int part_write(const struct part_copy *part, struct fs *fs, const char *directory,
               struct digest *digest, struct error *err);
void part_close(struct part_copy *part);

// Collective: rc says how this rank's writing went, mine [manifest->count] are its digests.
int checkpoint_gather(struct group *group, struct manifest *manifest, const struct digest *mine,
                      int rc, struct error *err);
// Rank 0, when all parts stand.
int checkpoint_seal(const struct checkpoint_place *place, const struct manifest *manifest,
                    struct error *err);
// After a failure: rank 0 removes what was written; err is told which checkpoint it is.
int checkpoint_take_back(struct group *group, const struct checkpoint_place *place,
                         struct error *err);

// --- checkpoint_directory.c ---

// What cannot be removed now is removed by the next save.
void checkpoint_remove(struct fs *fs, const char *path);

// Removes what was interrupted and all but the newest `keep` whole checkpoints and the best one by
// this figure.
int checkpoint_tidy(struct fs *fs, const char *directory, size_t keep, const char *figure,
                    struct error *err);

#endif
