// SPDX-License-Identifier: Apache-2.0
// Recognises a parallel launch by what launchers put into the environment of each process:
//   OMPI_COMM_WORLD_SIZE  Open MPI's mpirun
//   PMIX_RANK             srun --mpi=pmix, prun; the size is SLURM_STEP_NUM_TASKS under Slurm
//   PMI_RANK, PMI_SIZE    Hydra (MPICH, Intel MPI), srun --mpi=pmi2
//   SLURM_STEP_NUM_TASKS  srun; alone (--mpi=none) the tasks need group_open_meeting; then
//                         SLURM_PROCID and SLURM_STEP_NUM_NODES say more
// A batch script and what it starts directly have none of these.
#include "collectives/group_internal.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

static long number_in(const char *variable)
{
    const char *text = getenv(variable);
    return text ? strtol(text, NULL, 10) : 0;
}

struct launch launch_detect(void)
{
    if (getenv("OMPI_COMM_WORLD_SIZE")) {
        return (struct launch){"OMPI_COMM_WORLD_SIZE", true, number_in("OMPI_COMM_WORLD_SIZE")};
    }
    if (getenv("PMIX_RANK")) {
        return (struct launch){"PMIX_RANK", true, number_in("SLURM_STEP_NUM_TASKS")};
    }
    if (getenv("PMI_RANK")) {
        return (struct launch){"PMI_RANK", true, number_in("PMI_SIZE")};
    }
    if (getenv("SLURM_STEP_NUM_TASKS")) {
        return (struct launch){"SLURM_STEP_NUM_TASKS", false, number_in("SLURM_STEP_NUM_TASKS")};
    }
    return (struct launch){NULL, false, 1};
}

// mpirun has ranks of its own, whatever srun started the daemons that started them.
bool launch_place(struct launch_place *out)
{
    const char *rank = getenv("SLURM_PROCID");
    const long size = number_in("SLURM_STEP_NUM_TASKS");
    const char *nodes = getenv("SLURM_STEP_NUM_NODES");
    if (getenv("OMPI_COMM_WORLD_SIZE") || rank == NULL || size < 1 || size > INT_MAX) {
        return false;
    }
    *out = (struct launch_place){
        .rank = atoi(rank), .size = (int)size, .one_host = nodes && strcmp(nodes, "1") == 0};
    return out->rank >= 0 && out->rank < out->size;
}

int launch_refuse_split(const struct launch *launch, const char *remedy, struct error *err)
{
    if (launch->variable == NULL || launch->size == 1) {
        return 0;
    }
    if (launch->size > 1) {
        return error_set(err,
                         "%ld processes were started together ('%s' is set), but each would run "
                         "the whole job alone: %s",
                         launch->size, launch->variable, remedy);
    }
    return error_set(err,
                     "a parallel launcher started this process ('%s' is set), but it would run "
                     "the whole job alone: %s",
                     launch->variable, remedy);
}
