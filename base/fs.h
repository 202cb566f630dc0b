// SPDX-License-Identifier: Apache-2.0
// File operations behind a table, so that tests can tear, reorder and fill. Everything durable in
// memo is written through it: under a temporary name, synced, renamed, directory synced.
#ifndef MEMO_BASE_FS_H
#define MEMO_BASE_FS_H

#include "base/error.h"
#include "base/strbuf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FS_DIRECT_BYTES 4096

struct fs_info {
    uint64_t size_bytes;
    int64_t modified_ns; // by the clock of the machine that serves the file
    bool is_directory;
    bool is_special; // a pipe, socket or device: reading may wait for ever
};

// Every operation returns 0 or a negative errno. Paths are relative to the working directory or
// absolute. A handle belongs to the table that created it.
struct fs_ops {
    int (*create)(void *state, const char *path, bool exclusive, int *handle);
    int (*write)(void *state, int handle, const void *bytes, size_t length); // all or an error
    // For files that several processes fill: opens or creates without truncating; a write at an
    // offset, all or an error.
    int (*open_update)(void *state, const char *path, int *handle);
    int (*write_at)(void *state, int handle, uint64_t offset, const void *bytes, size_t length);
    // The same for large writes that go past the page cache: address, offset and length of each
    // write_at are multiples of FS_DIRECT_BYTES. -EINVAL where the file system has no such writes.
    int (*open_direct)(void *state, const char *path, int *handle);
    int (*sync)(void *state, int handle);
    int (*close)(void *state, int handle);
    int (*rename)(void *state, const char *from, const char *to, bool replace); // or -EEXIST
    int (*sync_directory)(void *state, const char *path);
    int (*remove)(void *state, const char *path);                   // file or empty directory
    int (*make_directory)(void *state, const char *path);           // -EEXIST when it is there
    int (*read)(void *state, const char *path, struct strbuf *out); // appends; all or nothing
    int (*stat)(void *state, const char *path, struct fs_info *out);
    // Calls visit for every entry but "." and "..", in no order; stops when visit returns non-zero.
    int (*list)(void *state, const char *path, int (*visit)(void *context, const char *name),
                void *context);
};

struct fs {
    const struct fs_ops *ops;
    void *state;
};

// The operating system's files. With MEMO_FS_FAULT in the environment, for tests of the whole
// binary: "enospc:N" makes writes fail with "no space left on device" after N bytes, "kill:N" has
// the process killed (SIGKILL) once N bytes were written, in the middle of a write.
struct fs *fs_system(void);

// A table that passes everything to inner and fails as told; for tests. An operation that fails by
// count is not passed on, except close. May be used by several threads.
struct fs_fault {
    struct fs *inner;
    uint64_t write_budget_bytes; // writes beyond it store what fits and fail with ENOSPC
    int64_t fail_operation;      // the n-th operation from now (1 = next) fails with EIO; 0 = never
    int64_t operations;          // counted
};
struct fs fs_with_faults(struct fs_fault *fault); // UINT64_MAX as budget: no limit

struct fs_part {
    const void *bytes;
    size_t length;
};

// Writes the parts to a temporary name beside path, syncs, renames to path, syncs the directory.
// With replace false an existing path is an error. On failure nothing stands under path that was
// not there before, and the temporary file is removed; only when all but the directory's sync
// succeeded does replaced content stay replaced.
int fs_write_atomic(struct fs *fs, const char *path, const struct fs_part *parts, size_t count,
                    bool replace, struct error *err);
int fs_write_text(struct fs *fs, const char *path, const char *text, size_t length,
                  struct error *err); // atomic, replaces

int fs_read(struct fs *fs, const char *path, struct strbuf *out, struct error *err); // appends
bool fs_exists(struct fs *fs, const char *path);
int fs_make_directories(struct fs *fs, const char *path, struct error *err); // like mkdir -p

// Names in a directory, sorted by bytes. Free with fs_names_release.
struct fs_names {
    char **names;
    size_t count;
};
int fs_list(struct fs *fs, const char *path, struct fs_names *out, struct error *err);
void fs_names_release(struct fs_names *names);

// A file mapped read-only from the operating system. A file of length 0 maps to bytes NULL.
struct fs_map {
    const uint8_t *bytes;
    size_t length;
};
int fs_map_open(const char *path, struct fs_map *map, struct error *err);
void fs_map_close(struct fs_map *map);

// "dir/name", in memory that the caller frees.
char *fs_join(const char *directory, const char *name);

#endif
