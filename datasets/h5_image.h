// SPDX-License-Identifier: Apache-2.0
// HDF5 files of ours, built and read in memory. Every one begins with a user block of 512 bytes, so
// that a torn or flipped byte is found before the HDF5 library sees the file, while h5py and h5dump
// open it as it is:
//
//   offset  0   8 bytes   magic, says which of our formats this is
//           8   u64       format version, little endian like the rest
//          16   u64       bytes after the block
//          24  16 bytes   XXH3-128 of those bytes, canonical order
//          40 472 bytes   zero
//
// The digest finds damage, not forgery: the HDF5 library itself is not hardened against files made
// on purpose to break it.
//
// Datasets are contiguous arrays of fixed little-endian types with one or two dimensions; text is
// packed bytes with offsets, never variable-length strings. The same calls give the same bytes.
// The HDF5 library keeps global state: one thread at a time.
#ifndef MEMO_DATASETS_H5_IMAGE_H
#define MEMO_DATASETS_H5_IMAGE_H

#include "base/error.h"
#include "base/strbuf.h"

#include <stddef.h>
#include <stdint.h>

#define H5_IMAGE_BLOCK_BYTES 512
#define H5_IMAGE_MAGIC_BYTES 8

enum h5_image_type { H5_IMAGE_U8, H5_IMAGE_U32, H5_IMAGE_U64, H5_IMAGE_F64 };
size_t h5_image_type_bytes(enum h5_image_type type);

struct h5_image;

// An empty file to be filled and finished.
int h5_image_create(struct h5_image **out, struct error *err);

// Verifies the block, then opens the file inside; bytes may be freed afterwards. `name` is used in
// messages alone.
int h5_image_open(const void *bytes, size_t length, const char magic[H5_IMAGE_MAGIC_BYTES],
                  uint64_t version, const char *name, struct h5_image **out, struct error *err);
void h5_image_destroy(struct h5_image *image);

// One-dimensional: columns 0, count = rows. Two-dimensional: [rows, columns]. values may be NULL
// when there are none.
int h5_image_write(struct h5_image *image, const char *dataset, enum h5_image_type type,
                   const void *values, size_t rows, size_t columns, struct error *err);
int h5_image_write_attribute_u64(struct h5_image *image, const char *attribute, uint64_t value,
                                 struct error *err);
int h5_image_write_attribute_text(struct h5_image *image, const char *attribute, const char *text,
                                  struct error *err);

// Another type, another number of dimensions or columns is an error. *out has been allocated by
// mem_alloc (never NULL), caller frees; *rows is set.
int h5_image_read(struct h5_image *image, const char *dataset, enum h5_image_type type,
                  size_t columns, void **out, size_t *rows, struct error *err);
int h5_image_read_attribute_u64(struct h5_image *image, const char *attribute, uint64_t *out,
                                struct error *err);

// Appends the finished file, sealed, to out. The image can only be destroyed afterwards.
int h5_image_finish(struct h5_image *image, const char magic[H5_IMAGE_MAGIC_BYTES],
                    uint64_t version, struct strbuf *out, struct error *err);

// The block alone: for a file of `length` bytes, and its check against the bytes of a whole file.
void h5_image_seal(const char magic[H5_IMAGE_MAGIC_BYTES], uint64_t version, const void *file,
                   size_t length, uint8_t block[H5_IMAGE_BLOCK_BYTES]);
int h5_image_verify(const void *bytes, size_t length, const char magic[H5_IMAGE_MAGIC_BYTES],
                    uint64_t version, const char *name, struct error *err);

#endif
