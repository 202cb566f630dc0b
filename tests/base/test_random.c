// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/random.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define DRAWS 200000

// Known answers that the authors of Philox publish with it (Random123, kat_vectors), philox4x32-10.
static void bits_match_published_vectors(void **state)
{
    (void)state;
    assert_true(random_u64(0, 0, 0) == 0xE169C58D6627E8D5);
    assert_true(random_u64(UINT64_MAX, UINT64_MAX, UINT64_MAX) == 0x41C83B0E408F276D);
    assert_true(random_u64(0x299F31D0A4093822, 0x0370734413198A2E, 0x85A308D3243F6A88) ==
                0x94FDCCEBD16CFE09);
}

static void seed_stream_and_counter_all_matter(void **state)
{
    (void)state;
    uint64_t base = random_u64(1, 2, 3);
    for (int bit = 0; bit < 64; bit++) {
        uint64_t flip = UINT64_C(1) << bit;
        assert_true(random_u64(1 ^ flip, 2, 3) != base);
        assert_true(random_u64(1, 2 ^ flip, 3) != base);
        assert_true(random_u64(1, 2, 3 ^ flip) != base);
    }
}

static void uniform_has_its_moments(void **state)
{
    (void)state;
    double sum = 0, squares = 0;
    int bins[10] = {0};
    for (uint64_t i = 0; i < DRAWS; i++) {
        double x = random_uniform(7, 1, i);
        assert_true(x >= 0 && x < 1);
        sum += x;
        squares += x * x;
        bins[(int)(x * 10)]++;
    }
    assert_true(fabs(sum / DRAWS - 1.0 / 2) < 0.004); // six standard errors
    assert_true(fabs(squares / DRAWS - 1.0 / 3) < 0.004);
    for (int i = 0; i < 10; i++)
        assert_true(abs(bins[i] - DRAWS / 10) < 900);
}

static void normal_has_its_moments(void **state)
{
    (void)state;
    double sum = 0, squares = 0, fourth = 0;
    int beyond_two = 0;
    for (uint64_t i = 0; i < DRAWS; i++) {
        double x = random_normal(7, 2, i);
        assert_true(isfinite(x));
        sum += x;
        squares += x * x;
        fourth += x * x * x * x;
        beyond_two += fabs(x) > 2;
    }
    assert_true(fabs(sum / DRAWS) < 0.014);
    assert_true(fabs(squares / DRAWS - 1) < 0.02);
    assert_true(fabs(fourth / DRAWS - 3) < 0.14);
    assert_true(fabs((double)beyond_two / DRAWS - 0.0455) < 0.003);
}

static void permutation_holds_every_number_once(void **state)
{
    (void)state;
    static const size_t counts[] = {0, 1, 2, 31, 33, 1000};
    static uint32_t out[1001];
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        static bool seen[1000];
        memset(seen, 0, sizeof(seen));
        out[counts[i]] = 0xDEADBEEF;
        random_permutation(3, i, out, counts[i]);
        for (size_t j = 0; j < counts[i]; j++) {
            assert_true(out[j] < counts[i] && !seen[out[j]]);
            seen[out[j]] = true;
        }
        assert_true(out[counts[i]] == 0xDEADBEEF);
    }
}

static void permutations_of_four_are_equally_frequent(void **state)
{
    (void)state;
    int counts[256] = {0};
    for (uint64_t stream = 0; stream < 48000; stream++) {
        uint32_t p[4];
        random_permutation(11, stream, p, 4);
        counts[p[0] * 64 + p[1] * 16 + p[2] * 4 + p[3]]++;
    }
    int kinds = 0;
    for (int i = 0; i < 256; i++) {
        if (counts[i] == 0)
            continue;
        kinds++;
        assert_true(abs(counts[i] - 2000) < 270); // six standard errors
    }
    assert_int_equal(kinds, 24);
}

static void permutation_depends_on_seed_and_stream_alone(void **state)
{
    (void)state;
    uint32_t a[33], b[33];
    random_permutation(5, 6, a, 33);
    random_permutation(5, 6, b, 33);
    assert_memory_equal(a, b, sizeof(a));
    random_permutation(5, 7, b, 33);
    assert_true(memcmp(a, b, sizeof(a)) != 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bits_match_published_vectors),
        cmocka_unit_test(seed_stream_and_counter_all_matter),
        cmocka_unit_test(uniform_has_its_moments),
        cmocka_unit_test(normal_has_its_moments),
        cmocka_unit_test(permutation_holds_every_number_once),
        cmocka_unit_test(permutations_of_four_are_equally_frequent),
        cmocka_unit_test(permutation_depends_on_seed_and_stream_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
