// SPDX-License-Identifier: Apache-2.0
// Counter-based random numbers: value i of stream (seed, stream) is a pure function, so that any
// rank can compute any element without drawing those before it.
#ifndef MEMO_BASE_RANDOM_H
#define MEMO_BASE_RANDOM_H

#include <stddef.h>
#include <stdint.h>

uint64_t random_u64(uint64_t seed, uint64_t stream, uint64_t counter);
double random_uniform(uint64_t seed, uint64_t stream, uint64_t counter); // [0, 1)
double random_normal(uint64_t seed, uint64_t stream, uint64_t counter);  // mean 0, variance 1

// The whole block of 128 bits at `counter`; random_u64 is its first two words, low word first.
void random_words(uint64_t seed, uint64_t stream, uint64_t counter, uint32_t out[4]);

// Fisher-Yates: out becomes a permutation of 0..count-1.
void random_permutation(uint64_t seed, uint64_t stream, uint32_t *out, size_t count);

#endif
