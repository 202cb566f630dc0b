// SPDX-License-Identifier: Apache-2.0
// Cached positions are cut into pieces of PIECE_BLOCKS blocks at fixed places: the blocks that a
// tile of rows reads, piece by piece in the order of the plan, and how partial results of pieces
// are merged.
#ifndef MEMO_KERNELS_CUDA_ATTENTION_PIECES_H
#define MEMO_KERNELS_CUDA_ATTENTION_PIECES_H

#include "kernels/cuda/attention_tiles.h"

enum { PIECE_BLOCKS = 8 };

// What a tile reads.
struct reading {
    int first_token, end_token; // places in the plan's order
    int first_block, end_block; // that any of its tokens sees
    int first_segment, end_segment;
    int first_piece, piece_step;
};

struct walk {
    int at; // number of the segment
    struct attention_segment segment;
    const int32_t *table; // of its sequences: where the blocks lie
    int piece;
    int block, end; // of this segment in this piece
};

static __device__ __forceinline__ int larger(int a, int b)
{
    return a > b ? a : b;
}

static __device__ __forceinline__ int smaller(int a, int b)
{
    return a < b ? a : b;
}

static __device__ __forceinline__ struct walk walk_begin(const struct reading *reading)
{
    return {reading->first_segment - 1, {0, 0, 0, 0}, NULL, reading->first_piece, -1, 0};
}

// Piece after piece, in each segment after segment. False: that was all.
static __device__ __forceinline__ bool walk_next(const struct attention_cached *a,
                                                 const struct reading *reading, struct walk *walk)
{
    for (walk->block++; walk->block >= walk->end;) {
        if (++walk->at >= reading->end_segment) {
            walk->at = reading->first_segment;
            walk->piece += reading->piece_step;
        }
        const int first = walk->piece * PIECE_BLOCKS;
        if (first >= reading->end_block)
            return false;
        const struct attention_segment s = a->plan.segments[walk->at];
        walk->segment = s;
        const bool reads =
            s.first < reading->end_token && s.first + s.tokens > reading->first_token;
        const int from = larger(larger(s.first_block, first), reading->first_block);
        walk->table =
            a->tables.blocks + (size_t)a->sequences[a->plan.order[s.first]] * a->tables.stride;
        walk->block = from;
        walk->end =
            reads ? smaller(smaller(s.end_block, first + PIECE_BLOCKS), reading->end_block) : from;
    }
    return true;
}

// How much what was merged up to *largest keeps, and what is added gets; *largest grows.
struct merge {
    float kept, added;
};

static __device__ __forceinline__ struct merge merge_next(float *largest, float added)
{
    const float next = fmaxf(*largest, added);
    const struct merge out = {shrink_of(*largest, next), shrink_of(added, next)};
    *largest = next;
    return out;
}

static __device__ __forceinline__ float merged(struct merge m, float total, float added)
{
    return fmaf(added, m.added, total * m.kept);
}

#endif
