// SPDX-License-Identifier: Apache-2.0
#include "collectives/gpu_choice.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void assert_pick(const char *visible, int present, int local_rank, const char *want)
{
    struct error err = {{0}};
    char out[64] = "untouched";
    assert_int_equal(gpu_choice_pick(visible, present, local_rank, out, sizeof(out), &err), 0);
    assert_string_equal(out, want);
}

static void local_rank_takes_its_entry(void **state)
{
    (void)state;
    assert_pick("0,1,2,3", 8, 0, "0");
    assert_pick("0,1,2,3", 8, 3, "3");
    assert_pick("4,6", 8, 1, "6");
    assert_pick("GPU-1b2c,MIG-77,GPU-9", 8, 1, "MIG-77");
    assert_pick(NULL, 8, 5, "5");
}

static void single_gpu_stays_what_it_is(void **state)
{
    (void)state;
    assert_pick("3", 8, 0, "");
    assert_pick("3", 8, 7, ""); // the launcher gave each rank its own, or NCCL's transport refuses
    assert_pick(NULL, 1, 2, "");
    assert_pick("5,-1,2", 8, 1, ""); // CUDA ends the list at -1
}

static void no_gpu_is_left_to_the_device(void **state)
{
    (void)state;
    assert_pick("", 8, 1, "");
    assert_pick("-1", 8, 1, "");
    assert_pick(NULL, 0, 1, "");
}

static void too_few_gpus_are_refused(void **state)
{
    (void)state;
    struct error err = {{0}};
    char out[64];
    assert_int_equal(gpu_choice_pick("4,6", 8, 2, out, sizeof(out), &err), -1);
    assert_string_equal(err.text, "rank 2 of this host has no GPU of its own: 2 are visible "
                                  "(CUDA_VISIBLE_DEVICES=4,6); start at most 2 ranks per host "
                                  "(mpirun --map-by ppr:2:node, srun --ntasks-per-node=2)");
    assert_int_equal(gpu_choice_pick(NULL, 4, 4, out, sizeof(out), &err), -1);
    assert_non_null(strstr(err.text, "4 are visible; start at most 4"));
}

static const char *const variables[] = {"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID",
                                        "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS"};

static int clear_environment(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(variables) / sizeof(variables[0]); i++) {
        unsetenv(variables[i]);
    }
    setenv("CUDA_VISIBLE_DEVICES", "8,9,10,11", 1);
    return 0;
}

static void assert_applied(const char *want)
{
    struct error err = {{0}};
    assert_int_equal(gpu_choice_apply(&err), 0);
    assert_string_equal(getenv("CUDA_VISIBLE_DEVICES"), want);
}

static void process_without_launcher_sees_all(void **state)
{
    (void)state;
    assert_applied("8,9,10,11");
    setenv("SLURM_LOCALID", "2", 1); // a batch script has it too
    assert_applied("8,9,10,11");
}

static void srun_gives_the_local_rank(void **state)
{
    (void)state;
    setenv("SLURM_LOCALID", "2", 1);
    setenv("SLURM_STEP_NUM_TASKS", "4", 1);
    assert_applied("10");
    assert_applied("10"); // once more changes nothing
}

static void mpirun_goes_before_the_srun_that_started_its_daemons(void **state)
{
    (void)state;
    setenv("SLURM_LOCALID", "0", 1);
    setenv("SLURM_STEP_NUM_TASKS", "1", 1);
    setenv("OMPI_COMM_WORLD_LOCAL_RANK", "3", 1);
    assert_applied("11");
}

static void rank_without_gpu_is_an_error(void **state)
{
    (void)state;
    struct error err = {{0}};
    setenv("MPI_LOCALRANKID", "4", 1);
    assert_int_equal(gpu_choice_apply(&err), -1);
    assert_string_equal(getenv("CUDA_VISIBLE_DEVICES"), "8,9,10,11");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(local_rank_takes_its_entry),
        cmocka_unit_test(single_gpu_stays_what_it_is),
        cmocka_unit_test(no_gpu_is_left_to_the_device),
        cmocka_unit_test(too_few_gpus_are_refused),
        cmocka_unit_test_setup(process_without_launcher_sees_all, clear_environment),
        cmocka_unit_test_setup(srun_gives_the_local_rank, clear_environment),
        cmocka_unit_test_setup(mpirun_goes_before_the_srun_that_started_its_daemons,
                               clear_environment),
        cmocka_unit_test_setup(rank_without_gpu_is_an_error, clear_environment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
