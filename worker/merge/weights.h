// SPDX-License-Identifier: Apache-2.0
// Weights of a model directory as merging sees them: named tensors of floats, whatever their dtype.
#ifndef MEMO_WORKER_MERGE_WEIGHTS_H
#define MEMO_WORKER_MERGE_WEIGHTS_H

#include "base/hash.h"
#include "base/strbuf.h"
#include "datasets/safetensors.h"
#include "kernels/cpu/pool.h"
#include "kernels/device.h"

#include <stddef.h>

// F32, BF16 and F16 only; anything else is an error that names the tensor.
int weights_dtype(const struct safetensors_entry *entry, enum dtype *out, struct error *err);
size_t weights_count(const struct safetensors_entry *entry); // elements
enum safetensors_dtype weights_file_dtype(enum dtype dtype);
size_t weights_columns(const struct safetensors_entry *entry); // the last dimension; 1 for a scalar

// Elements [begin, begin + count) as f32.
void weights_read(const struct safetensors_entry *entry, size_t begin, size_t count, float *out);
// They are not needed soon: their pages leave this process's memory.
void weights_release(const void *data, uint64_t bytes);

// Everything that one reading of all bytes tells.
struct weights_scan {
    // Of names, dtypes, shapes and content, in name order: the same weights in other shards or file
    // names have the same digest. A tensor's content counts as the digests of its pieces of 4 MiB.
    struct digest digest;
    struct strbuf infinite; // "tensor 'x' holds 3 values that are not finite", a line each
};
// threads: those of pool.
int weights_scan(const struct safetensors *tensors, struct pool *pool, struct weights_scan *out,
                 struct error *err);
void weights_scan_release(struct weights_scan *scan);

// Differences between models, a line each.
struct differences {
    struct strbuf text;
    size_t count;
};
void differences_add(struct differences *differences, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
// 0 when there are none; otherwise an error "N WHAT: " with as many of them as fit.
int differences_report(const struct differences *differences, const char *what, struct error *err);
void differences_release(struct differences *differences);

// Names, shapes and, when asked, dtypes. a_name and b_name are for the text.
void weights_compare(const struct safetensors *a, const char *a_name, const struct safetensors *b,
                     const char *b_name, bool dtypes, struct differences *out);

// Two model directories: what config.json says of shape and vocabulary, and every difference of
// tokenizer.json. A file that both lack is no difference.
int directories_compare(struct fs *fs, const char *a, const char *b, struct differences *out,
                        struct error *err);

#endif
