// SPDX-License-Identifier: Apache-2.0
// Storage formats. bfloat16 is the upper half of a float32; float16 is IEEE 754 binary16 with
// subnormals. Both are rounded to nearest, ties to even, by adding just under half a unit in the
// last kept place, plus one when that place is odd.
#include "kernels/device.h"

#include <assert.h>
#include <string.h>

size_t dtype_bytes(enum dtype dtype)
{
    return dtype == DTYPE_F32 ? 4 : 2;
}

const char *dtype_name(enum dtype dtype)
{
    switch (dtype) {
    case DTYPE_F32:
        return "f32";
    case DTYPE_BF16:
        return "bf16";
    case DTYPE_F16:
        return "f16";
    }
    return "unknown";
}

static uint32_t float_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float float_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

float bf16_to_f32(uint16_t bits)
{
    return float_of_bits((uint32_t)bits << 16);
}

uint16_t bf16_from_f32(float value)
{
    uint32_t bits = float_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x0040u); // NaN, made quiet: truncation could leave infinity
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

float f16_to_f32(uint16_t bits)
{
    uint32_t sign = (uint32_t)(bits & 0x8000u) << 16;
    uint32_t exponent = bits >> 10 & 0x1fu;
    uint32_t mantissa = bits & 0x3ffu;
    if (exponent == 0) { // zero or subnormal: mantissa * 2^-24
        float magnitude = (float)mantissa * 0x1p-24f;
        return sign ? -magnitude : magnitude;
    }
    if (exponent == 0x1fu)
        return float_of_bits(sign | 0x7f800000u | mantissa << 13);
    return float_of_bits(sign | (exponent + 112u) << 23 | mantissa << 13);
}

uint16_t f16_from_f32(float value)
{
    uint32_t bits = float_bits(value);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | (magnitude >> 13 & 0x3ffu));
    if (magnitude >= 0x477ff000u) // 65520, halfway between the largest float16 and 2^16
        return (uint16_t)(sign | 0x7c00u);
    if (magnitude < 0x38800000u) {
        // Below 2^-14: adding 0.5 puts the last place at 2^-24, and the addition itself rounds.
        uint32_t sum = float_bits(float_of_bits(magnitude) + 0.5f);
        return (uint16_t)(sign | (sum - 0x3f000000u));
    }
    uint32_t rounded = magnitude + 0xfffu + (magnitude >> 13 & 1u);
    return (uint16_t)(sign | (rounded - (112u << 23)) >> 13);
}

// Files place tensors at any byte.
static uint16_t load_half(const unsigned char *bytes)
{
    uint16_t half;
    memcpy(&half, bytes, sizeof half);
    return half;
}

void convert_to_f32(float *out, const void *in, enum dtype dtype, size_t count)
{
    const unsigned char *bytes = in;
    switch (dtype) {
    case DTYPE_F32:
        memmove(out, in, count * sizeof *out);
        return;
    case DTYPE_BF16:
        for (size_t i = 0; i < count; i++)
            out[i] = bf16_to_f32(load_half(bytes + 2 * i));
        return;
    case DTYPE_F16:
        for (size_t i = 0; i < count; i++)
            out[i] = f16_to_f32(load_half(bytes + 2 * i));
        return;
    }
    assert(!"dtype");
}

void convert_from_f32(void *out, enum dtype dtype, const float *in, size_t count)
{
    uint16_t *half = out;
    switch (dtype) {
    case DTYPE_F32:
        memmove(out, in, count * sizeof *in);
        return;
    case DTYPE_BF16:
        for (size_t i = 0; i < count; i++)
            half[i] = bf16_from_f32(in[i]);
        return;
    case DTYPE_F16:
        for (size_t i = 0; i < count; i++)
            half[i] = f16_from_f32(in[i]);
        return;
    }
    assert(!"dtype");
}
