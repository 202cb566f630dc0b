// SPDX-License-Identifier: Apache-2.0
// Training with gradients held and summed in bfloat16, beside float32.
#include "tests/base/temporary_directory.h"
#include "tests/worker/model_fixture.h"
#include "tests/worker/train_fixture.h"

#include "base/mem.h"
#include "worker/model/decoder.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS = 30, SEEDS = 3, LAST = 8 };

static struct sequence_set set; // 4 steps an epoch

static int set_setup(void **state)
{
    (void)state;
    fixture_set_fill(&set, 31, 9);
    return 0;
}

static int set_teardown(void **state)
{
    (void)state;
    sequence_set_release(&set);
    return 0;
}

// --- one pass ---

static struct tensor half_floats(struct device *device, size_t count)
{
    return (struct tensor){fixture_floats(device, (count + 1) / 2), DTYPE_BF16};
}

static void run_loss(struct model *model, struct workspace *workspace, const struct batch *batch,
                     const struct gradients *grads)
{
    struct error err;
    double loss;
    if (model_loss(model, workspace, batch, grads, 1, &loss, &err))
        fail_msg("%s", err.text);
}

// Rounding up or down moves a number by less than a unit of its last place, at most 2^-7 of it. The
// sum of the head's and the embedding's parts, where they are one matrix, is rounded twice, and the
// first part may be the larger one: what it was is not known, only what both gave.
static void assert_rounded(const struct parameter *p, bool twice, const uint16_t *half,
                           const float *whole)
{
    double largest = 0;
    for (uint64_t i = 0; i < p->count; i++)
        largest = fmax(largest, fabs((double)whole[p->offset + i]));
    for (uint64_t i = 0; i < p->count; i++) {
        const double got = bf16_to_f32(half[p->offset + i]), want = whole[p->offset + i];
        if (fabs(got - want) > 0x1p-7 * (twice ? largest : fabs(want)))
            fail_msg("%s element %llu: %g and %g", p->name, (unsigned long long)i, got, want);
    }
}

static void check_pass(struct model_config config)
{
    static const int lengths[] = {5, 1, 17, 9, -1};
    struct device *device = fixture_device();
    struct model *model = fixture_model(device, &config, DTYPE_F32, 3);
    const struct layout *layout = &model->layout;
    struct fixture_batch batch;
    struct workspace *workspace;
    struct error err;
    fixture_batch_fill(&batch, lengths, config.vocabulary, 4);
    assert_int_equal(workspace_create(model, 32, true, &workspace, &err), 0);
    const struct gradients whole = {.sums = {fixture_floats(device, layout->elements), DTYPE_F32}};
    const struct gradients half = {.sums = half_floats(device, layout->elements),
                                   .vectors = fixture_floats(device, layout->vector_elements),
                                   .product =
                                       fixture_floats(device, gradients_product_elements(&config)),
                                   .draw = 5};
    run_loss(model, workspace, &batch.batch, &whole);
    run_loss(model, workspace, &batch.batch, &half);
    for (size_t i = 0; i < layout->parameter_count; i++) {
        const struct parameter *p = &layout->parameters[i];
        const float *wide = whole.sums.data;
        const uint16_t *narrow = half.sums.data;
        if (p->decays) {
            assert_rounded(p, config.tied && p->kind == PARAM_EMBEDDING, narrow, wide);
            continue;
        }
        assert_memory_equal(half.vectors + p->vector_offset, wide + p->offset,
                            p->count * sizeof(float));
        for (uint64_t j = 0; j < p->count; j++)
            assert_int_equal(narrow[p->offset + j], 0);
    }
    workspace_destroy(workspace);
    device_free(device, whole.sums.data);
    device_free(device, half.sums.data);
    device_free(device, half.vectors);
    device_free(device, half.product);
    model_destroy(model);
    device_destroy(device);
}

static void a_pass_rounds_matrices_once_and_vectors_not(void **state)
{
    (void)state;
    check_pass(fixture_config());
    check_pass(fixture_config_untied());
    check_pass(fixture_config_gemma3());
    check_pass(fixture_config_lfm2());
}

// --- training ---

static struct training training_of(int ranks, enum zero_stage zero, enum dtype grads)
{
    struct training training = training_default(&set);
    training.ranks = ranks;
    training.vocabulary = 365;
    training.options.plan.epochs = 8;
    training.options.schedule.peak = 2e-3;
    training.options.zero = zero;
    training.options.grads = grads;
    training.stop_after = STEPS;
    return training;
}

static const struct state_form forms[] = {{DTYPE_F32, MOMENTS_F32}, {DTYPE_BF16, MOMENTS_8BIT}};

// Of the last steps.
static double last_loss(const struct training *training)
{
    double sum = 0;
    for (size_t i = training->steps - LAST; i < training->steps; i++)
        sum += training->stats[i].loss / LAST;
    return sum;
}

static double loss_with(uint64_t seed, struct state_form form, enum dtype grads)
{
    struct training training = training_of(1, ZERO_0, grads);
    training.options.plan.seed = seed;
    training.options.optimizer.form = form;
    training_run_well(&training);
    const double loss = last_loss(&training);
    assert_true(loss < training.stats[0].loss - 1);
    training_release(&training);
    return loss;
}

static void it_learns_within_the_spread_of_seeds(void **state)
{
    (void)state;
    for (size_t f = 0; f < 2; f++) {
        double whole[SEEDS], half[SEEDS], least = INFINITY, most = 0;
        for (int s = 0; s < SEEDS; s++) {
            whole[s] = loss_with((uint64_t)s + 1, forms[f], DTYPE_F32);
            half[s] = loss_with((uint64_t)s + 1, forms[f], DTYPE_BF16);
            least = fmin(least, whole[s]);
            most = fmax(most, whole[s]);
            printf("seed %d: %.5f with float32 gradients, %.5f with bfloat16\n", s + 1, whole[s],
                   half[s]);
        }
        for (int s = 0; s < SEEDS; s++)
            assert_true(fabs(half[s] - whole[s]) < most - least);
    }
}

// Of equal runs, bit for bit; of other ranks and stages, as near as losses are whose gradients
// differ by roundings of at most 2^-7.
static void any_ranks_and_stage_train_alike(void **state)
{
    (void)state;
    for (size_t f = 0; f < 2; f++) {
        struct training one = training_of(1, ZERO_0, DTYPE_BF16);
        one.options.optimizer.form = forms[f];
        training_run_well(&one);
        for (int ranks = 1; ranks <= 3; ranks++) {
            for (int zero = ZERO_0; zero <= ZERO_2; zero++) {
                struct training other = training_of(ranks, (enum zero_stage)zero, DTYPE_BF16);
                other.options.optimizer.form = forms[f];
                training_run_well(&other);
                assert_true(fabs(other.stats[0].grad_norm / one.stats[0].grad_norm - 1) < 0x1p-7);
                assert_losses_near(&one, &other, 0x1p-7);
                if (ranks == 1 && zero < ZERO_2)
                    assert_same_state(&one, &other);
                training_release(&other);
            }
        }
        training_release(&one);
    }
}

// Ranks that stop and go on have the same bits as ranks that do not.
static void resumed_is_uninterrupted_bit_for_bit(void **state)
{
    for (int zero = ZERO_0; zero <= ZERO_2; zero++) {
        char *directory = mem_printf("%s/%d", (char *)*state, zero);
        struct training whole = training_of(2, (enum zero_stage)zero, DTYPE_BF16);
        whole.options.optimizer.form = forms[1];
        training_run_well(&whole);
        for (int part = 0; part < 3; part++) {
            struct training some = training_of(2, (enum zero_stage)zero, DTYPE_BF16);
            some.options.optimizer.form = forms[1];
            some.checkpoints = directory;
            some.stop_after = some.save_every = STEPS / 3;
            training_run_well(&some);
            assert_int_equal(some.loaded, part > 0);
            assert_string_equal(some.changed, "");
            assert_losses_near(&whole, &some, 0);
            if (part == 2)
                assert_same_state(&whole, &some);
            training_release(&some);
        }
        training_release(&whole);
        free(directory);
    }
}

static void another_type_continues_and_says_so(void **state)
{
    struct training first = training_of(1, ZERO_0, DTYPE_F32);
    struct training second = training_of(1, ZERO_0, DTYPE_BF16);
    first.checkpoints = second.checkpoints = *state;
    first.stop_after = second.stop_after = first.save_every = second.save_every = 3;
    training_run_well(&first);
    training_run_well(&second);
    assert_int_equal(second.first_step, 3);
    assert_string_equal(second.changed, "gradients (f32, now bf16)");
    training_release(&first);
    training_release(&second);
}

static void exact_sums_are_refused(void **state)
{
    (void)state;
    for (int zero = ZERO_0; zero <= ZERO_2; zero++) {
        struct training exact = training_of(2, (enum zero_stage)zero, DTYPE_BF16);
        exact.options.exact_sums = true;
        assert_int_equal(training_run(&exact), -1);
        assert_non_null(strstr(exact.err.text, "give --grad-dtype f32 or --reduce float"));
        training_release(&exact);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pass_rounds_matrices_once_and_vectors_not),
        cmocka_unit_test(it_learns_within_the_spread_of_seeds),
        cmocka_unit_test(any_ranks_and_stage_train_alike),
        cmocka_unit_test_setup_teardown(resumed_is_uninterrupted_bit_for_bit,
                                        temporary_directory_setup, temporary_directory_teardown),
        cmocka_unit_test_setup_teardown(another_type_continues_and_says_so,
                                        temporary_directory_setup, temporary_directory_teardown),
        cmocka_unit_test(exact_sums_are_refused),
    };
    return cmocka_run_group_tests(tests, set_setup, set_teardown);
}
