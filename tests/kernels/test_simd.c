// SPDX-License-Identifier: Apache-2.0
// Compiled once per instruction set, like the operations that use these functions.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/cpu/simd.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>

static void exponential_errs_by_two_places_at_most(void **state)
{
    (void)state;
    double worst = 0;
    for (float x = -87.33f; x < 88.37f; x += 0x1.3p-10f) {
        float got = vf_exp(vf_set(x))[VF_LANES - 1];
        double error = fabs(got / exp(x) - 1);
        worst = error > worst ? error : worst;
    }
    if (worst > 2.4e-7)
        fail_msg("relative error %.3g", worst);
    assert_true(vf_exp(vf_set(0))[0] == 1);
}

static void exponential_is_0_below_and_bounded_above(void **state)
{
    (void)state;
    assert_true(vf_exp(vf_set(-87.34f))[0] == 0);
    assert_true(vf_exp(vf_set(-INFINITY))[0] == 0);
    assert_true(fabs(vf_exp(vf_set(INFINITY))[0] / exp(88.37f) - 1) < 1e-5);
    assert_true(vf_exp(vf_set(1e30f))[0] == vf_exp(vf_set(INFINITY))[0]);
    assert_true(isnan(vf_exp(vf_set(NAN))[0]));
}

static void halves_are_widened_exactly(void **state)
{
    (void)state;
    uint16_t half[VF_LANES];
    for (uint32_t bits = 0; bits < 65536; bits += VF_LANES) {
        for (uint32_t lane = 0; lane < VF_LANES; lane++)
            half[lane] = (uint16_t)(bits + lane);
        vf bf16 = vf_load_any(half, DTYPE_BF16, 0), f16 = vf_load_any(half, DTYPE_F16, 0);
        for (size_t lane = 0; lane < VF_LANES; lane++) {
            float expected = bf16_to_f32(half[lane]);
            assert_true(bf16[lane] == expected || (isnan(bf16[lane]) && isnan(expected)));
            expected = f16_to_f32(half[lane]);
            assert_true(f16[lane] == expected || (isnan(f16[lane]) && isnan(expected)));
        }
    }
}

static void parts_touch_their_elements_alone(void **state)
{
    (void)state;
    for (size_t count = 0; count <= VF_LANES; count++) {
        float from[VF_LANES], to[VF_LANES];
        for (size_t i = 0; i < VF_LANES; i++) {
            from[i] = (float)(i + 1);
            to[i] = -1;
        }
        vf part = vf_load_part(from, count), any = vf_load_any_part(from, DTYPE_F32, 0, count);
        vf_store_part(to, part, count);
        for (size_t i = 0; i < VF_LANES; i++) {
            assert_true(part[i] == (i < count ? from[i] : 0) && any[i] == part[i]);
            assert_true(to[i] == (i < count ? from[i] : -1));
        }
        assert_true(vf_sum(part) == (float)(count * (count + 1) / 2));
        assert_true(vf_largest(part - 100) == (float)count - 100);
    }
}

static void root_and_fused_product_are_rounded_once(void **state)
{
    (void)state;
    assert_true(vf_sqrt(vf_set(2))[0] == sqrtf(2));
    float fused = vf_fma(vf_set(1 + 0x1p-12f), vf_set(1 + 0x1p-12f), vf_set(-1))[0];
#if defined(__FMA__)
    assert_true(fused == 0x1p-11f + 0x1p-24f);
#else
    assert_true(fused == 0x1p-11f);
#endif
}

static bool processor_fits(void)
{
#if defined(__AVX2__)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c");
#else
    return true;
#endif
}

int main(void)
{
    if (!processor_fits()) {
        printf("skipped: this processor has no AVX2\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exponential_errs_by_two_places_at_most),
        cmocka_unit_test(exponential_is_0_below_and_bounded_above),
        cmocka_unit_test(halves_are_widened_exactly),
        cmocka_unit_test(parts_touch_their_elements_alone),
        cmocka_unit_test(root_and_fused_product_are_rounded_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
