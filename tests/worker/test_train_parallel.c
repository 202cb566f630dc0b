// SPDX-License-Identifier: Apache-2.0
// However many ranks there are and whatever they divide among themselves, training is the same: to
// rounding by default, bit for bit with exact sums.
#include "tests/base/temporary_directory.h"
#include "tests/worker/train_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

enum { STEPS = 30, RANKS = 4 };

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

// 16,576 elements: five units of 4,096, so that four ranks have two, one, one and one.
static struct training training_of(int ranks, enum zero_stage zero, bool exact)
{
    struct training training = training_default(&set);
    training.ranks = ranks;
    training.vocabulary = 365;
    training.options.plan.epochs = 8;
    training.options.schedule.peak = 2e-3;
    training.options.zero = zero;
    training.options.exact_sums = exact;
    training.stop_after = STEPS;
    return training;
}

static void run_all(struct training *training)
{
    training_run_well(training);
    assert_int_equal(training->steps, STEPS);
}

static void assert_same_stats(const struct training *a, const struct training *b)
{
    for (size_t i = 0; i < a->steps; i++) {
        assert_true(a->stats[i].loss == b->stats[i].loss);
        assert_true(a->stats[i].grad_norm == b->stats[i].grad_norm);
    }
}

static void exact_sums_give_the_same_bits_on_any_ranks_and_stage(void **state)
{
    (void)state;
    struct training one = training_of(1, ZERO_0, true);
    run_all(&one);
    assert_true(one.elements > 4 * 4096 && one.elements < 5 * 4096);
    assert_true(one.stats[STEPS - 1].loss < one.stats[0].loss - 1);
    for (int ranks = 1; ranks <= RANKS; ranks++) {
        for (int zero = ZERO_0; zero <= ZERO_2; zero++) {
            struct training other = training_of(ranks, (enum zero_stage)zero, true);
            run_all(&other);
            assert_same_stats(&one, &other);
            assert_same_state(&one, &other);
            training_release(&other);
        }
    }
    training_release(&one);
}

static void float_sums_agree_on_any_ranks_and_stage(void **state)
{
    (void)state;
    struct training one = training_of(1, ZERO_0, false), exact = training_of(1, ZERO_0, true);
    run_all(&one);
    run_all(&exact);
    assert_losses_near(&one, &exact, 1e-5);
    for (int ranks = 1; ranks <= RANKS; ranks++) {
        for (int zero = ZERO_0; zero <= ZERO_2; zero++) {
            struct training other = training_of(ranks, (enum zero_stage)zero, false);
            run_all(&other);
            assert_losses_near(&one, &other, 1e-5);
            training_release(&other);
        }
    }
    training_release(&one);
    training_release(&exact);
}

static const struct state_form forms[] = {
    {DTYPE_BF16, MOMENTS_F32}, {DTYPE_F32, MOMENTS_BF16}, {DTYPE_BF16, MOMENTS_8BIT}};

enum { FORMS = sizeof(forms) / sizeof(*forms) };

static void small_states_are_the_same_on_any_ranks_too(void **state)
{
    (void)state;
    for (size_t f = 0; f < FORMS; f++) {
        struct training one = training_of(1, ZERO_0, true), other = training_of(3, ZERO_2, true);
        one.options.optimizer.form = other.options.optimizer.form = forms[f];
        run_all(&one);
        run_all(&other);
        assert_same_stats(&one, &other);
        assert_same_state(&one, &other);
        assert_true(one.stats[STEPS - 1].loss < one.stats[0].loss - 1);
        training_release(&one);
        training_release(&other);
    }
}

// What bfloat16 rounds off the weights is in the remainder, and moves them in the end.
static void weights_in_two_halves_learn_like_whole_ones(void **state)
{
    (void)state;
    struct training whole = training_of(1, ZERO_0, false), halves = whole, coded = whole;
    halves.options.optimizer.form.weights = DTYPE_BF16;
    coded.options.optimizer.form = (struct state_form){DTYPE_BF16, MOMENTS_8BIT};
    run_all(&whole);
    run_all(&halves);
    run_all(&coded);
    assert_losses_near(&whole, &halves, 0.02);
    assert_losses_near(&whole, &coded, 0.1);
    size_t between = 0; // weights that bfloat16 alone could not hold
    for (size_t i = 0; i < halves.elements; i++)
        between += bf16_to_f32(bf16_from_f32(halves.state[i])) != halves.state[i];
    assert_true(between > halves.elements / 2);
    training_release(&whole);
    training_release(&halves);
    training_release(&coded);
}

// Every few steps other ranks and another stage continue.
static void any_ranks_and_stage_continue_bit_for_bit(void **state)
{
    static const struct {
        int ranks;
        enum zero_stage zero;
    } parts[] = {{2, ZERO_1}, {1, ZERO_0}, {4, ZERO_2}, {3, ZERO_0}, {3, ZERO_2}, {1, ZERO_2}};
    for (size_t f = 0; f < FORMS; f++) {
        char *directory = mem_printf("%s/%zu", (char *)*state, f);
        struct training whole = training_of(1, ZERO_0, true);
        whole.options.optimizer.form = forms[f];
        run_all(&whole);
        for (size_t i = 0; i < 6; i++) {
            struct training part = training_of(parts[i].ranks, parts[i].zero, true);
            part.options.optimizer.form = forms[f];
            part.checkpoints = directory;
            part.stop_after = part.save_every = STEPS / 6;
            training_run_well(&part);
            assert_int_equal(part.loaded, i > 0);
            assert_int_equal(part.first_step, i * (STEPS / 6));
            assert_losses_near(&whole, &part, 0);
            if (i == 5)
                assert_same_state(&whole, &part);
            training_release(&part);
        }
        training_release(&whole);
        free(directory);
    }
}

static void another_form_does_not_continue(void **state)
{
    struct training first = training_of(1, ZERO_0, true), other = first;
    first.checkpoints = other.checkpoints = *state;
    first.stop_after = first.save_every = 1;
    other.options.optimizer.form.moments = MOMENTS_8BIT;
    training_run_well(&first);
    assert_int_equal(training_run(&other), -1);
    assert_non_null(strstr(other.err.text, "was made with other data, options or model"));
    training_release(&first);
    training_release(&other);
}

static void exact_sums_notice_what_they_cannot_hold(void **state)
{
    (void)state;
    for (int ranks = 1; ranks <= 2; ranks++) {
        for (int zero = ZERO_0; zero <= ZERO_2; zero++) {
            struct training diverging = training_of(ranks, (enum zero_stage)zero, true);
            diverging.options.schedule.peak = 1e30;
            assert_int_equal(training_run(&diverging), -1);
            assert_non_null(strstr(diverging.err.text, "training diverged; lower --lr"));
            training_release(&diverging);
        }
    }
}

static void a_rank_that_dies_ends_a_divided_run(void **state)
{
    (void)state;
    struct training training = training_of(3, ZERO_2, false);
    training.stop_after = 3;
    training.die_rank = 1 + 1;
    assert_int_equal(training_run(&training), -1);
    if (!strstr(training.err.text, "rank 1"))
        fail_msg("'%s' does not name the rank", training.err.text);
    training_release(&training);
}

int main(void)
{
#define IN_DIRECTORY(test)                                                                         \
    cmocka_unit_test_setup_teardown(test, temporary_directory_setup, temporary_directory_teardown)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exact_sums_give_the_same_bits_on_any_ranks_and_stage),
        cmocka_unit_test(float_sums_agree_on_any_ranks_and_stage),
        cmocka_unit_test(small_states_are_the_same_on_any_ranks_too),
        cmocka_unit_test(weights_in_two_halves_learn_like_whole_ones),
        IN_DIRECTORY(any_ranks_and_stage_continue_bit_for_bit),
        IN_DIRECTORY(another_form_does_not_continue),
        cmocka_unit_test(exact_sums_notice_what_they_cannot_hold),
        cmocka_unit_test(a_rank_that_dies_ends_a_divided_run),
    };
    return cmocka_run_group_tests(tests, set_setup, set_teardown);
}
