// SPDX-License-Identifier: Apache-2.0
// Vectors of as many floats as the instruction set of this compilation holds: 16 (AVX-512), 8
// (AVX2) or 4 (plain). Written with the compiler's vector types, so that +, -, *, / and comparisons
// need no names; only what the language lacks is spelled in intrinsics. A type needs a typedef
// here, because the attribute that makes it a vector is not part of an expression.
#ifndef MEMO_KERNELS_CPU_SIMD_H
#define MEMO_KERNELS_CPU_SIMD_H

#include "kernels/device.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(VF_LANES)
// The tests ask for 16 lanes of processors that have 8, to cover the arithmetic of AVX-512
// anywhere.
#elif defined(__AVX512F__)
#define VF_LANES 16
#elif defined(__AVX2__)
#define VF_LANES 8
#else
#define VF_LANES 4
#endif

#if defined(__AVX2__)
#include <immintrin.h>
#endif

typedef float vf __attribute__((vector_size(VF_LANES * 4)));
typedef int32_t vi __attribute__((vector_size(VF_LANES * 4)));
typedef uint16_t vh __attribute__((vector_size(VF_LANES * 2)));

static inline vf vf_set(float value)
{
    return value - (vf){0};
}

static inline vf vf_load(const float *from)
{
    vf v;
    memcpy(&v, from, sizeof v);
    return v;
}

static inline void vf_store(float *to, vf v)
{
    memcpy(to, &v, sizeof v);
}

// The first `count` lanes; the others are 0 and not read.
static inline vf vf_load_part(const float *from, size_t count)
{
    vf v = {0};
    memcpy(&v, from, count * sizeof *from);
    return v;
}

static inline void vf_store_part(float *to, vf v, size_t count)
{
    memcpy(to, &v, count * sizeof *to);
}

// a * b + c, rounded once where the processor can.
static inline vf vf_fma(vf a, vf b, vf c)
{
#if VF_LANES == 16 && defined(__AVX512F__)
    return (vf)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif VF_LANES == 8 && defined(__FMA__)
    return (vf)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__FMA__)
    for (size_t i = 0; i < VF_LANES; i++)
        c[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return c;
#else
    return a * b + c;
#endif
}

static inline vf vf_select(vi mask, vf yes, vf no)
{
    return (vf)(((vi)yes & mask) | ((vi)no & ~mask));
}

static inline vf vf_max(vf a, vf b)
{
    return vf_select(a > b, a, b);
}

static inline vf vf_sqrt(vf v)
{
#if VF_LANES == 16 && defined(__AVX512F__)
    return (vf)_mm512_sqrt_ps((__m512)v);
#elif VF_LANES == 8 && defined(__AVX2__)
    return (vf)_mm256_sqrt_ps((__m256)v);
#else
    for (size_t i = 0; i < VF_LANES; i++)
        v[i] = __builtin_sqrtf(v[i]);
    return v;
#endif
}

// Lanes are added pairwise: a fixed tree.
static inline float vf_sum(vf v)
{
    float lanes[VF_LANES];
    memcpy(lanes, &v, sizeof lanes);
    for (size_t width = VF_LANES / 2; width > 0; width /= 2)
        for (size_t i = 0; i < width; i++)
            lanes[i] += lanes[i + width];
    return lanes[0];
}

static inline float vf_largest(vf v)
{
    float largest = v[0];
    for (size_t i = 1; i < VF_LANES; i++)
        largest = v[i] > largest ? v[i] : largest;
    return largest;
}

static inline vi vi_lanes(void)
{
    vi v;
    for (int32_t i = 0; i < VF_LANES; i++)
        v[i] = i;
    return v;
}

static inline vf vf_load_bf16(const uint16_t *from)
{
#if VF_LANES == 16 && defined(__AVX512F__)
    __m512i bits = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)from));
    return (vf)_mm512_slli_epi32(bits, 16);
#elif VF_LANES == 8 && defined(__AVX2__)
    __m256i bits = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)from));
    return (vf)_mm256_slli_epi32(bits, 16);
#else
    vh bits;
    memcpy(&bits, from, sizeof bits);
    return (vf)(__builtin_convertvector(bits, vi) << 16);
#endif
}

// VF_LANES elements starting at element i of an array of any dtype.
static inline vf vf_load_any(const void *from, enum dtype dtype, size_t i)
{
    if (dtype == DTYPE_F32)
        return vf_load((const float *)from + i);
    const uint16_t *half = (const uint16_t *)from + i;
    if (dtype == DTYPE_BF16)
        return vf_load_bf16(half);
#if VF_LANES == 16 && defined(__AVX512F__)
    return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const void *)half));
#elif VF_LANES == 8 && defined(__F16C__)
    return (vf)_mm256_cvtph_ps(_mm_loadu_si128((const void *)half));
#else
    vf v;
    for (size_t lane = 0; lane < VF_LANES; lane++)
        v[lane] = f16_to_f32(half[lane]);
    return v;
#endif
}

// Rounded to bfloat16, ties to even; NaN stays NaN. The instruction flushes subnormal numbers to 0,
// as the products below do.
static inline vh vf_to_bf16(vf v)
{
#if VF_LANES == 16 && defined(__AVX512BF16__)
    return (vh)_mm512_cvtneps_pbh((__m512)v);
#else
    vi bits = (vi)v;
    vi rounded = bits + 0x7fff + ((bits >> 16) & 1);
    vi quiet = bits | 0x400000;
    vi wide = ((vi)vf_select(v == v, (vf)rounded, (vf)quiet) >> 16) & 0xffff;
    return __builtin_convertvector(wide, vh);
#endif
}

// VF_LANES elements starting at element i of an array of float32 or bfloat16, as bfloat16.
static inline vh vh_load_any(const void *from, enum dtype dtype, size_t i)
{
    if (dtype == DTYPE_F32)
        return vf_to_bf16(vf_load((const float *)from + i));
    vh v;
    memcpy(&v, (const uint16_t *)from + i, sizeof v);
    return v;
}

// Pairs of bfloat16, the one of even k in the low half of each lane.
static inline vi vi_pairs(vh even, vh odd)
{
    return __builtin_convertvector(even, vi) | __builtin_convertvector(odd, vi) << 16;
}

// c + the dot product of pairs of bfloat16: fma(even a, even b, fma(odd a, odd b, c)), which is
// what VDPBF16PS computes (but for subnormal numbers, which it takes for 0).
static inline vf vf_dot(vi a, vi b, vf c)
{
#if VF_LANES == 16 && defined(__AVX512BF16__)
    return (vf)_mm512_dpbf16_ps((__m512)c, (__m512bh)a, (__m512bh)b);
#else
    const vi high = (vi){0} - 0x10000;
    c = vf_fma((vf)(a & high), (vf)(b & high), c);
    return vf_fma((vf)(a << 16), (vf)(b << 16), c);
#endif
}

static inline float load_any(const void *from, enum dtype dtype, size_t i)
{
    if (dtype == DTYPE_F32) {
        float value; // a pair of bfloat16 passes as one, and begins at any even address
        memcpy(&value, (const char *)from + i * sizeof value, sizeof value);
        return value;
    }
    uint16_t half = ((const uint16_t *)from)[i];
    return dtype == DTYPE_BF16 ? bf16_to_f32(half) : f16_to_f32(half);
}

static inline vf vf_load_any_part(const void *from, enum dtype dtype, size_t i, size_t count)
{
    vf v = {0};
    for (size_t lane = 0; lane < count; lane++)
        v[lane] = load_any(from, dtype, i + lane);
    return v;
}

// e^x. x = n ln 2 + r with |r| <= 0.347; e^r by its Taylor polynomial of degree 7, whose remainder
// r^8 / 8! e^r is below 1e-8; times 2^n. Error below 2 units in the last place (2.4e-7
// relative), 1.2e-7 typical. Below -87.33, where the result would be subnormal, it is 0;
// above 88.37 it stays at e^88.37; NaN stays NaN.
static inline vf vf_exp(vf x)
{
    const float high = 88.37f, low = -87.33f;
    const float magic = 0x1.8p23f; // adding it leaves a rounded integer in the low bits
    vf bounded = vf_select(x > high, vf_set(high), x);
    bounded = vf_select(bounded < low, vf_set(low), bounded);
    vf shifted = vf_fma(bounded, vf_set(1.44269504088896341f), vf_set(magic));
    vf n = shifted - magic;
    vf r = vf_fma(n, vf_set(-0x1.62ep-1f), bounded); // ln 2 in two parts, n * the first is exact
    r = vf_fma(n, vf_set(-0x1.0bfbe8p-15f), r);
    vf p = vf_set(1.0f / 5040);
    p = vf_fma(p, r, vf_set(1.0f / 720));
    p = vf_fma(p, r, vf_set(1.0f / 120));
    p = vf_fma(p, r, vf_set(1.0f / 24));
    p = vf_fma(p, r, vf_set(1.0f / 6));
    p = vf_fma(p, r, vf_set(0.5f));
    p = vf_fma(p, r, vf_set(1.0f));
    p = vf_fma(p, r, vf_set(1.0f));
    vf power = (vf)(((vi)shifted - 0x4b400000 + 127) << 23);
    return vf_select(x < low, vf_set(0), p * power);
}

#endif
