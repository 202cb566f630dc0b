// SPDX-License-Identifier: Apache-2.0
// The step of adamw.c on numbers that are stored in fewer bits: read them, compute, store them.
//
// The second moment in bfloat16 is rounded up with the probability of what is cut off: 16 random
// bits are added to the lower 16 bits, which are then cut.
#include "kernels/moment_code.h"
#include "kernels/ref/ref.h"

#include <math.h>
#include <string.h>

static double load_moment(const void *values, enum moment_kind kind, const struct moment_code *code,
                          float scale, size_t i)
{
    if (kind == MOMENTS_F32)
        return ((const float *)values)[i];
    if (kind == MOMENTS_BF16)
        return bf16_to_f32(((const uint16_t *)values)[i]);
    return (double)code->values[((const uint8_t *)values)[i]] * scale;
}

static uint16_t bf16_stochastic(float value, uint32_t random)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)((bits + (random & 0xffffu)) >> 16);
}

static double load_master(const struct adamw_compact *a, size_t i)
{
    if (!a->remainder)
        return ((const float *)a->parameter.data)[i];
    uint32_t bits = master_bits(((const uint16_t *)a->parameter.data)[i], a->remainder[i]);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void store_master(const struct adamw_compact *a, size_t i, float value)
{
    if (!a->remainder) {
        ((float *)a->parameter.data)[i] = value;
        return;
    }
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    ((uint16_t *)a->parameter.data)[i] = master_upper(bits);
    a->remainder[i] = master_remainder(bits);
}

static float largest(const float *x, size_t count)
{
    float result = 0;
    for (size_t i = 0; i < count; i++)
        result = fmaxf(result, fabsf(x[i]));
    return result;
}

static void store_codes(uint8_t *codes, float *scale, const struct moment_code *code,
                        const float *x, size_t count)
{
    *scale = largest(x, count);
    for (size_t i = 0; i < count; i++)
        codes[i] = moment_encode(code, *scale > 0 ? x[i] / *scale : 0);
}

// Elements begin..begin + count, which lie in one block of scales.
static void step_block(const struct adamw_compact *a, size_t block, size_t begin, size_t count)
{
    float m_new[MOMENT_BLOCK], v_new[MOMENT_BLOCK];
    bool coded = a->moments == MOMENTS_8BIT;
    float scale1 = coded ? a->scale1[block] : 0, scale2 = coded ? a->scale2[block] : 0;
    double rate = a->learning_rate / (1 - pow(a->beta1, (double)a->step));
    double root = sqrt(1 - pow(a->beta2, (double)a->step));
    for (size_t j = 0; j < count; j++) {
        size_t i = begin + j;
        double g = load(a->grad, i) * a->grad_scale;
        double m = load_moment(a->moment1, a->moments, moment_code_first(), scale1, i);
        double v = load_moment(a->moment2, a->moments, moment_code_second(), scale2, i);
        m += (g - m) * (1 - (double)a->beta1);
        v = a->beta2 * v + (1 - (double)a->beta2) * g * g;
        double p = load_master(a, i) * (1 - (double)a->learning_rate * a->weight_decay);
        store_master(a, i, (float)(p - rate * m / (sqrt(v) / root + a->epsilon)));
        m_new[j] = (float)m;
        v_new[j] = (float)v;
    }
    if (coded) {
        store_codes((uint8_t *)a->moment1 + begin, &a->scale1[block], moment_code_first(), m_new,
                    count);
        store_codes((uint8_t *)a->moment2 + begin, &a->scale2[block], moment_code_second(), v_new,
                    count);
    }
    for (size_t j = 0; j < count; j++) {
        size_t i = begin + j;
        if (a->moments == MOMENTS_F32) {
            ((float *)a->moment1)[i] = m_new[j];
            ((float *)a->moment2)[i] = v_new[j];
        } else if (a->moments == MOMENTS_BF16) {
            ((uint16_t *)a->moment1)[i] = bf16_from_f32(m_new[j]);
            ((uint16_t *)a->moment2)[i] =
                bf16_stochastic(v_new[j], moment_random(a->first + i, a->step));
        }
    }
}

void ref_adamw_compact(struct device *device, const struct adamw_compact *a)
{
    (void)device;
    size_t block = 0;
    for (size_t begin = 0; begin < a->count; block++) {
        size_t room = MOMENT_BLOCK - (size_t)((a->first + begin) % MOMENT_BLOCK);
        size_t left = a->count - begin, count = room < left ? room : left;
        step_block(a, block, begin, count);
        begin += count;
    }
}
