// SPDX-License-Identifier: Apache-2.0
#include "harness.h"

#include "kernels/moment_code.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const size_t counts[] = {1, 31, 33, 255, 1000, 0, 40000};

enum { COUNTS = sizeof counts / sizeof counts[0], STEPS = 4, LARGEST = 40000, FIRST = 100 };

static const char *const kinds[] = {"f32", "bf16", "8 bits"};

// Everything that a step changes. Blocks are as large as the largest count.
struct state {
    float *parameter;
    uint16_t *upper;
    int16_t *remainder;
    void *moment1, *moment2;
    float *scale1, *scale2;
};

static void *zeros(size_t element)
{
    return memset(devices_memory(LARGEST * element), 0, LARGEST * element);
}

static struct state state_make(const float *parameter, size_t count)
{
    struct state s = {
        .parameter = zeros(sizeof(float)),
        .upper = zeros(sizeof(uint16_t)),
        .remainder = zeros(sizeof(int16_t)),
        .moment1 = zeros(sizeof(float)),
        .moment2 = zeros(sizeof(float)),
        .scale1 = zeros(sizeof(float)),
        .scale2 = zeros(sizeof(float)),
    };
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &parameter[i], sizeof bits);
        s.parameter[i] = parameter[i];
        s.upper[i] = master_upper(bits);
        s.remainder[i] = master_remainder(bits);
    }
    return s;
}

static void state_release(struct state *s)
{
    devices_free(s->parameter);
    devices_free(s->upper);
    devices_free(s->remainder);
    devices_free(s->moment1);
    devices_free(s->moment2);
    devices_free(s->scale1);
    devices_free(s->scale2);
}

static float master_at(const struct state *s, size_t i)
{
    uint32_t bits = master_bits(s->upper[i], s->remainder[i]);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static struct adamw_compact compact_step(const struct state *s, enum moment_kind moments,
                                         bool halves, const float *grad, size_t count, int64_t step)
{
    return (struct adamw_compact){
        .parameter = halves ? (struct tensor){s->upper, DTYPE_BF16} : f32(s->parameter),
        .remainder = halves ? s->remainder : NULL,
        .moments = moments,
        .moment1 = s->moment1,
        .moment2 = s->moment2,
        .scale1 = s->scale1,
        .scale2 = s->scale2,
        .first = FIRST,
        .grad = {(void *)(uintptr_t)grad, DTYPE_F32},
        .count = count,
        .grad_scale = 0.5f,
        .learning_rate = 1e-2f,
        .beta1 = 0.9f,
        .beta2 = 0.999f,
        .epsilon = 1e-8f,
        .weight_decay = 0.1f,
        .step = step,
    };
}

static void the_two_halves_are_the_whole(void **state)
{
    (void)state;
    static const uint32_t edges[] = {0,          0x80000000, 0x3f800000, 0x3f807fff, 0x3f808000,
                                     0x3f808001, 0xbf808000, 0x00000001, 0x807fffff, 0x7f7fffff,
                                     0x7f800000, 0xff800000, 0x7fc00001, 0xffffffff};
    for (size_t i = 0; i < sizeof edges / sizeof edges[0]; i++)
        assert_int_equal(master_bits(master_upper(edges[i]), master_remainder(edges[i])), edges[i]);
    for (uint32_t bits = 12345, i = 0; i < 100000; i++, bits = bits * 1664525u + 1013904223u)
        assert_int_equal(master_bits(master_upper(bits), master_remainder(bits)), bits);
    assert_int_equal(master_upper(0x3f807fff), 0x3f80);
    assert_int_equal(master_upper(0x3f808000), 0x3f81); // a tie goes away from zero
    assert_int_equal(master_upper(0xbf808000), 0xbf81);
    assert_int_equal(master_remainder(0x3f808000), -0x8000);
}

static void codes_ascend_and_round_to_the_nearest(void **state)
{
    (void)state;
    const struct moment_code *codes[] = {moment_code_first(), moment_code_second()};
    for (int c = 0; c < 2; c++) {
        const struct moment_code *code = codes[c];
        assert_true(code->values[0] == 0);
        assert_true(code->values[code->magnitudes - 1] == 1);
        for (int i = 0; i + 1 < code->magnitudes; i++) {
            assert_true(code->values[i] < code->values[i + 1]);
            const float middle = 0.5f * (code->values[i] + code->values[i + 1]);
            const int lower = i == 0 && code->keeps_above_zero ? 1 : i;
            assert_int_equal(moment_encode(code, code->values[i]), i);
            assert_int_equal(moment_encode(code, middle), lower);
            assert_int_equal(moment_encode(code, nextafterf(middle, 2)), i + 1);
        }
    }
    assert_int_equal(moment_encode(codes[0], -1), 255);
    assert_int_equal(moment_encode(codes[0], 1e-30f), 0);
    assert_int_equal(moment_encode(codes[1], 1e-30f), 1); // a second moment does not vanish
    assert_int_equal(moment_encode(codes[1], 0), 0);
}

static void assert_same_as_adamw(struct device *device, size_t count, bool halves)
{
    struct test_memory memory = {.stream = count};
    float *parameter = memory_random(&memory, count);
    float *moment1 = zeros(sizeof(float)), *moment2 = zeros(sizeof(float));
    struct state s = state_make(parameter, count);
    for (int64_t step = 1; step <= STEPS; step++) {
        float *grad = memory_random(&memory, count);
        struct adamw_compact compact = compact_step(&s, MOMENTS_F32, halves, grad, count, step);
        device->ops->adamw_compact(device, &compact);
        device->ops->adamw(device, &(struct adamw){.parameter = parameter,
                                                   .moment1 = moment1,
                                                   .moment2 = moment2,
                                                   .grad = grad,
                                                   .count = count,
                                                   .grad_scale = compact.grad_scale,
                                                   .learning_rate = compact.learning_rate,
                                                   .beta1 = compact.beta1,
                                                   .beta2 = compact.beta2,
                                                   .epsilon = compact.epsilon,
                                                   .weight_decay = compact.weight_decay,
                                                   .step = step});
    }
    for (size_t i = 0; i < count; i++)
        assert_true((halves ? master_at(&s, i) : s.parameter[i]) == parameter[i]);
    assert_memory_equal(s.moment1, moment1, LARGEST * sizeof(float));
    assert_memory_equal(s.moment2, moment2, LARGEST * sizeof(float));
    state_release(&s);
    devices_free(moment1);
    devices_free(moment2);
    memory_release(&memory);
}

static void with_float_moments_it_is_adamw_bit_for_bit(void **state)
{
    struct devices *devices = *state;
    for (size_t c = 0; c < COUNTS; c++)
        for (size_t i = 0; i <= devices->count; i++)
            for (int halves = 0; halves < 2; halves++)
                assert_same_as_adamw(i < devices->count ? devices->cpu[i] : devices->ref, counts[c],
                                     halves);
}

static float moment_at(const struct state *s, enum moment_kind kind, bool second, size_t i)
{
    const void *values = second ? s->moment2 : s->moment1;
    const size_t block = (FIRST + i) / MOMENT_BLOCK;
    if (kind == MOMENTS_F32)
        return ((const float *)values)[i];
    if (kind == MOMENTS_BF16)
        return bf16_to_f32(((const uint16_t *)values)[i]);
    const struct moment_code *code = second ? moment_code_second() : moment_code_first();
    return code->values[((const uint8_t *)values)[i]] * (second ? s->scale2 : s->scale1)[block];
}

// The distance from one code to the next, around x.
static float code_step(float x, float scale)
{
    return fmaxf(0.2f * fabsf(x), 1e-6f * scale);
}

// One step from the same state; afterwards the cpu's state is made that of ref again, so that what
// rounding chose differently does not grow.
static void assert_step_agrees(struct devices *devices, struct device *device, size_t count,
                               enum moment_kind kind)
{
    struct test_memory memory = {.stream = count};
    float *parameter = memory_random(&memory, count);
    struct state a = state_make(parameter, count);
    for (int64_t step = 1; step <= STEPS; step++) {
        struct state b = state_make(parameter, count);
        const float *grad = memory_random(&memory, count);
        memcpy(b.upper, a.upper, LARGEST * sizeof(uint16_t));
        memcpy(b.remainder, a.remainder, LARGEST * sizeof(int16_t));
        memcpy(b.moment1, a.moment1, LARGEST * sizeof(float));
        memcpy(b.moment2, a.moment2, LARGEST * sizeof(float));
        memcpy(b.scale1, a.scale1, LARGEST * sizeof(float));
        memcpy(b.scale2, a.scale2, LARGEST * sizeof(float));
        struct adamw_compact expected = compact_step(&a, kind, true, grad, count, step);
        struct adamw_compact got = compact_step(&b, kind, true, grad, count, step);
        devices->ref->ops->adamw_compact(devices->ref, &expected);
        device->ops->adamw_compact(device, &got);
        for (size_t i = 0; i < count; i++) {
            const float x = master_at(&a, i), y = master_at(&b, i);
            assert_true(fabsf(x - y) <= 1e-6f * (1 + fabsf(x)));
            for (int second = 0; second < 2; second++) {
                const float m = moment_at(&a, kind, second, i), n = moment_at(&b, kind, second, i);
                const size_t block = (FIRST + i) / MOMENT_BLOCK;
                const float tolerance = kind == MOMENTS_BF16
                                            ? fabsf(m) / 128
                                            : code_step(m, (second ? a.scale2 : a.scale1)[block]);
                if (!(fabsf(m - n) <= tolerance))
                    fail_msg("%s, step %d, element %zu: %g and %g", kinds[kind], (int)step, i,
                             (double)m, (double)n);
            }
        }
        state_release(&b);
    }
    state_release(&a);
    memory_release(&memory);
}

static void small_moments_agree_with_ref(void **state)
{
    struct devices *devices = *state;
    for (size_t c = 0; c < COUNTS; c++)
        for (size_t i = 0; i < devices->count; i++)
            for (int kind = MOMENTS_BF16; kind <= MOMENTS_8BIT; kind++)
                assert_step_agrees(devices, devices->cpu[i], counts[c], (enum moment_kind)kind);
}

// The same numbers as stored ones lie within half a code of those computed: the relative error of
// the larger ones is that of 7 or 8 bits.
static void eight_bits_are_near_the_float_moments(void **state)
{
    struct devices *devices = *state;
    enum { COUNT = 2000 };
    struct test_memory memory = {0};
    float *parameter = memory_random(&memory, COUNT), *grad = memory_random(&memory, COUNT);
    for (size_t i = 0; i < devices->count; i++) {
        struct state s = state_make(parameter, COUNT);
        struct adamw_compact a = compact_step(&s, MOMENTS_8BIT, true, grad, COUNT, 1);
        devices->cpu[i]->ops->adamw_compact(devices->cpu[i], &a);
        for (size_t j = 0; j < COUNT; j++) {
            const double g = 0.5 * (double)grad[j], m = 0.1 * g, v = 0.001 * g * g;
            const size_t block = (FIRST + j) / MOMENT_BLOCK;
            const double scale1 = s.scale1[block], scale2 = s.scale2[block];
            if (fabs(m) >= 0.1 * scale1)
                assert_true(fabs((double)moment_at(&s, MOMENTS_8BIT, false, j) - m) <=
                            0.0075 * scale1);
            if (v >= 0.1 * scale2)
                assert_true(fabs((double)moment_at(&s, MOMENTS_8BIT, true, j) - v) <=
                            0.0036 * scale2);
            assert_true(moment_at(&s, MOMENTS_8BIT, true, j) > 0);
        }
        state_release(&s);
    }
    memory_release(&memory);
}

// A model divided at multiples of a block gives the bits of the whole.
static void division_at_blocks_changes_nothing(void **state)
{
    struct devices *devices = *state;
    enum { COUNT = 3000, CUT = 5 * MOMENT_BLOCK - FIRST };
    struct test_memory memory = {0};
    float *parameter = memory_random(&memory, COUNT), *grad = memory_random(&memory, COUNT);
    for (size_t i = 0; i <= devices->count; i++)
        for (int kind = MOMENTS_F32; kind <= MOMENTS_8BIT; kind++) {
            struct device *device = i < devices->count ? devices->cpu[i] : devices->ref;
            const size_t bytes = kind == MOMENTS_F32 ? 4 : kind == MOMENTS_BF16 ? 2 : 1;
            struct state a = state_make(parameter, COUNT), b = state_make(parameter, COUNT);
            for (int64_t step = 1; step <= STEPS; step++) {
                struct adamw_compact whole =
                    compact_step(&a, (enum moment_kind)kind, true, grad, COUNT, step);
                struct adamw_compact part =
                    compact_step(&b, (enum moment_kind)kind, true, grad, CUT, step);
                device->ops->adamw_compact(device, &whole);
                device->ops->adamw_compact(device, &part);
                part.parameter.data = b.upper + CUT;
                part.remainder = b.remainder + CUT;
                part.moment1 = (char *)b.moment1 + CUT * bytes;
                part.moment2 = (char *)b.moment2 + CUT * bytes;
                part.scale1 = b.scale1 + moment_blocks(FIRST, CUT);
                part.scale2 = b.scale2 + moment_blocks(FIRST, CUT);
                part.first = FIRST + CUT;
                part.grad.data = grad + CUT;
                part.count = COUNT - CUT;
                device->ops->adamw_compact(device, &part);
            }
            assert_memory_equal(a.upper, b.upper, LARGEST * sizeof(uint16_t));
            assert_memory_equal(a.remainder, b.remainder, LARGEST * sizeof(int16_t));
            assert_memory_equal(a.moment1, b.moment1, LARGEST * sizeof(float));
            assert_memory_equal(a.moment2, b.moment2, LARGEST * sizeof(float));
            assert_memory_equal(a.scale2, b.scale2, LARGEST * sizeof(float));
            state_release(&a);
            state_release(&b);
        }
    memory_release(&memory);
}

// A step by gradients in bfloat16 is that by the same numbers in float32.
static void gradients_in_bf16_are_widened(void **state)
{
    struct devices *devices = *state;
    enum { COUNT = 1000 };
    struct test_memory memory = {0};
    const float *parameter = memory_random(&memory, COUNT);
    const struct tensor half = memory_tensor(&memory, DTYPE_BF16, COUNT);
    float *wide = memory_floats(&memory, COUNT);
    convert_to_f32(wide, half.data, DTYPE_BF16, COUNT);
    for (size_t i = 0; i <= devices->count; i++)
        for (int kind = MOMENTS_F32; kind <= MOMENTS_8BIT; kind++) {
            struct device *device = i < devices->count ? devices->cpu[i] : devices->ref;
            struct state a = state_make(parameter, COUNT), b = state_make(parameter, COUNT);
            struct adamw_compact expected =
                compact_step(&a, (enum moment_kind)kind, true, wide, COUNT, 1);
            struct adamw_compact got =
                compact_step(&b, (enum moment_kind)kind, true, wide, COUNT, 1);
            got.grad = half;
            device->ops->adamw_compact(device, &expected);
            device->ops->adamw_compact(device, &got);
            assert_memory_equal(a.upper, b.upper, LARGEST * sizeof(uint16_t));
            assert_memory_equal(a.remainder, b.remainder, LARGEST * sizeof(int16_t));
            assert_memory_equal(a.moment2, b.moment2, LARGEST * sizeof(float));
            state_release(&a);
            state_release(&b);
        }
    memory_release(&memory);
}

// 0.999^1000: to nearest, a second moment in bfloat16 would stay at 1.
static void a_second_moment_in_bf16_decays(void **state)
{
    struct devices *devices = *state;
    enum { COUNT = 1000 };
    struct test_memory memory = {0};
    const float *zero = memory_copy(&memory, (float[COUNT]){0}, COUNT);
    for (size_t i = 0; i <= devices->count; i++) {
        struct device *device = i < devices->count ? devices->cpu[i] : devices->ref;
        struct state s = state_make(zero, COUNT);
        for (size_t j = 0; j < COUNT; j++)
            ((uint16_t *)s.moment2)[j] = bf16_from_f32(1);
        for (int64_t step = 1; step <= 1000; step++) {
            struct adamw_compact a = compact_step(&s, MOMENTS_BF16, true, zero, COUNT, step);
            device->ops->adamw_compact(device, &a);
        }
        double sum = 0;
        for (size_t j = 0; j < COUNT; j++)
            sum += (double)moment_at(&s, MOMENTS_BF16, true, j);
        assert_true(fabs(sum / COUNT - 0.3677) < 0.005);
        state_release(&s);
    }
    memory_release(&memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_two_halves_are_the_whole),
        cmocka_unit_test(codes_ascend_and_round_to_the_nearest),
        cmocka_unit_test(with_float_moments_it_is_adamw_bit_for_bit),
        cmocka_unit_test(small_moments_agree_with_ref),
        cmocka_unit_test(eight_bits_are_near_the_float_moments),
        cmocka_unit_test(division_at_blocks_changes_nothing),
        cmocka_unit_test(gradients_in_bf16_are_widened),
        cmocka_unit_test(a_second_moment_in_bf16_decays),
    };
    return cmocka_run_group_tests(tests, devices_create, devices_destroy);
}
