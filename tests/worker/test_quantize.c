// SPDX-License-Identifier: Apache-2.0
// Generation by weights and activations of eight bits: how far the logits are from those of the
// same weights in bfloat16.
#include "tests/worker/model_fixture.h"

#include "base/mem.h"
#include "base/random.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS = 24, BLOCKS = 1 };

// Logits of a sequence of TOKENS, first in one step, then token by token.
static float *logits_of(struct model *model, bool one_by_one)
{
    static const int32_t table[BLOCKS] = {0};
    const struct kv_cache_size size = {
        .blocks = BLOCKS, .capacity = TOKENS, .sequences = 1, .max_tokens = TOKENS};
    const size_t vocabulary = (size_t)model->config.vocabulary;
    float *out = mem_calloc(TOKENS * vocabulary, sizeof *out);
    int32_t ids[TOKENS], sequences[TOKENS] = {0}, positions[TOKENS], wanted[TOKENS];
    struct kv_cache *cache;
    struct error err;
    for (int32_t t = 0; t < TOKENS; t++) {
        ids[t] = (int32_t)(random_u64(3, 0, (uint64_t)t) % vocabulary);
        positions[t] = wanted[t] = t;
    }
    if (kv_cache_create(model, &size, &cache, &err))
        fail_msg("%s", err.text);
    const size_t count = one_by_one ? 1 : TOKENS;
    for (size_t t = 0; t < TOKENS; t += count)
        if (model_step(model, cache,
                       &(struct step_tokens){.ids = ids + t,
                                             .sequences = sequences,
                                             .positions = positions + t,
                                             .tokens = count,
                                             .tables = table,
                                             .sequence_count = 1,
                                             .wanted = wanted,
                                             .wanted_count = count},
                       out + t * vocabulary, &err))
            fail_msg("%s", err.text);
    kv_cache_destroy(cache);
    return out;
}

static double distance(const float *a, const float *b, size_t count)
{
    double squares = 0, all = 0;
    for (size_t i = 0; i < count; i++) {
        squares += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        all += (double)b[i] * (double)b[i];
    }
    return sqrt(squares / all);
}

static struct model *load(struct device *device, const char *name, enum dtype dtype)
{
    char *directory = mem_printf("%s/%s", GOLDEN_DIRECTORY, name);
    struct model *model;
    struct error err;
    if (model_load(device, directory, dtype, &model, &err))
        fail_msg("%s", err.text);
    free(directory);
    return model;
}

// A number with three bits of mantissa is off by 2^-4 of its binade at most, evenly: by 2^-4 /
// sqrt(3) / sqrt(2) = 2.6% of itself in the mean square. A product of two such is off by sqrt(2)
// times as much, and four of them follow each other in a layer. Twice that for what norms, softmax
// and what is small beside the largest of its row make of it.
static double expected_distance(const struct model *model)
{
    return 2 * 0.026 * sqrt(2.0) * sqrt(4.0 * (double)model->config.layers);
}

static void check(struct device *device, const char *name)
{
    struct model *wide = load(device, name, DTYPE_F32), *model = load(device, name, DTYPE_BF16);
    const size_t count = TOKENS * (size_t)model->config.vocabulary;
    struct error err;
    float *exact = logits_of(wide, false), *half = logits_of(model, false);
    if (model_quantize(model, &err))
        fail_msg("%s", err.text);
    float *together = logits_of(model, false), *apart = logits_of(model, true);
    const double of_half = distance(half, exact, count), off = distance(together, half, count);
    printf("%s: logits in fp8 are off by %.3g of their norm from bf16, which is by %.3g\n", name,
           off, of_half);
    assert_true(off > of_half && off < expected_distance(model));
    // A token has a scale of its own, whatever is beside it.
    assert_true(distance(apart, together, count) < 0.5 * off);
    free(exact);
    free(half);
    free(together);
    free(apart);
    model_destroy(wide);
    model_destroy(model);
}

static void logits_are_near_those_of_bfloat16(void **state)
{
    static const char *const names[] = {"qwen2_tied", "qwen3_tied", "llama_tied", "gemma3_tied",
                                        "lfm2_tied"};
    (void)state;
    struct device *device = fixture_device();
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        check(device, names[i]);
    device_destroy(device);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_are_near_those_of_bfloat16),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
