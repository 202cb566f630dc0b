// SPDX-License-Identifier: Apache-2.0
// The floors of generation, and what training counts as work, against figures worked out by hand
// from the published shapes.
#include "jobs/bench_floor.h"
#include "worker/train/trainer.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>

static const double bandwidth = 4.3e12; // of an H200, as it copies; nothing computes here

static struct decoder_cost cost_of(const char *shape, enum dtype element, bool codes)
{
    struct model_config config;
    struct error err;
    if (model_config_shape(shape, &config, &err))
        fail_msg("%s", err.text);
    return decoder_cost_of(&config, element, codes);
}

static void expect(double got, double wanted, double tolerance)
{
    if (!(fabs(got - wanted) <= tolerance))
        fail_msg("%.6g instead of %.6g", got, wanted);
}

static double tokens_per_second(struct effort effort)
{
    return effort.tokens / effort_seconds(effort, bandwidth, INFINITY);
}

// 64 layers of 5120 x (5120 + 2 x 1024), 5120 x 5120 and 3 x 5120 x 27648; a head of 152064 x 5120.
static void weights_of_32b_are_counted(void **state)
{
    (void)state;
    const struct decoder_cost cost = cost_of("qwen2.5-32b", DTYPE_BF16, false);
    const double layer = 5120.0 * (7168 + 5120 + 3 * 27648);
    expect(cost.layers, 64 * layer, 0);
    expect(cost.head, 152064.0 * 5120, 0);
    expect(cost.weight_bytes, 2 * (64 * layer + 152064.0 * 5120), 0);
    expect(cost.position_bytes * cost.full, 262144, 0); // 64 layers, 8 heads of 128, twice 2 bytes
}

static void decoding_32b_has_the_floors_of_the_aims(void **state)
{
    (void)state;
    const struct decoder_cost cost = cost_of("qwen2.5-32b", DTYPE_BF16, false);
    const struct {
        size_t sequences;
        double tokens_per_second;
    } aims[] = {{1, 67}, {16, 979}, {64, 3087}};
    for (size_t i = 0; i < sizeof aims / sizeof *aims; i++)
        expect(tokens_per_second(
                   decode_step_effort(&cost, (struct decode_step){aims[i].sequences, 1, 1500})),
               aims[i].tokens_per_second, 0.5);
}

// 31.20e9 codes, scales of (7168 + 5120 + 2 x 27648 + 5120) x 64 outputs, and the head in bf16.
static void codes_of_eight_bits_are_half_the_layers(void **state)
{
    (void)state;
    const struct decoder_cost whole = cost_of("qwen2.5-32b", DTYPE_BF16, false);
    const struct decoder_cost codes = cost_of("qwen2.5-32b", DTYPE_BF16, true);
    const double scales = 4.0 * 64 * (7168 + 5120 + 2 * 27648 + 5120);
    expect(codes.weight_bytes, whole.layers + scales + 2 * whole.head, 0);
}

// Operations of a token: 2 per weight of a matrix, and 4 per head's width and position seen.
static void a_prompt_of_32b_is_mostly_products(void **state)
{
    (void)state;
    const struct decoder_cost cost = cost_of("qwen2.5-32b", DTYPE_BF16, false);
    const double layer = 5120.0 * (7168 + 5120 + 3 * 27648), ffn = 3 * 5120.0 * 27648;
    const double attention = 64 * 4.0 * 5120 * (1500.0 * 1501 / 2);
    const struct effort effort = decode_step_effort(&cost, (struct decode_step){1, 1500, 0});
    expect(effort.flops, 1500 * 2 * (64 * layer - ffn) + attention + 2 * (ffn + 152064.0 * 5120),
           1e6);
    expect(effort.flops / 1e12, 93.82, 0.01);
    expect(effort.bytes, cost.weight_bytes, 0);
}

// Four documents of 1,500 tokens are read once a step, not once for each of 128 requests.
static void shared_documents_are_read_once(void **state)
{
    (void)state;
    const struct decoder_cost cost = cost_of("qwen2.5-32b", DTYPE_BF16, false);
    const struct document_load load = {
        .documents = 4, .requests = 32, .document = 1500, .answer = 64, .step_tokens = 512};
    const struct effort step = document_step_effort(&cost, &load, 32);
    expect(step.bytes, cost.weight_bytes + 262144.0 * (4 * 1500 + 128 * 32), 1);
    expect(tokens_per_second(step), 8262.4, 0.1);
    const struct effort all = document_load_effort(&cost, &load);
    const double steps = 6000.0 / 512 + 64;
    expect(all.tokens, 128 * 64, 0);
    expect(all.bytes / (steps * cost.weight_bytes + 262144.0 * 64 * (6000 + 128 * 31.5)), 1, 1e-9);
    const double tokens = 6000 + 128 * 63;
    const double pairs = 4 * (1500.0 * 1501 / 2) + 128 * (63 * 1500.0 + 63.0 * 64 / 2);
    expect(all.flops /
               (2 * cost.layers * tokens + 2 * cost.head * 128 * 64 + 64 * 4.0 * 5120 * pairs),
           1, 1e-9);
}

// Of 26 layers of Gemma 3 1B every sixth sees everything, the others 512 positions.
static void windows_bound_what_is_seen(void **state)
{
    (void)state;
    const struct decoder_cost cost = cost_of("gemma3-1b", DTYPE_BF16, false);
    expect(cost.full, 4, 0);
    expect(cost.sliding, 22, 0);
    const struct effort effort = decode_step_effort(&cost, (struct decode_step){2, 1, 2000});
    expect(effort.bytes, cost.weight_bytes + 2 * (2.0 * 256 * 2) * (4 * 2000 + 22 * 512), 0);
}

static void the_slower_of_reading_and_computing_counts(void **state)
{
    (void)state;
    const struct effort effort = {.tokens = 1, .bytes = 10, .flops = 100};
    expect(effort_seconds(effort, 1, 1000), 10, 0);
    expect(effort_seconds(effort, 1000, 1), 100, 0);
}

// 28 layers of 3584 x (3584 + 2 x 512), 3584 x 3584 and 3 x 3584 x 18944, a head of 152064 x 3584.
// Six operations for each weight and token, of the head and the last feed-forward block for target
// tokens alone; attention: two products forward and four backward, over half of the pairs.
static void training_counts_six_operations_for_a_weight(void **state)
{
    (void)state;
    struct model model = {0};
    struct error err;
    assert_int_equal(model_config_shape("qwen2.5-7b", &model.config, &err), 0);
    layout_create(&model.config, &model.layout);
    const double ffn = 3.0 * 3584 * 18944, head = 152064.0 * 3584;
    const double layers = 28 * (3584.0 * (3584 + 1024 + 3584) + ffn);
    const double attention = 28 * 6.0 * 3584 * 50; // of a token in a sequence of 50
    struct step_stats stats = {.sequences = 20, .tokens = 1000, .target_tokens = 1000};
    expect(trainer_flops(&model, &stats), 1000 * (6 * (layers + head) + attention), 1e5);
    expect(trainer_flops(&model, &stats) / (6 * 7.07e9 * 1000), 1, 0.01); // 7.07 G such weights
    stats.target_tokens = 90;
    expect(trainer_flops(&model, &stats),
           1000 * (6 * (layers - ffn) + attention) + 90 * 6 * (ffn + head), 1e5);
    layout_release(&model.layout);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weights_of_32b_are_counted),
        cmocka_unit_test(decoding_32b_has_the_floors_of_the_aims),
        cmocka_unit_test(codes_of_eight_bits_are_half_the_layers),
        cmocka_unit_test(a_prompt_of_32b_is_mostly_products),
        cmocka_unit_test(shared_documents_are_read_once),
        cmocka_unit_test(windows_bound_what_is_seen),
        cmocka_unit_test(training_counts_six_operations_for_a_weight),
        cmocka_unit_test(the_slower_of_reading_and_computing_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
