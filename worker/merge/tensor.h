// SPDX-License-Identifier: Apache-2.0
// Merging one tensor out of core. It is passed over tile by tile, in memory that does not depend on
// its size: once or several times for what the method must know of the whole tensor (thresholds,
// norms, products), and once to write the result. The threads share the blocks of a tile.
//
// What is summed over a tensor is summed per block, and then block by block in order; a block is
// fixed by method and shape. So neither threads nor tile size nor ranks change a byte.
#ifndef MEMO_WORKER_MERGE_TENSOR_H
#define MEMO_WORKER_MERGE_TENSOR_H

#include "base/error.h"
#include "kernels/device.h"
#include "worker/merge/method.h"
#include "worker/merge/select.h"

// Where one tensor's values come from. read may be called by several threads at once.
struct merge_tensor {
    size_t rows, columns; // columns: the last dimension
    bool has_base;
    const bool *is_delta; // [vectors] whether read gives tau_k, otherwise theta_k
    // Elements [begin, begin + count) of the base (which 0) or of vector which - 1.
    void (*read)(void *context, size_t which, size_t begin, size_t count, float *out);
    // These elements are not needed soon; may be NULL.
    void (*release)(void *context, size_t begin, size_t count);
    void *context;
};

// Where the result goes: buffer gives room for one tile in dtype, submit takes it, in order.
struct merge_sink {
    enum dtype dtype;
    void *(*buffer)(void *context);
    int (*submit)(void *context, void *buffer, size_t count, struct error *err);
    void *context;
};

struct merge_tensor_stats {
    double change;     // sum of (merged - base)^2, before rounding to the dtype
    uint64_t infinite; // elements of the result that are not finite in its dtype
    uint64_t first_infinite;
};

struct merge_engine;

// tile: elements, at least 1. widest: the longest row of any tensor that will be merged.
int merge_engine_create(int threads, size_t vectors, size_t tile, size_t widest,
                        struct merge_engine **out, struct error *err);
void merge_engine_destroy(struct merge_engine *engine);

// Bytes that an engine allocates, and beside them 8 for each element of a tile.
uint64_t merge_engine_bytes(int threads, size_t vectors, size_t widest);
// Elements of a tile that engines really use for a tensor: whole blocks.
size_t merge_engine_block(enum merge_method method, enum merge_groups groups, size_t columns);

// cuts: NULL, or for `ties` a cut for each vector that replaces the per-tensor trim.
int merge_tensor_run(struct merge_engine *engine, const struct merge_parameters *parameters,
                     const struct merge_tensor *tensor, const struct magnitude_cut *cuts,
                     const struct merge_sink *sink, struct merge_tensor_stats *stats,
                     struct error *err);

// The cut that keeps `keep` magnitudes of a tensor's one vector.
struct magnitude_cut merge_tensor_cut(struct merge_engine *engine,
                                      const struct merge_tensor *tensor, uint64_t keep);

// For cuts over many tensors: adds vector k's magnitudes to bins [SELECT_BINS], by the upper bits
// (high NULL) or by the lower bits of those in bin *high.
void merge_tensor_histogram(struct merge_engine *engine, const struct merge_parameters *parameters,
                            const struct merge_tensor *tensor, size_t k, const uint32_t *high,
                            uint64_t *bins);
// How many of vector k's magnitudes have these bits.
uint64_t merge_tensor_equal(struct merge_engine *engine, const struct merge_parameters *parameters,
                            const struct merge_tensor *tensor, size_t k, uint32_t bits);
// Behind the ties-th of them.
uint64_t merge_tensor_end_of_ties(struct merge_engine *engine,
                                  const struct merge_parameters *parameters,
                                  const struct merge_tensor *tensor, size_t k, uint32_t bits,
                                  uint64_t ties);

#endif
