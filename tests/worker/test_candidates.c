// SPDX-License-Identifier: Apache-2.0
// Cuts by one reading of a large tensor, and by histograms where that fails, against selection in
// memory.
#include "base/mem.h"
#include "base/random.h"
#include "worker/merge/tensor.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define COUNT 300007
#define WIDE_TILE ((size_t)1 << 20)
#define NARROW_TILE ((size_t)4096) // room for too few candidates

struct tensor_in_memory {
    float *x; // [COUNT]
    atomic_size_t read;
};

static void read_values(void *context, size_t which, size_t begin, size_t count, float *out)
{
    struct tensor_in_memory *t = context;
    assert_int_equal(which, 1);
    assert_true(begin + count <= COUNT);
    memcpy(out, t->x + begin, count * sizeof(*out));
    atomic_fetch_add(&t->read, count);
}

static struct magnitude_cut cut(struct tensor_in_memory *t, int threads, size_t tile, uint64_t keep)
{
    static const bool is_delta[] = {true};
    struct merge_engine *engine;
    struct error err;
    const struct merge_tensor tensor = {
        .rows = 1, .columns = COUNT, .is_delta = is_delta, .read = read_values, .context = t};
    t->read = 0;
    assert_int_equal(merge_engine_create(threads, 1, tile, 1, &engine, &err), 0);
    const struct magnitude_cut found = merge_tensor_cut(engine, &tensor, keep);
    merge_engine_destroy(engine);
    return found;
}

// A tie's end may be given as any index behind the last tie that is kept and before the next one.
static void assert_same_cut(const float *x, struct magnitude_cut a, struct magnitude_cut b)
{
    assert_int_equal(a.bits, b.bits);
    for (size_t i = 0; i < COUNT; i++)
        assert_int_equal(magnitude_survives(x[i], i, a), magnitude_survives(x[i], i, b));
}

static void check(struct tensor_in_memory *t, bool once)
{
    static const uint64_t keeps[] = {1, 17, 300, COUNT / 10, 90002, COUNT / 2, COUNT - 1, COUNT};
    for (size_t i = 0; i < sizeof(keeps) / sizeof(keeps[0]); i++) {
        const struct magnitude_cut expected = magnitude_select(t->x, COUNT, keeps[i]);
        for (int threads = 1; threads <= 3; threads++) {
            assert_same_cut(t->x, cut(t, threads, WIDE_TILE, keeps[i]), expected);
            if (once) // the sample is 65536, and the block of the last tie is read again
                assert_true(t->read <= COUNT + 65536 + 2048);
            assert_same_cut(t->x, cut(t, threads, NARROW_TILE, keeps[i]), expected);
        }
    }
}

static void normal_values_are_read_once(void **state)
{
    struct tensor_in_memory t = {.x = mem_alloc(COUNT * sizeof(float))};
    (void)state;
    for (size_t i = 0; i < COUNT; i++)
        t.x[i] = (float)random_normal(1, 2, i);
    check(&t, true);
    free(t.x);
}

static void equal_values_are_kept_by_index(void **state)
{
    struct tensor_in_memory t = {.x = mem_alloc(COUNT * sizeof(float))};
    (void)state;
    for (size_t i = 0; i < COUNT; i++)
        t.x[i] = (float)(floor(20 * random_normal(3, 4, i)) / 64);
    check(&t, false);
    for (size_t i = 0; i < COUNT; i++)
        t.x[i] = i % 2 ? 0.5f : -0.5f;
    check(&t, false);
    free(t.x);
}

// The sample sees the first 256 of every 1171 values only.
static void a_misleading_sample_costs_time_only(void **state)
{
    struct tensor_in_memory t = {.x = mem_alloc(COUNT * sizeof(float))};
    (void)state;
    for (size_t i = 0; i < COUNT; i++)
        t.x[i] = (float)random_normal(5, 6, i) * (i % (COUNT / 256) < 256 ? 1 : 100);
    check(&t, false);
    const uint64_t keep = 90002;
    assert_same_cut(t.x, cut(&t, 2, WIDE_TILE, keep), magnitude_select(t.x, COUNT, keep));
    assert_true(t.read > 2 * (size_t)COUNT); // it was seen to mislead
    free(t.x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(normal_values_are_read_once),
        cmocka_unit_test(equal_values_are_kept_by_index),
        cmocka_unit_test(a_misleading_sample_costs_time_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
