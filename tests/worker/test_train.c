// SPDX-License-Identifier: Apache-2.0
// Training gives the same result however a step is laid out, and refuses what cannot be trained.
#include "tests/worker/train_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <string.h>

static int set_setup(void **state)
{
    static struct sequence_set set;
    fixture_set_fill(&set, 31, 9);
    *state = &set;
    return 0;
}

static int set_teardown(void **state)
{
    sequence_set_release(*state);
    return 0;
}

static void assert_ranks_agree(const struct sequence_set *set, size_t per_step)
{
    struct training one = training_default(set);
    one.options.plan.per_step = per_step;
    one.stop_after = 24;
    training_run_well(&one);
    assert_int_equal(one.steps, 24);
    for (int ranks = 2; ranks <= 4; ranks += 2) {
        struct training many = training_default(set);
        many.options.plan.per_step = per_step;
        many.stop_after = 24;
        many.ranks = ranks;
        training_run_well(&many);
        assert_int_equal(many.steps, 24);
        assert_losses_near(&one, &many, 1e-5);
        for (size_t i = 0; i < 24; i++) {
            assert_int_equal(one.stats[i].sequences, many.stats[i].sequences);
            assert_int_equal(one.stats[i].tokens, many.stats[i].tokens);
            assert_int_equal(one.stats[i].target_tokens, many.stats[i].target_tokens);
        }
        training_release(&many);
    }
    training_release(&one);
}

static void one_two_and_four_ranks_give_the_same_losses(void **state)
{
    assert_ranks_agree(*state, 8); // the last step of an epoch has 7
}

static void ranks_agree_when_the_step_does_not_divide(void **state)
{
    assert_ranks_agree(*state, 7); // the last step of an epoch has 3
}

static void ranks_without_a_sequence_take_part(void **state)
{
    assert_ranks_agree(*state, 2); // the last step of an epoch has 1
}

static void the_same_ranks_give_the_same_bits(void **state)
{
    struct training first = training_default(*state), second = first;
    first.ranks = second.ranks = 2;
    training_run_well(&first);
    training_run_well(&second);
    assert_same_state(&first, &second);
    training_release(&first);
    training_release(&second);
}

static void micro_batches_change_losses_by_rounding_only(void **state)
{
    static const size_t sizes[] = {24, 33, 100, 1000}; // one sequence at a time, ..., all at once
    struct training base = training_default(*state);
    training_run_well(&base);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        struct training other = training_default(*state);
        other.options.micro_batch_tokens = sizes[i];
        training_run_well(&other);
        assert_int_equal(other.steps, base.steps);
        assert_losses_near(&base, &other, 1e-5);
        training_release(&other);
    }
    training_release(&base);
}

static void a_small_set_is_memorised(void **state)
{
    (void)state;
    struct sequence_set set = {0};
    fixture_set_fill(&set, 4, 2);
    struct training training = training_default(&set);
    training.options.plan.epochs = 60; // of one step each
    training.options.warmup_fraction = 0;
    training_run_well(&training);
    assert_int_equal(training.steps, 60);
    assert_int_equal(training.stats[0].sequences, 4);
    assert_true(fabs(training.stats[0].loss - log(37)) < 0.2); // knows nothing
    assert_true(training.stats[59].loss < 0.1);
    training_release(&training);
    sequence_set_release(&set);
}

static void losses_do_not_depend_on_clipping_unless_it_clips(void **state)
{
    struct training clipped = training_default(*state), free_of_it = training_default(*state);
    free_of_it.options.clip_norm = 0;
    clipped.options.clip_norm = 1e-3;
    clipped.stop_after = free_of_it.stop_after = 1;
    training_run_well(&clipped);
    training_run_well(&free_of_it);
    assert_true(clipped.stats[0].grad_norm > 1e-3);
    assert_true(clipped.stats[0].grad_norm == free_of_it.stats[0].grad_norm);
    // The first moment after one step is (1 - beta1) times the gradient that was applied.
    const float *moment = clipped.state + clipped.elements;
    const float *whole = free_of_it.state + clipped.elements;
    double squares = 0, whole_squares = 0;
    for (size_t i = 0; i < clipped.elements; i++) {
        squares += (double)moment[i] * moment[i];
        whole_squares += (double)whole[i] * whole[i];
    }
    assert_true(fabs(sqrt(squares) / (0.1 * 1e-3) - 1) < 1e-4);
    assert_true(fabs(sqrt(whole_squares) / (0.1 * free_of_it.stats[0].grad_norm) - 1) < 1e-4);
    training_release(&clipped);
    training_release(&free_of_it);
}

static void a_diverging_run_is_an_error_and_changes_nothing(void **state)
{
    for (int ranks = 1; ranks <= 2; ranks++) {
        struct training diverging = training_default(*state);
        diverging.ranks = ranks;
        diverging.options.schedule.peak = 1e30;
        assert_int_equal(training_run(&diverging), -1);
        assert_non_null(strstr(diverging.err.text, "training diverged; lower --lr"));
        assert_true(diverging.steps >= 1 && diverging.steps < 24);

        struct training before = diverging;
        before.state = NULL;
        before.stop_after = diverging.steps;
        training_run_well(&before); // the same, but for the step that failed
        assert_same_state(&diverging, &before);
        training_release(&diverging);
        training_release(&before);
    }
}

static void refuses(struct training *training, const char *why)
{
    assert_int_equal(training_run(training), -1);
    if (!strstr(training->err.text, why))
        fail_msg("'%s' does not say '%s'", training->err.text, why);
    assert_null(training->state);
}

static void an_empty_set_is_refused(void **state)
{
    (void)state;
    struct sequence_set empty = {0};
    for (int ranks = 1; ranks <= 2; ranks++) {
        struct training training = training_default(&empty);
        training.ranks = ranks;
        refuses(&training, "no sequence to train on");
    }
}

static void a_sequence_that_fits_no_micro_batch_is_refused(void **state)
{
    const struct sequence_set *set = *state;
    struct training training = training_default(set);
    training.options.micro_batch_tokens = set->longest - 1;
    refuses(&training, "tokens does not fit a micro-batch of");
    training.options.micro_batch_tokens = set->longest;
    training_run_well(&training);
    training_release(&training);
}

static void a_sequence_longer_than_the_model_is_refused(void **state)
{
    (void)state;
    int32_t ids[65] = {0};
    struct sequence_set set = {0};
    assert_int_equal(sequence_set_add(&set, ids, 65, 1, 65, 100), 0);
    struct training training = training_default(&set);
    training.options.micro_batch_tokens = 100;
    refuses(&training, "a sequence of 65 tokens, but the model has 64 positions");
    sequence_set_release(&set);
}

static void a_token_outside_the_vocabulary_is_refused(void **state)
{
    (void)state;
    static const int32_t wrong[] = {37, -1, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < 4; i++) {
        const int32_t ids[] = {0, 36, wrong[i]};
        struct sequence_set set = {0};
        assert_int_equal(sequence_set_add(&set, ids, 3, 1, 2, 100), 0);
        struct training training = training_default(&set);
        refuses(&training, "is outside the model's vocabulary of 37");
        sequence_set_release(&set);
    }
}

static void a_rank_that_begins_from_other_weights_is_refused(void **state)
{
    struct training training = training_default(*state);
    training.ranks = 3;
    training.odd_rank = 2 + 1;
    refuses(&training, "rank 2 of 3 has other data, options or weights than rank 0");
}

static void a_rank_that_dies_ends_the_run_with_an_error(void **state)
{
    struct training training = training_default(*state);
    training.ranks = 3;
    training.stop_after = 3;
    training.die_rank = 1 + 1;
    assert_int_equal(training_run(&training), -1);
    assert_non_null(strstr(training.err.text, "rank 1: the process was killed"));
    training_release(&training);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_two_and_four_ranks_give_the_same_losses),
        cmocka_unit_test(ranks_agree_when_the_step_does_not_divide),
        cmocka_unit_test(ranks_without_a_sequence_take_part),
        cmocka_unit_test(the_same_ranks_give_the_same_bits),
        cmocka_unit_test(micro_batches_change_losses_by_rounding_only),
        cmocka_unit_test(a_small_set_is_memorised),
        cmocka_unit_test(losses_do_not_depend_on_clipping_unless_it_clips),
        cmocka_unit_test(a_diverging_run_is_an_error_and_changes_nothing),
        cmocka_unit_test(an_empty_set_is_refused),
        cmocka_unit_test(a_sequence_that_fits_no_micro_batch_is_refused),
        cmocka_unit_test(a_sequence_longer_than_the_model_is_refused),
        cmocka_unit_test(a_token_outside_the_vocabulary_is_refused),
        cmocka_unit_test(a_rank_that_begins_from_other_weights_is_refused),
        cmocka_unit_test(a_rank_that_dies_ends_the_run_with_an_error),
    };
    return cmocka_run_group_tests(tests, set_setup, set_teardown);
}
