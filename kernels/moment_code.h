// SPDX-License-Identifier: Apache-2.0
// The 8-bit codes of AdamW's moments: numbers from 0 to 1 with more digits where they are larger,
// after the dynamic data type of Dettmers et al. 2022 (arXiv 2110.02861). A magnitude of n bits is
// e zeros, a one, and a fraction f of n - 1 - e bits:
//     value = 10^-e (0.1 + 0.9 (f + 1/2) / 2^(n - 1 - e)),
// but 0 is exactly 0 and the largest exactly 1. The second moment has n = 8; the first has a sign
// in the uppermost bit and n = 7. Rounding is to the nearest value, ties to the smaller one; a
// second moment above 0 never becomes 0, because the step divides by its root.
#ifndef MEMO_KERNELS_MOMENT_CODE_H
#define MEMO_KERNELS_MOMENT_CODE_H

#include "kernels/device.h"

#include <stdbool.h>
#include <stdint.h>

// A number's code is found without a search: the upper bits of a float32 of at most 1 name a cell
// that is narrower than the distance of two codes, so that its numbers have the code of its lower
// end or the next one, which begins above middles[].
enum {
    MOMENT_CELL_SHIFT = 23 - 7,                          // seven bits of the fraction
    MOMENT_CELL_FIRST = (127 - 26) << 7,                 // of 2^-26; whatever is smaller has code 0
    MOMENT_CELLS = ((127 << 7) - MOMENT_CELL_FIRST) + 1, // up to that of 1
};

struct moment_code {
    float values[256];  // of every code, with its sign
    float middles[256]; // between the magnitude and the next one; behind the last infinity
    uint8_t cells[MOMENT_CELLS + 3]; // magnitude of the lower end; a multiple of 4 bytes
    int magnitudes;                  // codes of one sign: 128 or 256
    bool keeps_above_zero;
};

const struct moment_code *moment_code_first(void); // the tables are made once
const struct moment_code *moment_code_second(void);

// The code of x, |x| at most 1, as the definition says it.
uint8_t moment_encode(const struct moment_code *code, float x);

// Of the stochastic rounding of an element in a step: a hash of both, with the finaliser of
// lowbias32 (Wellons 2018).
HOST_DEVICE static inline uint32_t moment_random(uint64_t element, int64_t step)
{
    uint32_t x = (uint32_t)element * 0x9e3779b1u ^ (uint32_t)step * 0x85ebca6bu;
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

#endif
