// SPDX-License-Identifier: Apache-2.0
// Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3",
// SC 2011): ten rounds of two 32x32-bit products turn a 128-bit counter into 128 random bits under
// a 64-bit key. Here the key is the seed and the counter is {counter, stream}, low words first. It
// needs no 64-bit product, so a GPU repeats it bit for bit.
#include "base/random.h"

#include <assert.h>
#include <math.h>

struct philox_block {
    uint32_t words[4];
};

static struct philox_block philox(uint64_t seed, uint64_t stream, uint64_t counter)
{
    uint32_t c0 = (uint32_t)counter, c1 = (uint32_t)(counter >> 32);
    uint32_t c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)0xD2511F53 * c0;
        uint64_t b = (uint64_t)0xCD9E8D57 * c2;
        c0 = (uint32_t)(b >> 32) ^ c1 ^ k0;
        c2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)b;
        c3 = (uint32_t)a;
        k0 += 0x9E3779B9;
        k1 += 0xBB67AE85;
    }
    return (struct philox_block){{c0, c1, c2, c3}};
}

static uint64_t join_words(uint32_t low, uint32_t high)
{
    return (uint64_t)high << 32 | low;
}

uint64_t random_u64(uint64_t seed, uint64_t stream, uint64_t counter)
{
    struct philox_block block = philox(seed, stream, counter);
    return join_words(block.words[0], block.words[1]);
}

void random_words(uint64_t seed, uint64_t stream, uint64_t counter, uint32_t out[4])
{
    const struct philox_block block = philox(seed, stream, counter);
    for (int i = 0; i < 4; i++)
        out[i] = block.words[i];
}

double random_uniform(uint64_t seed, uint64_t stream, uint64_t counter)
{
    return (double)(random_u64(seed, stream, counter) >> 11) * 0x1p-53;
}

// Box and Muller 1958, the cosine branch: both uniforms come from one block.
double random_normal(uint64_t seed, uint64_t stream, uint64_t counter)
{
    struct philox_block block = philox(seed, stream, counter);
    uint64_t a = join_words(block.words[0], block.words[1]);
    uint64_t b = join_words(block.words[2], block.words[3]);
    double radius_uniform = (double)((a >> 11) + 1) * 0x1p-53; // (0, 1]: its logarithm exists
    double angle_uniform = (double)(b >> 11) * 0x1p-53;
    return sqrt(-2.0 * log(radius_uniform)) * cos(2.0 * 3.14159265358979323846 * angle_uniform);
}

// A draw below `bound` is the high word of a 64x64-bit product; its bias, bound / 2^64, is below
// 2^-32, so nothing is rejected and element i always uses counter i.
void random_permutation(uint64_t seed, uint64_t stream, uint32_t *out, size_t count)
{
    assert((uint64_t)count <= (uint64_t)UINT32_MAX + 1);
    for (size_t i = 0; i < count; i++)
        out[i] = (uint32_t)i;
    for (size_t i = count; i > 1; i--) {
        uint64_t draw = random_u64(seed, stream, i - 1);
        size_t j = (size_t)(((unsigned __int128)draw * i) >> 64);
        uint32_t kept = out[i - 1];
        out[i - 1] = out[j];
        out[j] = kept;
    }
}
