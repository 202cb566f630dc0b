// SPDX-License-Identifier: Apache-2.0
// XXH3 with 128 bits, seed 0 and the default secret, in plain C. Used where libxxhash is missing
// and checked against it where it is there.
#ifndef MEMO_BASE_XXH3_H
#define MEMO_BASE_XXH3_H

#include <stddef.h>
#include <stdint.h>

#define XXH3_BLOCK_BYTES 1024
#define XXH3_STRIPE_BYTES 64

struct xxh3 {
    uint64_t lanes[8];
    uint64_t total_bytes;
    size_t buffered;                     // bytes of block that were not mixed yet
    uint8_t previous[XXH3_STRIPE_BYTES]; // the end of the block mixed last
    uint8_t block[XXH3_BLOCK_BYTES];
};

void xxh3_init(struct xxh3 *state);
void xxh3_update(struct xxh3 *state, const void *bytes, size_t length);
void xxh3_finish(const struct xxh3 *state, uint8_t out[16]); // canonical, big-endian

#endif
