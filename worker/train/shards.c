// SPDX-License-Identifier: Apache-2.0
#include "worker/train/shards.h"

#include <assert.h>

static uint64_t divide_up(uint64_t a, uint64_t b)
{
    return a / b + (a % b != 0);
}

struct shards shards_make(uint64_t elements, int rank, int ranks)
{
    assert(elements > 0 && rank >= 0 && rank < ranks);
    struct shards shards = {.elements = elements, .cut = SHARD_CUT_LEAST};
    shards.rank = rank;
    shards.ranks = ranks;
    while (shards.cut < elements / 8192)
        shards.cut *= 2;
    const uint64_t share = divide_up(elements, (uint64_t)ranks);
    const uint64_t least = divide_up(share, SHARD_UNIT_ELEMENTS);
    shards.unit = divide_up(divide_up(share, least), shards.cut) * shards.cut;
    shards.buckets = (size_t)divide_up(elements, shards.unit * (uint64_t)ranks);
    return shards;
}

static struct range range_within(uint64_t begin, uint64_t count, uint64_t elements)
{
    if (begin > elements)
        begin = elements;
    return (struct range){begin, count < elements - begin ? begin + count : elements};
}

struct range shards_bucket(const struct shards *shards, size_t bucket)
{
    const uint64_t count = shards->unit * (uint64_t)shards->ranks;
    return range_within(bucket * count, count, shards->elements);
}

struct range shards_unit(const struct shards *shards, size_t bucket, int rank)
{
    const uint64_t number = bucket * (uint64_t)shards->ranks + (uint64_t)rank;
    return range_within(number * shards->unit, shards->unit, shards->elements);
}

uint64_t shards_padded_elements(const struct shards *shards)
{
    return shards->buckets * (uint64_t)shards->ranks * shards->unit;
}
