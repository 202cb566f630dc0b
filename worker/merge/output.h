// SPDX-License-Identifier: Apache-2.0
// A model.safetensors that several ranks fill and that survives being killed. Its directory holds,
// until the merge is complete,
//
//     model.safetensors  header, and tensors in any order
//     merge.id           the digest of everything that determines the result
//     done-RRRRR         what rank R has written: records of 40 bytes {u64 tensor, 16 bytes
//     XXH3-128
//                        of its bytes, f64 change, u64 XXH3 of the record so far}, native order
//
// A merge that finds its own merge.id keeps the tensors that have a record and whose bytes have its
// digest; anything else there is begun again. A thread behind each output writes and hashes while
// the next tile is computed.
#ifndef MEMO_WORKER_MERGE_OUTPUT_H
#define MEMO_WORKER_MERGE_OUTPUT_H

#include "base/fs.h"
#include "base/hash.h"
#include "datasets/safetensors.h"

#include <stdbool.h>

struct merge_output;

// Done by one rank before any rank opens: the directory, merge.id, and the file's header. What
// stands there and belongs to another merge is removed.
int merge_output_prepare(struct fs *fs, const char *directory,
                         const struct safetensors_entry *entries, size_t count,
                         struct digest identity, struct error *err);

// tile_bytes: the size of the two buffers.
int merge_output_open(struct fs *fs, const char *directory, const struct safetensors_entry *entries,
                      size_t count, int rank, size_t tile_bytes, struct merge_output **out,
                      struct error *err);

// Whether this tensor stood there, whole, when the output was opened; its change. Reads its bytes.
bool merge_output_has(struct merge_output *output, size_t tensor, double *change);

// A free buffer for what begins at an offset of the tensor; waits for one. Then hand it over with
// what it holds, in ascending order of offsets.
void *merge_output_buffer(struct merge_output *output, size_t tensor, uint64_t offset);
int merge_output_submit(struct merge_output *output, size_t tensor, uint64_t offset, void *buffer,
                        size_t bytes, struct error *err);
// The tensor is complete: its record follows its bytes.
int merge_output_end(struct merge_output *output, size_t tensor, double change, struct error *err);

// Waits for the writing, and makes the file durable.
int merge_output_sync(struct merge_output *output, struct error *err);
void merge_output_destroy(struct merge_output *output);

// Removes merge.id and the records: the model is complete.
int merge_output_finish(struct fs *fs, const char *directory, struct error *err);

#endif
