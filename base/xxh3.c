// SPDX-License-Identifier: Apache-2.0
// XXH3-128 after its published specification (doc/xxhash_spec.md of xxHash, version 0.2.0).
//
// Up to 240 bytes each length class has a formula of its own. Longer input is cut into stripes of
// 64 bytes; a stripe is mixed into eight 64-bit lanes with a window of the secret that moves by 8
// bytes per stripe; after 16 stripes, a block, the lanes are scrambled. The last 64 bytes of the
// input are always mixed once more as the last stripe, whatever blocks they lie in, so the last
// block must stay buffered until the end is known.
#include "base/xxh3.h"

#include <string.h>

#define STRIPES_PER_BLOCK (XXH3_BLOCK_BYTES / XXH3_STRIPE_BYTES)
#define MIDDLE_MAX 240 // longest input that is hashed without lanes

static const uint64_t PRIME32_1 = 0x9E3779B1, PRIME32_2 = 0x85EBCA77, PRIME32_3 = 0xC2B2AE3D;
static const uint64_t PRIME64_1 = 0x9E3779B185EBCA87, PRIME64_2 = 0xC2B2AE3D27D4EB4F;
static const uint64_t PRIME64_3 = 0x165667B19E3779F9, PRIME64_4 = 0x85EBCA77C2B2AE63;
static const uint64_t PRIME64_5 = 0x27D4EB2F165667C5;
static const uint64_t PRIME_MX1 = 0x165667919E3779F9, PRIME_MX2 = 0x9FB21C651E98DF25;

static const uint8_t secret[192] = {
    0xb8, 0xfe, 0x6c, 0x39, 0x23, 0xa4, 0x4b, 0xbe, 0x7c, 0x01, 0x81, 0x2c, 0xf7, 0x21, 0xad, 0x1c,
    0xde, 0xd4, 0x6d, 0xe9, 0x83, 0x90, 0x97, 0xdb, 0x72, 0x40, 0xa4, 0xa4, 0xb7, 0xb3, 0x67, 0x1f,
    0xcb, 0x79, 0xe6, 0x4e, 0xcc, 0xc0, 0xe5, 0x78, 0x82, 0x5a, 0xd0, 0x7d, 0xcc, 0xff, 0x72, 0x21,
    0xb8, 0x08, 0x46, 0x74, 0xf7, 0x43, 0x24, 0x8e, 0xe0, 0x35, 0x90, 0xe6, 0x81, 0x3a, 0x26, 0x4c,
    0x3c, 0x28, 0x52, 0xbb, 0x91, 0xc3, 0x00, 0xcb, 0x88, 0xd0, 0x65, 0x8b, 0x1b, 0x53, 0x2e, 0xa3,
    0x71, 0x64, 0x48, 0x97, 0xa2, 0x0d, 0xf9, 0x4e, 0x38, 0x19, 0xef, 0x46, 0xa9, 0xde, 0xac, 0xd8,
    0xa8, 0xfa, 0x76, 0x3f, 0xe3, 0x9c, 0x34, 0x3f, 0xf9, 0xdc, 0xbb, 0xc7, 0xc7, 0x0b, 0x4f, 0x1d,
    0x8a, 0x51, 0xe0, 0x4b, 0xcd, 0xb4, 0x59, 0x31, 0xc8, 0x9f, 0x7e, 0xc9, 0xd9, 0x78, 0x73, 0x64,
    0xea, 0xc5, 0xac, 0x83, 0x34, 0xd3, 0xeb, 0xc3, 0xc5, 0x81, 0xa0, 0xff, 0xfa, 0x13, 0x63, 0xeb,
    0x17, 0x0d, 0xdd, 0x51, 0xb7, 0xf0, 0xda, 0x49, 0xd3, 0x16, 0x55, 0x26, 0x29, 0xd4, 0x68, 0x9e,
    0x2b, 0x16, 0xbe, 0x58, 0x7d, 0x47, 0xa1, 0xfc, 0x8f, 0xf8, 0xb8, 0xd1, 0x7a, 0xd0, 0x31, 0xce,
    0x45, 0xcb, 0x3a, 0x8f, 0x95, 0x16, 0x04, 0x28, 0xaf, 0xd7, 0xfb, 0xca, 0xbb, 0x4b, 0x40, 0x7e,
};

struct uint128 {
    uint64_t low, high;
};

static uint32_t read32(const uint8_t *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static uint64_t read64(const uint8_t *at)
{
    return read32(at) | (uint64_t)read32(at + 4) << 32;
}

static struct uint128 multiply(uint64_t a, uint64_t b)
{
    unsigned __int128 product = (unsigned __int128)a * b;
    return (struct uint128){(uint64_t)product, (uint64_t)(product >> 64)};
}

static uint64_t multiply_fold(uint64_t a, uint64_t b)
{
    struct uint128 product = multiply(a, b);
    return product.low ^ product.high;
}

static uint64_t avalanche(uint64_t h)
{
    h ^= h >> 37;
    h *= PRIME_MX1;
    return h ^ h >> 32;
}

static uint64_t avalanche_xxh64(uint64_t h)
{
    h ^= h >> 33;
    h *= PRIME64_2;
    h ^= h >> 29;
    h *= PRIME64_3;
    return h ^ h >> 32;
}

static struct uint128 hash_0(void)
{
    return (struct uint128){avalanche_xxh64(read64(secret + 64) ^ read64(secret + 72)),
                            avalanche_xxh64(read64(secret + 80) ^ read64(secret + 88))};
}

static struct uint128 hash_1_to_3(const uint8_t *in, size_t length)
{
    uint32_t low = (uint32_t)in[length - 1] | (uint32_t)length << 8 | (uint32_t)in[0] << 16 |
                   (uint32_t)in[length >> 1] << 24;
    uint32_t swapped = __builtin_bswap32(low);
    uint32_t high = swapped << 13 | swapped >> 19;
    return (struct uint128){
        avalanche_xxh64(low ^ (uint64_t)(read32(secret) ^ read32(secret + 4))),
        avalanche_xxh64(high ^ (uint64_t)(read32(secret + 8) ^ read32(secret + 12)))};
}

static struct uint128 hash_4_to_8(const uint8_t *in, size_t length)
{
    uint64_t both = read32(in) | (uint64_t)read32(in + length - 4) << 32;
    uint64_t keyed = both ^ read64(secret + 16) ^ read64(secret + 24);
    struct uint128 h = multiply(keyed, PRIME64_1 + ((uint64_t)length << 2));
    h.high += h.low << 1;
    h.low ^= h.high >> 3;
    h.low ^= h.low >> 35;
    h.low *= PRIME_MX2;
    h.low ^= h.low >> 28;
    h.high = avalanche(h.high);
    return h;
}

static struct uint128 hash_9_to_16(const uint8_t *in, size_t length)
{
    uint64_t flip_low = read64(secret + 32) ^ read64(secret + 40);
    uint64_t flip_high = read64(secret + 48) ^ read64(secret + 56);
    uint64_t first = read64(in), last = read64(in + length - 8);
    struct uint128 m = multiply(first ^ last ^ flip_low, PRIME64_1);
    m.low += (uint64_t)(length - 1) << 54;
    last ^= flip_high;
    m.high += last + (last & 0xFFFFFFFF) * (PRIME32_2 - 1);
    m.low ^= __builtin_bswap64(m.high);
    struct uint128 h = multiply(m.low, PRIME64_2);
    h.high += m.high * PRIME64_2;
    return (struct uint128){avalanche(h.low), avalanche(h.high)};
}

static uint64_t mix16(const uint8_t *in, const uint8_t *key)
{
    return multiply_fold(read64(in) ^ read64(key), read64(in + 8) ^ read64(key + 8));
}

// Mixes 16 bytes at a and 16 bytes at b.
static void mix32(struct uint128 *acc, const uint8_t *a, const uint8_t *b, const uint8_t *key)
{
    acc->low = (acc->low + mix16(a, key)) ^ (read64(b) + read64(b + 8));
    acc->high = (acc->high + mix16(b, key + 16)) ^ (read64(a) + read64(a + 8));
}

static struct uint128 finish_middle(struct uint128 acc, size_t length)
{
    uint64_t high = acc.low * PRIME64_1 + acc.high * PRIME64_4 + length * PRIME64_2;
    return (struct uint128){avalanche(acc.low + acc.high), 0 - avalanche(high)};
}

// Pairs of 16 bytes from both ends, the innermost first.
static struct uint128 hash_17_to_128(const uint8_t *in, size_t length)
{
    struct uint128 acc = {length * PRIME64_1, 0};
    for (size_t pair = (length - 1) / 32 + 1; pair-- > 0;)
        mix32(&acc, in + 16 * pair, in + length - 16 * (pair + 1), secret + 32 * pair);
    return finish_middle(acc, length);
}

static struct uint128 hash_129_to_240(const uint8_t *in, size_t length)
{
    struct uint128 acc = {length * PRIME64_1, 0};
    for (size_t i = 0; i < 4; i++)
        mix32(&acc, in + 32 * i, in + 32 * i + 16, secret + 32 * i);
    acc = (struct uint128){avalanche(acc.low), avalanche(acc.high)};
    for (size_t i = 4; i < length / 32; i++)
        mix32(&acc, in + 32 * i, in + 32 * i + 16, secret + 3 + 32 * (i - 4));
    mix32(&acc, in + length - 16, in + length - 32, secret + 103);
    return finish_middle(acc, length);
}

static struct uint128 hash_short(const uint8_t *in, size_t length)
{
    if (length == 0)
        return hash_0();
    if (length <= 3)
        return hash_1_to_3(in, length);
    if (length <= 8)
        return hash_4_to_8(in, length);
    if (length <= 16)
        return hash_9_to_16(in, length);
    if (length <= 128)
        return hash_17_to_128(in, length);
    return hash_129_to_240(in, length);
}

static void mix_stripe(uint64_t lanes[8], const uint8_t *stripe, const uint8_t *key)
{
    for (size_t i = 0; i < 8; i++) {
        uint64_t data = read64(stripe + 8 * i);
        uint64_t keyed = data ^ read64(key + 8 * i);
        lanes[i ^ 1] += data;
        lanes[i] += (keyed & 0xFFFFFFFF) * (keyed >> 32);
    }
}

static void mix_stripes(uint64_t lanes[8], const uint8_t *block, size_t count)
{
    for (size_t i = 0; i < count; i++)
        mix_stripe(lanes, block + XXH3_STRIPE_BYTES * i, secret + 8 * i);
}

static void mix_block(struct xxh3 *state, const uint8_t *block)
{
    mix_stripes(state->lanes, block, STRIPES_PER_BLOCK);
    const uint8_t *key = secret + sizeof(secret) - XXH3_STRIPE_BYTES;
    for (size_t i = 0; i < 8; i++) {
        uint64_t lane = state->lanes[i];
        state->lanes[i] = (lane ^ lane >> 47 ^ read64(key + 8 * i)) * PRIME32_1;
    }
    memcpy(state->previous, block + XXH3_BLOCK_BYTES - XXH3_STRIPE_BYTES, XXH3_STRIPE_BYTES);
}

static uint64_t merge_lanes(const uint64_t lanes[8], const uint8_t *key, uint64_t start)
{
    uint64_t sum = start;
    for (size_t i = 0; i < 4; i++)
        sum += multiply_fold(lanes[2 * i] ^ read64(key + 16 * i),
                             lanes[2 * i + 1] ^ read64(key + 16 * i + 8));
    return avalanche(sum);
}

// The buffered block holds 1 to 1024 bytes; its last stripe may begin in the block before.
static struct uint128 hash_long(const struct xxh3 *state)
{
    uint64_t lanes[8];
    memcpy(lanes, state->lanes, sizeof(lanes));
    mix_stripes(lanes, state->block, (state->buffered - 1) / XXH3_STRIPE_BYTES);

    uint8_t last[XXH3_STRIPE_BYTES];
    size_t from_block = state->buffered < sizeof(last) ? state->buffered : sizeof(last);
    size_t from_previous = sizeof(last) - from_block;
    memcpy(last, state->previous + from_block, from_previous);
    memcpy(last + from_previous, state->block + state->buffered - from_block, from_block);
    mix_stripe(lanes, last, secret + sizeof(secret) - XXH3_STRIPE_BYTES - 7);

    const uint8_t *high_key = secret + sizeof(secret) - XXH3_STRIPE_BYTES - 11;
    return (struct uint128){merge_lanes(lanes, secret + 11, state->total_bytes * PRIME64_1),
                            merge_lanes(lanes, high_key, ~(state->total_bytes * PRIME64_2))};
}

void xxh3_init(struct xxh3 *state)
{
    *state = (struct xxh3){.lanes = {PRIME32_3, PRIME64_1, PRIME64_2, PRIME64_3, PRIME64_4,
                                     PRIME32_2, PRIME64_5, PRIME32_1}};
}

void xxh3_update(struct xxh3 *state, const void *bytes, size_t length)
{
    const uint8_t *at = bytes;
    state->total_bytes += length;
    while (length > 0) {
        if (state->buffered == XXH3_BLOCK_BYTES) { // more follows, so this is not the last block
            mix_block(state, state->block);
            state->buffered = 0;
        }
        size_t room = XXH3_BLOCK_BYTES - state->buffered;
        size_t taken = length < room ? length : room;
        memcpy(state->block + state->buffered, at, taken);
        state->buffered += taken;
        at += taken;
        length -= taken;
    }
}

void xxh3_finish(const struct xxh3 *state, uint8_t out[16])
{
    struct uint128 hash = state->total_bytes <= MIDDLE_MAX
                              ? hash_short(state->block, (size_t)state->total_bytes)
                              : hash_long(state);
    for (int i = 0; i < 8; i++) {
        out[i] = (uint8_t)(hash.high >> (56 - 8 * i));
        out[8 + i] = (uint8_t)(hash.low >> (56 - 8 * i));
    }
}
