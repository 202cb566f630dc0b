// SPDX-License-Identifier: Apache-2.0
// The blocks of cached positions that a tile of rows reads, in the order of the plan, cut into
// pieces of PIECE_BLOCKS blocks at fixed positions.
#ifndef MEMO_KERNELS_CUDA_ATTENTION_WALK_H
#define MEMO_KERNELS_CUDA_ATTENTION_WALK_H

#include "kernels/cuda/cuda.h"

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
    return {reading->first_segment - 1, {0, 0, 0, 0}, reading->first_piece, -1, 0};
}

// Piece after piece, in each segment after segment. False: that was all.
static __device__ __forceinline__ bool walk_next(const struct attention_plan *plan,
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
        const struct attention_segment s = plan->segments[walk->at];
        walk->segment = s;
        const bool reads =
            s.first < reading->end_token && s.first + s.tokens > reading->first_token;
        const int from = larger(larger(s.first_block, first), reading->first_block);
        walk->block = from;
        walk->end =
            reads ? smaller(smaller(s.end_block, first + PIECE_BLOCKS), reading->end_block) : from;
    }
    return true;
}

#endif
