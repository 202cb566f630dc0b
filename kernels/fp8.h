// SPDX-License-Identifier: Apache-2.0
// Eight-bit floating point E4M3 (Micikevicius et al. 2022; the Open Compute Project's OFP8): a
// sign, four bits of exponent with bias 7, three of mantissa; no infinity, the largest is 448, all
// ones is not a number. Rounded to nearest, ties to even.
#ifndef MEMO_KERNELS_FP8_H
#define MEMO_KERNELS_FP8_H

#include "kernels/device.h"

#include <string.h>

#define FP8_LARGEST 448.0f

HOST_DEVICE static inline uint8_t fp8_encode(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    const uint8_t sign = (uint8_t)(bits >> 24 & 0x80);
    bits &= 0x7fffffff;
    if (bits > 0x7f800000)
        return sign | 0x7f;
    if (bits >= 0x43e00000) // 448
        return sign | 0x7e;
    if (bits < 0x3c800000) { // 2^-6: below it steps of 2^-9
        float small;
        memcpy(&small, &bits, sizeof small);
        small = small * 512 + 0x1p23f; // rounds to an integer, in the low bits
        memcpy(&bits, &small, sizeof bits);
        return sign | (uint8_t)(bits & 0xf);
    }
    bits += 0x7ffff + (bits >> 20 & 1);
    const uint32_t code = (bits >> 20) - (120 << 3); // exponents are 120 apart
    return sign | (uint8_t)(code < 0x7e ? code : 0x7e);
}

HOST_DEVICE static inline float fp8_decode(uint8_t code)
{
    const int exponent = code >> 3 & 0xf, mantissa = code & 7;
    float value = (float)mantissa * 0x1p-9f;
    if (exponent > 0) {
        const uint32_t bits = (uint32_t)(exponent + 120) << 23 | (uint32_t)mantissa << 20;
        memcpy(&value, &bits, sizeof value);
    }
    if ((code & 0x7f) == 0x7f) {
        const uint32_t bits = 0x7fc00000;
        memcpy(&value, &bits, sizeof value);
    }
    return code & 0x80 ? -value : value;
}

#endif
