// SPDX-License-Identifier: Apache-2.0
// Training whose gradients and weights go through NCCL's transport while control goes through the
// host's, as with several GPUs. NCCL, the CUDA runtime and the GPUs' memory are stand-ins
// (tests/collectives/fake_nccl), the kernels are those of the CPU.
#include "collectives/flight.h"
#include "collectives/group_device.h"
#include "tests/base/temporary_directory.h"
#include "tests/worker/train_fixture.h"

#include <cuda_runtime.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STEPS = 30, RANKS = 3 };

static struct sequence_set set;
static const char *records; // NULL: none
static cudaStream_t compute;

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

static int open_gpus(struct group *control, struct group **out, struct error *err)
{
    char first[16];
    snprintf(first, sizeof(first), "%d", group_rank(control));
    setenv("FAKE_CUDA_FIRST", first, 1);
    cudaStreamCreateWithPriority(&compute, cudaStreamNonBlocking, 0);
    if (records) {
        group_set_deadline(control, 1);
        if (group_record(control, records, err))
            return -1;
    }
    return group_open_nccl(control, &(struct group_device_options){.stream = compute}, out, err);
}

static struct training training_of(int ranks, enum zero_stage zero, enum dtype weights)
{
    struct training training = training_default(&set);
    training.ranks = ranks;
    training.vocabulary = 365;
    training.options.plan.epochs = 8;
    training.options.schedule.peak = 2e-3;
    training.options.zero = zero;
    training.options.optimizer.form.weights = weights;
    training.stop_after = STEPS;
    return training;
}

static void run_over_gpus(struct training *training)
{
    training->open_device_group = open_gpus;
    training_run_well(training);
    cudaStreamDestroy(compute);
    fake_cuda_await_end();
}

static void run_as_over_the_host(enum zero_stage zero, enum dtype weights)
{
    struct training host = training_of(RANKS, zero, weights);
    struct training gpus = training_of(RANKS, zero, weights);
    training_run_well(&host);
    run_over_gpus(&gpus);
    assert_int_equal(gpus.steps, STEPS);
    assert_true(gpus.stats[STEPS - 1].loss < gpus.stats[0].loss - 1);
    assert_losses_near(&host, &gpus, weights == DTYPE_BF16 ? 1e-3 : 1e-5);
    training_release(&host);
    training_release(&gpus);
}

static void gradients_are_summed(void **state)
{
    (void)state;
    run_as_over_the_host(ZERO_0, DTYPE_F32);
}

static void divided_states_exchange_weights(void **state)
{
    (void)state;
    run_as_over_the_host(ZERO_1, DTYPE_F32);
    run_as_over_the_host(ZERO_1, DTYPE_BF16);
}

// One rank alone is the measure of any number of them.
static void sums_of_gradients_are_divided(void **state)
{
    (void)state;
    struct training one = training_of(1, ZERO_0, DTYPE_F32);
    training_run_well(&one);
    for (int ranks = 2; ranks <= 4; ranks++) {
        struct training gpus = training_of(ranks, ZERO_2, DTYPE_F32);
        run_over_gpus(&gpus);
        assert_losses_near(&one, &gpus, 1e-5);
        training_release(&gpus);
    }
    training_release(&one);
    run_as_over_the_host(ZERO_2, DTYPE_BF16);
}

static struct training exact_training(int ranks, enum zero_stage zero)
{
    struct training training = training_of(ranks, zero, DTYPE_F32);
    training.options.exact_sums = true;
    training.stop_after = 12;
    return training;
}

static void exact_sums_have_the_bits_of_one_rank_on_the_host(void **state)
{
    (void)state;
    struct training one = exact_training(1, ZERO_0);
    training_run_well(&one);
    for (int ranks = 2; ranks <= 4; ranks++) {
        for (enum zero_stage zero = ZERO_0; zero <= ZERO_2; zero++) {
            struct training gpus = exact_training(ranks, zero);
            run_over_gpus(&gpus);
            assert_same_state(&one, &gpus);
            training_release(&gpus);
        }
    }
    training_release(&one);
}

// Every leg on another number of ranks, with another stage.
static void runs_continue_on_other_ranks_and_stages(void **state)
{
    struct training whole = exact_training(1, ZERO_0);
    training_run_well(&whole);
    static const struct {
        int ranks;
        enum zero_stage zero;
    } legs[] = {{3, ZERO_2}, {2, ZERO_2}, {4, ZERO_1}, {3, ZERO_0}};
    enum { LEGS = sizeof(legs) / sizeof(legs[0]) };
    for (size_t leg = 0; leg < LEGS; leg++) {
        struct training gpus = exact_training(legs[leg].ranks, legs[leg].zero);
        gpus.checkpoints = *state;
        gpus.save_every = 3;
        gpus.stop_after = 3;
        run_over_gpus(&gpus);
        assert_int_equal(gpus.first_step, 3 * leg);
        if (leg + 1 == LEGS)
            assert_same_state(&whole, &gpus);
        training_release(&gpus);
    }
    training_release(&whole);
}

// Of rank 1 the 9th call never starts: its GPU hangs. All ranks end, with one text.
static void sum_that_hangs_ends_the_run(void **state)
{
    struct training training = training_of(RANKS, ZERO_0, DTYPE_F32);
    records = *state;
    setenv("FAKE_NCCL_FAULT", "call-hang:1:9", 1);
    training.open_device_group = open_gpus;
    assert_int_equal(training_run(&training), -1);
    unsetenv("FAKE_NCCL_FAULT");
    records = NULL;
    cudaStreamDestroy(compute);
    fake_cuda_await_end();
    assert_non_null(strstr(training.err.text, "all-reduce f32 number "));
    assert_non_null(strstr(training.err.text, "the call was not done within 1 s"));
    for (int r = 0; r < RANKS; r++)
        assert_true(flight_exists(fs_system(), *state, r));
    training_release(&training);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_are_summed),
        cmocka_unit_test(divided_states_exchange_weights),
        cmocka_unit_test(sums_of_gradients_are_divided),
        cmocka_unit_test(exact_sums_have_the_bits_of_one_rank_on_the_host),
        cmocka_unit_test_setup_teardown(runs_continue_on_other_ranks_and_stages,
                                        temporary_directory_setup, temporary_directory_teardown),
        cmocka_unit_test_setup_teardown(sum_that_hangs_ends_the_run, temporary_directory_setup,
                                        temporary_directory_teardown),
    };
    return cmocka_run_group_tests(tests, set_setup, set_teardown);
}
