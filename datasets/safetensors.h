// SPDX-License-Identifier: Apache-2.0
// Safetensors: u64 little-endian header length, JSON header, tensor bytes. One file, or shards
// named by model.safetensors.index.json.
#ifndef MEMO_DATASETS_SAFETENSORS_H
#define MEMO_DATASETS_SAFETENSORS_H

#include "base/error.h"
#include "base/fs.h"

#include <stddef.h>
#include <stdint.h>

enum safetensors_dtype {
    ST_BOOL,
    ST_U8,
    ST_I8,
    ST_U16,
    ST_I16,
    ST_F16,
    ST_BF16,
    ST_U32,
    ST_I32,
    ST_F32,
    ST_F64,
    ST_I64,
    ST_U64,
    ST_F8_E4M3,
    ST_F8_E5M2,
};
size_t safetensors_dtype_bytes(enum safetensors_dtype dtype);
const char *safetensors_dtype_name(enum safetensors_dtype dtype); // "BF16"

#define SAFETENSORS_MAX_RANK 8

struct safetensors_entry {
    const char *name;
    enum safetensors_dtype dtype;
    int rank;
    uint64_t shape[SAFETENSORS_MAX_RANK];
    uint64_t bytes;
    const void *data; // inside the mapping; not necessarily aligned
    const char *file; // which shard, for messages
};

// All tensors of a file or of a model directory (model.safetensors, or the index and its shards),
// sorted by name. Mapped, not read.
struct safetensors {
    struct safetensors_entry *entries;
    size_t count;
    const char **metadata_keys; // of the first file's __metadata__
    const char **metadata_values;
    size_t metadata_count;
    void *memory;
};

int safetensors_open(const char *file_or_directory, struct safetensors *out, struct error *err);
void safetensors_close(struct safetensors *tensors);
const struct safetensors_entry *safetensors_find(const struct safetensors *tensors,
                                                 const char *name);
const char *safetensors_metadata(const struct safetensors *tensors, const char *key); // or NULL

// The parser alone, over bytes; what is wrong names `file` and the place. Used by open and by
// tests.
int safetensors_parse(const void *bytes, size_t length, const char *file, struct safetensors *out,
                      struct error *err);

// The bytes in front of the data: length and padded JSON header. Appends them to out and sets
// *data_bytes to what the entries declare. Their `data` and `bytes` are not used.
int safetensors_build_header(const char *path, const struct safetensors_entry *entries,
                             size_t count, const char *const *metadata, struct strbuf *out,
                             uint64_t *data_bytes, struct error *err);

// Writing streams tensor by tensor in the order declared: create with all entries (data unused),
// then write each one's bytes in that order, in pieces as large as wanted, then finish: sync and
// rename to the final name, replacing. Destroying an unfinished writer removes the temporary file.
struct safetensors_writer;
int safetensors_writer_create(struct fs *fs, const char *path,
                              const struct safetensors_entry *entries, size_t count,
                              const char *const *metadata, // key, value, ..., NULL; may be NULL
                              struct safetensors_writer **out, struct error *err);
int safetensors_writer_write(struct safetensors_writer *writer, const void *bytes, size_t length,
                             struct error *err);
int safetensors_writer_finish(struct safetensors_writer *writer, struct error *err);
void safetensors_writer_destroy(struct safetensors_writer *writer);

#endif
