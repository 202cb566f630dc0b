// SPDX-License-Identifier: Apache-2.0
// How the elements of a model are divided: into buckets that are reduced one by one, each made of
// one unit per rank. Rank r owns unit r of every bucket; the last bucket may be incomplete.
//
//     bucket 0                        bucket 1
//     [rank 0 | rank 1 | rank 2]      [rank 0 | rank 1 | rank 2]      ...
//
// Units begin at multiples of the cut, which depends on the model alone: what is computed cut by
// cut, as the sum of squares, has the same bits for any number of ranks.
#ifndef MEMO_WORKER_TRAIN_SHARDS_H
#define MEMO_WORKER_TRAIN_SHARDS_H

#include <stddef.h>
#include <stdint.h>

#define SHARD_CUT_LEAST 4096          // elements
#define SHARD_UNIT_ELEMENTS (1 << 22) // at most, unless the cut is larger: 16 MiB of gradients

// Elements begin..end.
struct range {
    uint64_t begin, end;
};

static inline uint64_t range_count(struct range range)
{
    return range.end - range.begin;
}

struct shards {
    uint64_t elements;
    uint64_t cut;  // a power of two, at least SHARD_CUT_LEAST, about elements / 8192
    uint64_t unit; // elements of a whole unit, a multiple of the cut
    int rank, ranks;
    size_t buckets;
};

struct shards shards_make(uint64_t elements, int rank, int ranks);
struct range shards_bucket(const struct shards *shards, size_t bucket);
// May be empty in the last bucket.
struct range shards_unit(const struct shards *shards, size_t bucket, int rank);
// Of all buckets as if the last were complete.
uint64_t shards_padded_elements(const struct shards *shards);

#endif
