// SPDX-License-Identifier: Apache-2.0
// A task vector is a safetensors file, values tuned - base computed in f32. Its metadata:
//
//     format  "memo task vector"      base, tuned  weights digests of the two models, hexadecimal
//     version "2"                     layout       "dense" or "trimmed"
//     source  where tuned came from: "weights", "checkpoint" (a float32 master), or an operation
//
// dense: the model's tensor names and shapes, F32 or BF16. trimmed: of each tensor only the
// max(1, floor(density n)) largest magnitudes, as two tensors: "NAME.mask", U8 [(n + 7) / 8], bit
// i % 8 of byte i / 8 says whether element i is there; "NAME", F32 or BF16 [kept], their values in
// order; and metadata "shape NAME", a JSON array, the tensor's own shape.
#ifndef MEMO_WORKER_MERGE_VECTOR_H
#define MEMO_WORKER_MERGE_VECTOR_H

#include "base/fs.h"
#include "base/hash.h"
#include "datasets/safetensors.h"
#include "kernels/device.h"

#include <stdbool.h>

// One tensor of a vector.
struct vector_tensor {
    struct safetensors_entry entry; // name and own shape; bytes as if dense
    const struct safetensors_entry *values;
    const uint8_t *mask;     // NULL: dense
    uint64_t *values_before; // [count / VECTOR_STRIDE + 1] values in front of each stride
};
#define VECTOR_STRIDE 4096 // elements

struct vector {
    struct safetensors file;
    struct vector_tensor *tensors; // sorted by name
    size_t count;
    struct digest base;
    struct digest tuned;
    bool trimmed;
    const char *source;
    void *memory;
};

// Checks format, version, dtypes, shapes and masks.
int vector_open(const char *path, struct vector *out, struct error *err);
void vector_close(struct vector *vector);
const struct vector_tensor *vector_find(const struct vector *vector, const char *name);
size_t vector_count(const struct vector_tensor *tensor); // elements
// Names and shapes, and that both were taken from one base; otherwise an error with the
// differences.
int vectors_match(const struct vector *a, const char *a_name, const struct vector *b,
                  const char *b_name, struct error *err);
void vector_read(const struct vector_tensor *tensor, size_t begin, size_t count, float *out);

struct vector_stats {
    size_t tensors;
    uint64_t parameters;
    uint64_t kept; // elements written
    uint64_t bytes_read;
    uint64_t bytes_written;
    double norm;      // Euclidean, of the whole vector
    uint64_t zeros;   // elements that training did not change
    double largest;   // magnitude
    bool from_master; // the tuned weights were a checkpoint's float32 master
};

struct vector_options {
    enum dtype dtype; // F32 or BF16
    double density;   // below 1: trimmed
    int threads;
};

// Writes tuned - base. The two directories must agree in names and shapes; NaN or infinity is an
// error. Where tuned/run/checkpoints holds the float32 master of exactly these weights it is taken
// instead of them.
int vector_write(struct fs *fs, const char *base, const char *tuned, const char *out,
                 const struct vector_options *options, struct vector_stats *stats,
                 struct error *err);

// Writes sum scale[i] vectors[i], computed in f64 and rounded once; all from one base. name says
// what it is, for the metadata.
int vector_combine(struct fs *fs, const char *const *paths, const double *scales, size_t count,
                   const char *name, const char *out, const struct vector_options *options,
                   struct vector_stats *stats, struct error *err);

#endif
