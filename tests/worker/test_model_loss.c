// SPDX-License-Identifier: Apache-2.0
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

static const int mixed_lengths[] = {5, 1, 0, 9, 3, -1};

struct rig {
    struct device *device;
    struct model *model;
    struct workspace *workspace;
    struct fixture_batch batch;
    float *grads;
    size_t elements;
};

static void rig_create(struct rig *rig, struct model_config config)
{
    struct error err;
    *rig = (struct rig){.device = fixture_device()};
    rig->model = fixture_model(rig->device, &config, DTYPE_F32, 7);
    fixture_batch_fill(&rig->batch, mixed_lengths, config.vocabulary, 11);
    if (workspace_create(rig->model, 64, true, &rig->workspace, &err))
        fail_msg("%s", err.text);
    rig->elements = rig->model->layout.elements;
    rig->grads = fixture_floats(rig->device, rig->elements);
}

static void rig_destroy(struct rig *rig)
{
    device_free(rig->device, rig->grads);
    workspace_destroy(rig->workspace);
    model_destroy(rig->model);
    device_destroy(rig->device);
}

static double loss_of(struct rig *rig, float *grads, float grad_scale)
{
    struct error err;
    double loss = NAN;
    const struct gradients sums = {.sums = {grads, DTYPE_F32}};
    if (model_loss(rig->model, rig->workspace, &rig->batch.batch, grads ? &sums : NULL, grad_scale,
                   &loss, &err))
        fail_msg("%s", err.text);
    return loss;
}

static void nudge(struct rig *rig, uint64_t element, float value)
{
    device_copy_in(rig->device, (float *)rig->model->weights.data + element, &value, sizeof value);
}

// (L(w - 2h) - 8 L(w - h) + 8 L(w + h) - L(w + 2h)) / 12 h: the error of the formula is h^4
// L'''''/30, so that h can be large enough (0.02, against weights of 0.1 to 1) for the float32
// rounding of the activations, about 1e-6 in a loss of 30, to stay below 1e-4 in the quotient.
static double difference_quotient(struct rig *rig, uint64_t element, float w)
{
    const float h = 0.02f;
    const float steps[] = {-2, -1, 1, 2};
    const double factors[] = {1, -8, 8, -1};
    double sum = 0;
    for (size_t i = 0; i < 4; i++) {
        nudge(rig, element, w + steps[i] * h);
        sum += factors[i] * loss_of(rig, NULL, 0);
    }
    nudge(rig, element, w);
    return sum / (12 * (double)h);
}

static float largest_magnitude(const float *values, uint64_t count)
{
    float largest = 0;
    for (uint64_t i = 0; i < count; i++)
        largest = fmaxf(largest, fabsf(values[i]));
    return largest;
}

static void check_gradients(struct model_config config)
{
    enum { SAMPLES = 12 };
    struct rig rig;
    rig_create(&rig, config);
    loss_of(&rig, rig.grads, 1.0f);
    float *grads = fixture_copy_out(rig.device, rig.grads, rig.elements);
    float *weights = fixture_copy_out(rig.device, rig.model->weights.data, rig.elements);
    for (size_t i = 0; i < rig.model->layout.parameter_count; i++) {
        const struct parameter *p = &rig.model->layout.parameters[i];
        double largest = largest_magnitude(grads + p->offset, p->count);
        assert_true(largest > 1e-3);
        for (uint64_t sample = 0; sample < SAMPLES; sample++) {
            uint64_t at = p->offset + random_u64(5, i, sample) % p->count;
            double expected = difference_quotient(&rig, at, weights[at]);
            if (fabs(grads[at] - expected) > 2e-3 * largest + 1e-4)
                fail_msg("%s element %llu: gradient %g, difference quotient %g, largest %g",
                         p->name, (unsigned long long)(at - p->offset), (double)grads[at], expected,
                         largest);
        }
    }
    free(grads);
    free(weights);
    rig_destroy(&rig);
}

static void gradients_agree_with_finite_differences(void **state)
{
    (void)state;
    check_gradients(fixture_config());
}

static void gradients_agree_when_the_head_is_its_own(void **state)
{
    (void)state;
    check_gradients(fixture_config_untied());
}

static void gradients_agree_with_norms_and_windows(void **state)
{
    (void)state;
    check_gradients(fixture_config_gemma3());
}

static void gradients_agree_with_convolutions(void **state)
{
    (void)state;
    check_gradients(fixture_config_lfm2());
}

static void gradients_accumulate_and_scale(void **state)
{
    (void)state;
    struct rig rig;
    rig_create(&rig, fixture_config());
    loss_of(&rig, rig.grads, 1.0f);
    float *once = fixture_copy_out(rig.device, rig.grads, rig.elements);
    loss_of(&rig, rig.grads, 0.25f);
    float *more = fixture_copy_out(rig.device, rig.grads, rig.elements);
    float largest = largest_magnitude(once, rig.elements);
    for (size_t i = 0; i < rig.elements; i++)
        assert_true(fabsf(more[i] - 1.25f * once[i]) <= 1e-5f * largest);
    free(once);
    free(more);
    rig_destroy(&rig);
}

static void check_without_gradients(struct model_config config)
{
    struct rig rig;
    rig_create(&rig, config);
    double with = loss_of(&rig, rig.grads, 1.0f);
    assert_true(loss_of(&rig, NULL, 0) == with);
    struct workspace *kept = rig.workspace;
    struct error err;
    if (workspace_create(rig.model, 64, false, &rig.workspace, &err))
        fail_msg("%s", err.text);
    assert_true(workspace_bytes(rig.workspace) < workspace_bytes(kept));
    assert_true(loss_of(&rig, NULL, 0) == with);
    workspace_destroy(kept);
    rig_destroy(&rig);
}

static void loss_is_the_same_with_and_without_gradients(void **state)
{
    (void)state;
    check_without_gradients(fixture_config());
    check_without_gradients(fixture_config_gemma3());
    check_without_gradients(fixture_config_lfm2());
}

static void check_recomputing(struct model_config config)
{
    struct rig rig;
    struct error err;
    rig_create(&rig, config);
    const double loss = loss_of(&rig, rig.grads, 1.0f);
    float *kept_grads = fixture_copy_out(rig.device, rig.grads, rig.elements);
    struct workspace *kept = rig.workspace;
    if (workspace_create_recomputing(rig.model, 64, &rig.workspace, &err))
        fail_msg("%s", err.text);
    assert_true(workspace_bytes(rig.workspace) < workspace_bytes(kept));
    assert_int_equal(workspace_bytes_needed(rig.model, 64, true), workspace_bytes(rig.workspace));
    assert_int_equal(workspace_bytes_needed(rig.model, 64, false), workspace_bytes(kept));
    device_zero(rig.device, rig.grads, rig.elements * sizeof(float));
    assert_true(loss_of(&rig, rig.grads, 1.0f) == loss);
    float *grads = fixture_copy_out(rig.device, rig.grads, rig.elements);
    assert_memory_equal(grads, kept_grads, rig.elements * sizeof(float));
    assert_true(loss_of(&rig, NULL, 0) == loss);
    free(grads);
    free(kept_grads);
    workspace_destroy(kept);
    rig_destroy(&rig);
}

static void layers_computed_again_give_the_same_bits(void **state)
{
    (void)state;
    check_recomputing(fixture_config());
    check_recomputing(fixture_config_gemma3());
    check_recomputing(fixture_config_lfm2());
}

struct watched {
    struct rig *rig;
    float *before; // gradients when the last call came
    uint64_t from;
    int calls;
};

static void watch(void *context, uint64_t from)
{
    struct watched *watched = context;
    struct rig *rig = watched->rig;
    assert_true(watched->calls == 0 || from < watched->from);
    float *now = fixture_copy_out(rig->device, rig->grads, rig->elements);
    for (uint64_t i = watched->from; i < rig->elements; i++) // what was complete has not changed
        assert_true(now[i] == watched->before[i]);
    free(watched->before);
    watched->before = now;
    watched->from = from;
    watched->calls++;
}

static void gradients_are_complete_when_it_is_said(void **state)
{
    (void)state;
    struct model_config configs[] = {fixture_config(), fixture_config_untied(),
                                     fixture_config_gemma3(), fixture_config_lfm2()};
    for (size_t c = 0; c < 4; c++) {
        struct rig rig;
        rig_create(&rig, configs[c]);
        struct watched watched = {.rig = &rig, .from = rig.elements};
        workspace_watch_gradients(rig.workspace, watch, &watched);
        loss_of(&rig, rig.grads, 1.0f);
        assert_int_equal(watched.calls, configs[c].layers + 1);
        assert_int_equal(watched.from, 0);
        float *last = fixture_copy_out(rig.device, rig.grads, rig.elements);
        assert_memory_equal(last, watched.before, rig.elements * sizeof(float));
        free(last);
        free(watched.before);
        rig_destroy(&rig);
    }
}

// One sequence of a packed batch, which keeps pointing into it; offsets is storage for its two.
static struct batch sequence_of(const struct batch *whole, size_t s, int32_t offsets[2])
{
    size_t begin = (size_t)whole->offsets[s], end = (size_t)whole->offsets[s + 1];
    offsets[0] = 0;
    offsets[1] = (int32_t)(end - begin);
    return (struct batch){
        .ids = whole->ids + begin,
        .positions = whole->positions + begin,
        .targets = whole->targets + begin,
        .offsets = offsets,
        .tokens = end - begin,
        .sequences = end > begin ? 1 : 0,
    };
}

static void expect_equal_gradients(const float *a, const float *b, size_t count)
{
    float largest = largest_magnitude(a, count);
    for (size_t i = 0; i < count; i++)
        assert_true(fabsf(a[i] - b[i]) <= 1e-5f * largest);
}

static void check_packing(struct model_config config)
{
    struct rig rig;
    rig_create(&rig, config);
    double packed = loss_of(&rig, rig.grads, 1.0f), sum = 0;
    float *together = fixture_copy_out(rig.device, rig.grads, rig.elements);
    device_zero(rig.device, rig.grads, rig.elements * sizeof(float));
    struct batch whole = rig.batch.batch;
    for (size_t s = 0; s < whole.sequences; s++) {
        int32_t offsets[2];
        rig.batch.batch = sequence_of(&whole, s, offsets);
        sum += loss_of(&rig, rig.grads, 1.0f);
    }
    float *apart = fixture_copy_out(rig.device, rig.grads, rig.elements);
    assert_true(fabs(sum - packed) <= 1e-9 * packed);
    expect_equal_gradients(together, apart, rig.elements);
    free(together);
    free(apart);
    rig_destroy(&rig);
}

static void packed_sequences_do_not_see_each_other(void **state)
{
    (void)state;
    check_packing(fixture_config());
    check_packing(fixture_config_gemma3());
    check_packing(fixture_config_lfm2());
}

// A vocabulary so large that a slice of logits has seven rows: the packed batch needs two slices,
// each of its sequences alone one.
static void slices_of_the_head_join_without_a_seam(void **state)
{
    (void)state;
    struct error err;
    static const int lengths[] = {7, 4, -1};
    struct model_config config = fixture_config();
    config.layers = 1;
    config.hidden = config.heads = config.head_width = config.ffn = 2;
    config.kv_heads = 1;
    config.vocabulary = (1 << 21) + 1;
    struct rig rig;
    rig_create(&rig, config);
    fixture_batch_fill(&rig.batch, lengths, config.vocabulary, 8);
    for (size_t i = 0; i < rig.batch.batch.tokens; i++)
        rig.batch.targets[i] = (int32_t)i * 190000;
    size_t vocabulary = (size_t)config.vocabulary;
    float *packed_logits = mem_calloc(11 * vocabulary, sizeof *packed_logits);
    float *alone_logits = mem_calloc(7 * vocabulary, sizeof *alone_logits);
    assert_int_equal(model_logits(rig.model, rig.workspace, &rig.batch.batch, packed_logits, &err),
                     0);
    double packed = loss_of(&rig, rig.grads, 1.0f), sum = 0;
    float *together = fixture_copy_out(rig.device, rig.grads, rig.elements);
    device_zero(rig.device, rig.grads, rig.elements * sizeof(float));
    struct batch whole = rig.batch.batch;
    for (size_t s = 0; s < whole.sequences; s++) {
        int32_t offsets[2];
        rig.batch.batch = sequence_of(&whole, s, offsets);
        sum += loss_of(&rig, rig.grads, 1.0f);
        assert_int_equal(
            model_logits(rig.model, rig.workspace, &rig.batch.batch, alone_logits, &err), 0);
        assert_memory_equal(packed_logits + (size_t)whole.offsets[s] * vocabulary, alone_logits,
                            rig.batch.batch.tokens * vocabulary * sizeof(float));
    }
    float *apart = fixture_copy_out(rig.device, rig.grads, rig.elements);
    assert_true(fabs(sum - packed) <= 1e-9 * packed);
    expect_equal_gradients(together, apart, rig.elements);
    free(together);
    free(apart);
    free(packed_logits);
    free(alone_logits);
    rig_destroy(&rig);
}

static void loss_follows_from_logits(void **state)
{
    (void)state;
    struct error err;
    struct rig rig;
    rig_create(&rig, fixture_config());
    const struct batch *batch = &rig.batch.batch;
    size_t vocabulary = (size_t)rig.model->config.vocabulary;
    float *logits = malloc(batch->tokens * vocabulary * sizeof *logits);
    assert_int_equal(model_logits(rig.model, rig.workspace, batch, logits, &err), 0);
    double expected = 0;
    for (size_t t = 0; t < batch->tokens; t++) {
        double sum = 0;
        for (size_t v = 0; v < vocabulary; v++)
            sum += exp((double)logits[t * vocabulary + v]);
        if (batch->targets[t] >= 0)
            expected += log(sum) - (double)logits[t * vocabulary + (size_t)batch->targets[t]];
    }
    double loss = loss_of(&rig, NULL, 0);
    assert_true(fabs(loss - expected) <= 1e-6 * expected);
    free(logits);
    rig_destroy(&rig);
}

static void batch_without_targets_changes_nothing(void **state)
{
    (void)state;
    struct rig rig;
    rig_create(&rig, fixture_config());
    for (size_t i = 0; i < rig.batch.batch.tokens; i++)
        rig.batch.targets[i] = -1;
    assert_true(loss_of(&rig, rig.grads, 1.0f) == 0);
    rig.batch.batch.tokens = 0;
    rig.batch.batch.sequences = 0;
    assert_true(loss_of(&rig, rig.grads, 1.0f) == 0);
    float *grads = fixture_copy_out(rig.device, rig.grads, rig.elements);
    assert_true(largest_magnitude(grads, rig.elements) == 0);
    free(grads);
    rig_destroy(&rig);
}

static void expect_rejected(struct rig *rig, const char *part)
{
    struct error err = {{0}};
    double loss;
    assert_int_equal(
        model_loss(rig->model, rig->workspace, &rig->batch.batch, NULL, 1, &loss, &err), -1);
    if (!strstr(err.text, part))
        fail_msg("'%s' does not say '%s'", err.text, part);
}

static void batch_outside_the_model_is_rejected(void **state)
{
    (void)state;
    struct rig rig;
    rig_create(&rig, fixture_config());
    rig.batch.ids[2] = 37;
    expect_rejected(&rig, "token 2 is 37");
    rig.batch.ids[2] = -1;
    expect_rejected(&rig, "token 2 is -1");
    rig.batch.ids[2] = 0;
    rig.batch.targets[3] = 99;
    expect_rejected(&rig, "target 3 is 99");
    rig.batch.targets[3] = -1;
    rig.batch.positions[0] = 64;
    expect_rejected(&rig, "position 64");
    rig.batch.positions[0] = 0;
    rig.batch.offsets[5]--;
    expect_rejected(&rig, "sequences end at token 17 of 18");
    rig.batch.offsets[5]++;
    rig.batch.offsets[1] = 7;
    expect_rejected(&rig, "sequence 1 ends before it begins");
    rig.batch.offsets[1] = 5;
    rig.batch.batch.tokens = 65;
    expect_rejected(&rig, "65 tokens in a workspace for 64");
    rig_destroy(&rig);
}

static void half_precision_weights_give_nearly_the_same_loss(void **state)
{
    (void)state;
    struct error err;
    struct rig rig;
    rig_create(&rig, fixture_config());
    double exact = loss_of(&rig, NULL, 0);
    workspace_destroy(rig.workspace);
    model_destroy(rig.model);
    struct model_config config = fixture_config();
    rig.model = fixture_model(rig.device, &config, DTYPE_BF16, 7);
    assert_int_equal(workspace_create(rig.model, 64, false, &rig.workspace, &err), 0);
    assert_true(fabs(loss_of(&rig, NULL, 0) - exact) < 0.02 * exact);
    rig_destroy(&rig);
}

static void random_weights_start_at_the_loss_of_guessing(void **state)
{
    (void)state;
    struct error err;
    struct rig rig;
    rig_create(&rig, fixture_config());
    assert_int_equal(model_init_random(rig.model, 3, &err), 0);
    float *first = fixture_copy_out(rig.device, rig.model->weights.data, rig.elements);
    double targets = 0;
    for (size_t i = 0; i < rig.batch.batch.tokens; i++)
        targets += rig.batch.targets[i] >= 0;
    assert_true(fabs(loss_of(&rig, NULL, 0) / targets - log(37.0)) < 0.1);
    assert_int_equal(model_init_random(rig.model, 3, &err), 0);
    float *second = fixture_copy_out(rig.device, rig.model->weights.data, rig.elements);
    assert_memory_equal(first, second, rig.elements * sizeof *first);
    assert_int_equal(model_init_random(rig.model, 4, &err), 0);
    float *other = fixture_copy_out(rig.device, rig.model->weights.data, rig.elements);
    assert_true(memcmp(first, other, rig.elements * sizeof *first) != 0);
    free(first);
    free(second);
    free(other);
    rig_destroy(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_agree_with_finite_differences),
        cmocka_unit_test(gradients_agree_when_the_head_is_its_own),
        cmocka_unit_test(gradients_agree_with_norms_and_windows),
        cmocka_unit_test(gradients_agree_with_convolutions),
        cmocka_unit_test(gradients_accumulate_and_scale),
        cmocka_unit_test(loss_is_the_same_with_and_without_gradients),
        cmocka_unit_test(layers_computed_again_give_the_same_bits),
        cmocka_unit_test(gradients_are_complete_when_it_is_said),
        cmocka_unit_test(packed_sequences_do_not_see_each_other),
        cmocka_unit_test(slices_of_the_head_join_without_a_seam),
        cmocka_unit_test(loss_follows_from_logits),
        cmocka_unit_test(batch_without_targets_changes_nothing),
        cmocka_unit_test(batch_outside_the_model_is_rejected),
        cmocka_unit_test(half_precision_weights_give_nearly_the_same_loss),
        cmocka_unit_test(random_weights_start_at_the_loss_of_guessing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
