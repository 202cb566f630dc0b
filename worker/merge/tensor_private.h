// SPDX-License-Identifier: Apache-2.0
// Shared by the files that merge one tensor: tensor.c (passes and result), thin.c (what is kept of
// each vector), candidates.c (cuts by one reading), span.c (coefficients from products).
#ifndef MEMO_WORKER_MERGE_TENSOR_PRIVATE_H
#define MEMO_WORKER_MERGE_TENSOR_PRIVATE_H

#include "kernels/cpu/pool.h"
#include "worker/merge/tensor.h"

#define BLOCK 2048 // elements, where no row must stay whole: 16 KiB of float64 a vector

// Of one thread.
struct scratch {
    void *memory; // of the arrays below, [block] each
    float *base;
    float **x;     // [vectors]
    double **kept; // [vectors]
    double *out, *total, *divisor;
    uint64_t *keys[2];
    uint32_t *bins;    // [SELECT_BINS], all 0 between phases
    bool counted;      // bins were added to
    float *candidates; // [engine->candidates] near a cut
    size_t candidate_count;
    uint64_t above; // values beyond the bracket
    bool overflowed;
};

struct merge_engine {
    struct pool *pool;
    int threads;
    size_t vectors, tile, block_capacity, candidates;
    struct scratch *scratch; // [threads]
    uint64_t *bins;          // [SELECT_BINS]
};

// What one block has near a cut; values belong to a scratch.
struct collected {
    const float *values;
    size_t count;
};

// One tensor's merge, phase after phase.
struct pass {
    struct merge_engine *engine;
    const struct merge_parameters *p;
    const struct merge_traits *traits;
    const struct merge_tensor *tensor;
    size_t count, block;
    size_t first, last; // elements of the current tile
    // thin.c
    struct magnitude_cut *lower; // [vectors] kept: survives lower and not upper
    struct magnitude_cut *upper;
    struct magnitude_cut deviation; // sce
    double *scale;                  // [vectors]
    double *weight;                 // [vectors] given, or sce's
    // phases that count or sum
    size_t k;
    uint32_t bits;   // also the high bin
    double *partial; // [blocks * sums]
    size_t sums;
    // candidates.c
    uint32_t bracket_low, bracket_high; // magnitude bits, both inside
    struct collected *collected;        // [blocks]
    // span.c
    double *coefficients; // [vectors], or [columns * vectors]
    const struct merge_sink *sink;
    char *tile_out;
    double *block_change;   // [blocks]
    uint64_t *block_counts; // [blocks] zeros, ties; then values that are not finite
};

struct pass pass_begin(struct merge_engine *engine, const struct merge_parameters *parameters,
                       const struct merge_tensor *tensor);
size_t pass_blocks(const struct pass *pass);

// Runs `run` for every block of the tensor, tile by tile; task counts from the tile's begin.
void pass_run(struct pass *pass, void (*run)(void *pass, size_t task, int thread));

// The whole tensor is not needed soon.
void pass_release(const struct pass *pass);

struct extent {
    size_t begin, count, index; // index: which block of the tensor
};
struct extent pass_extent(const struct pass *pass, size_t task);

// Element values x_k in the method's space; base is loaded into scratch->base when the tensor has
// one.
void pass_load_base(const struct pass *pass, struct scratch *s, struct extent e);
void pass_load(const struct pass *pass, struct scratch *s, size_t k, struct extent e);
void pass_load_all(const struct pass *pass, struct scratch *s, struct extent e);

// Adds the partial sums [blocks * sums] block by block into out [sums].
void pass_reduce(const struct pass *pass, double *out);

// Empties the threads' bins first to last, all others being 0, into engine->bins.
void pass_gather_bins(struct merge_engine *engine, size_t first, size_t last);

// thin.c: the values whose magnitudes are selected: vector pass->k, or sce's deviation.
const float *thin_load_selected(const struct pass *pass, struct scratch *s, struct extent e);

// candidates.c: the cut that keeps `keep` of the selected values; false: not found this way.
bool candidates_find_cut(struct pass *pass, uint64_t keep, struct magnitude_cut *out);

// thin.c: find cuts, scales and weights; then, per block, kept values without their weight.
void thin_prepare(struct pass *pass, const struct magnitude_cut *cuts);
void thin_block(const struct pass *pass, struct scratch *s, size_t k, struct extent e,
                double *kept);

// span.c: pass->coefficients for the whole tensor or its columns; rows have theirs made per block.
void span_prepare(struct pass *pass);
void span_block(struct pass *pass, struct scratch *s, struct extent e);

#endif
