// SPDX-License-Identifier: Apache-2.0
// The additions of the collectives, element by element in rank order: IEEE addition does not
// associate, so the order of terms is part of the result. A piece of the sum is collected on the
// stack, where it may be wider than the elements are; it is rounded once, when it is stored.
#include "collectives/group_internal.h"

#include <string.h>

enum { PIECE_ELEMENTS = 1024 };

static size_t piece_count(size_t count, size_t at)
{
    return count - at < PIECE_ELEMENTS ? count - at : PIECE_ELEMENTS;
}

static const void *term_at(const void *terms, size_t stride, int rank, size_t bytes)
{
    return (const unsigned char *)terms + (size_t)rank * stride + bytes;
}

static void sum_f32(void *sum, const void *terms, size_t stride, int ranks, size_t count)
{
    float piece[PIECE_ELEMENTS];
    for (size_t at = 0; at < count; at += PIECE_ELEMENTS) {
        const size_t bytes = at * sizeof(*piece), elements = piece_count(count, at);
        memcpy(piece, term_at(terms, stride, 0, bytes), elements * sizeof(*piece));
        for (int r = 1; r < ranks; r++) {
            const float *term = term_at(terms, stride, r, bytes);
            for (size_t i = 0; i < elements; i++) {
                piece[i] += term[i];
            }
        }
        memcpy((unsigned char *)sum + bytes, piece, elements * sizeof(*piece));
    }
}

static void sum_f64(void *sum, const void *terms, size_t stride, int ranks, size_t count)
{
    double piece[PIECE_ELEMENTS];
    for (size_t at = 0; at < count; at += PIECE_ELEMENTS) {
        const size_t bytes = at * sizeof(*piece), elements = piece_count(count, at);
        memcpy(piece, term_at(terms, stride, 0, bytes), elements * sizeof(*piece));
        for (int r = 1; r < ranks; r++) {
            const double *term = term_at(terms, stride, r, bytes);
            for (size_t i = 0; i < elements; i++) {
                piece[i] += term[i];
            }
        }
        memcpy((unsigned char *)sum + bytes, piece, elements * sizeof(*piece));
    }
}

static void sum_i64(void *sum, const void *terms, size_t stride, int ranks, size_t count)
{
    uint64_t piece[PIECE_ELEMENTS]; // unsigned: overflow wraps instead of being undefined
    for (size_t at = 0; at < count; at += PIECE_ELEMENTS) {
        const size_t bytes = at * sizeof(*piece), elements = piece_count(count, at);
        memcpy(piece, term_at(terms, stride, 0, bytes), elements * sizeof(*piece));
        for (int r = 1; r < ranks; r++) {
            const uint64_t *term = term_at(terms, stride, r, bytes);
            for (size_t i = 0; i < elements; i++) {
                piece[i] += term[i];
            }
        }
        memcpy((unsigned char *)sum + bytes, piece, elements * sizeof(*piece));
    }
}

static float widen(uint16_t half)
{
    const uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

// To nearest, ties to even; NaN stays NaN.
static uint16_t narrow(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return (uint16_t)(bits >> 16 | 0x40u);
    }
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

static void sum_bf16(void *sum, const void *terms, size_t stride, int ranks, size_t count)
{
    float piece[PIECE_ELEMENTS];
    uint16_t *out = sum;
    for (size_t at = 0; at < count; at += PIECE_ELEMENTS) {
        const size_t bytes = at * sizeof(*out), elements = piece_count(count, at);
        for (int r = 0; r < ranks; r++) {
            const uint16_t *term = term_at(terms, stride, r, bytes);
            for (size_t i = 0; i < elements; i++) {
                piece[i] = r == 0 ? widen(term[i]) : piece[i] + widen(term[i]);
            }
        }
        for (size_t i = 0; i < elements; i++) {
            out[at + i] = narrow(piece[i]);
        }
    }
}

const struct group_element group_f32 = {sizeof(float), sum_f32};
const struct group_element group_f64 = {sizeof(double), sum_f64};
const struct group_element group_i64 = {sizeof(int64_t), sum_i64};
const struct group_element group_bf16 = {sizeof(uint16_t), sum_bf16};
