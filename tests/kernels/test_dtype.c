// SPDX-License-Identifier: Apache-2.0
// All 65,536 values of both half formats, and rounding against arithmetic in double.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/device.h"

#include <math.h>
#include <string.h>

enum { VALUES = 65536 };

struct format {
    float (*to_f32)(uint16_t);
    uint16_t (*from_f32)(float);
    uint16_t infinity;
};

static const struct format formats[] = {{bf16_to_f32, bf16_from_f32, 0x7f80},
                                        {f16_to_f32, f16_from_f32, 0x7c00}};

static void every_value_returns(void **state)
{
    (void)state;
    for (size_t f = 0; f < 2; f++)
        for (uint32_t bits = 0; bits < VALUES; bits++) {
            float value = formats[f].to_f32((uint16_t)bits);
            uint16_t back = formats[f].from_f32(value);
            if ((bits & 0x7fff) > formats[f].infinity)
                assert_true(isnan(value) && (back & 0x7fff) > formats[f].infinity);
            else
                assert_int_equal(back, bits);
        }
}

static void values_are_those_of_the_definition(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits < 0x7c00; bits++) { // f16, positive and finite
        int exponent = (int)(bits >> 10);
        double mantissa = bits & 0x3ff;
        double value = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
        assert_true(f16_to_f32((uint16_t)bits) == value);
        assert_true(f16_to_f32((uint16_t)(bits | 0x8000)) == -value);
    }
    assert_true(bf16_to_f32(0x3f80) == 1 && bf16_to_f32(0xc049) == -3.140625f);
}

// Between neighbours a and b: what lies below the middle goes to a, above to b, the middle to the
// even.
static void rounding_is_to_nearest_even(void **state)
{
    (void)state;
    for (size_t f = 0; f < 2; f++)
        for (uint16_t bits = 0; bits + 1 < formats[f].infinity; bits++) {
            float a = formats[f].to_f32(bits), b = formats[f].to_f32((uint16_t)(bits + 1));
            float middle = (float)(((double)a + b) / 2); // exact: float32 has more places
            uint16_t even = (uint16_t)(bits + (bits & 1));
            if (f == 0 && bits < 0x80)
                continue; // halves of float32 subnormals are tested below
            assert_int_equal(formats[f].from_f32(nextafterf(middle, 0)), bits);
            assert_int_equal(formats[f].from_f32(middle), even);
            assert_int_equal(formats[f].from_f32(nextafterf(middle, INFINITY)), bits + 1);
            assert_int_equal(formats[f].from_f32(-middle), even | 0x8000);
        }
}

static void extremes_saturate_or_vanish(void **state)
{
    (void)state;
    assert_int_equal(f16_from_f32(65519.99f), 0x7bff);
    assert_int_equal(f16_from_f32(65520), 0x7c00);
    assert_int_equal(f16_from_f32(-1e30f), 0xfc00);
    assert_int_equal(f16_from_f32(0x1p-25f), 0);
    assert_int_equal(f16_from_f32(0x1.000002p-25f), 1);
    assert_int_equal(f16_from_f32(-0x1p-149f), 0x8000);
    assert_int_equal(bf16_from_f32(3.4e38f), 0x7f80);
    assert_int_equal(bf16_from_f32(-INFINITY), 0xff80);
    assert_int_equal(bf16_from_f32(0x1p-149f), 0);
    assert_int_equal(bf16_from_f32(0x1p-133f), 1);
    uint32_t payload = 0x7f800001u; // a NaN whose payload lies in the bits that are cut
    float nan;
    memcpy(&nan, &payload, sizeof nan);
    assert_true(isnan(bf16_to_f32(bf16_from_f32(nan))));
    assert_true(isnan(f16_to_f32(f16_from_f32(nan))));
}

static void arrays_are_converted_element_by_element(void **state)
{
    (void)state;
    const float values[] = {1, -2.5f, 0.1f};
    for (enum dtype dtype = DTYPE_F32; dtype <= DTYPE_F16; dtype++) {
        _Alignas(4) unsigned char stored[sizeof values + 1];
        float back[3];
        stored[3 * dtype_bytes(dtype)] = 0x5a;
        convert_from_f32(stored, dtype, values, 3);
        assert_int_equal(stored[3 * dtype_bytes(dtype)], 0x5a);
        convert_to_f32(back, stored, dtype, 3);
        assert_true(back[0] == 1 && back[1] == -2.5f && fabsf(back[2] - 0.1f) < 1e-3f);
        convert_from_f32(stored, dtype, values, 0);
    }
    assert_string_equal(dtype_name(DTYPE_F32), "f32");
    assert_string_equal(dtype_name(DTYPE_BF16), "bf16");
    assert_string_equal(dtype_name(DTYPE_F16), "f16");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_value_returns),
        cmocka_unit_test(values_are_those_of_the_definition),
        cmocka_unit_test(rounding_is_to_nearest_even),
        cmocka_unit_test(extremes_saturate_or_vanish),
        cmocka_unit_test(arrays_are_converted_element_by_element),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
