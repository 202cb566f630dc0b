// SPDX-License-Identifier: Apache-2.0
// Which GPU of its host a rank uses: the one with the number of the rank among those of the host.
// It is chosen by CUDA_VISIBLE_DEVICES, before anything of CUDA has started (an MPI library that
// knows CUDA starts it), so that the GPU is device 0 for every thread and library of the process.
//
//     GPUs that the process sees     becomes
//     one                            itself: the launcher chose (srun --gpus-per-task=1)
//     several                        the one of the local rank; an error when there are too few
//     none                           none: device_create says what is wrong
//
// The local rank is, in this order: OMPI_COMM_WORLD_LOCAL_RANK (mpirun), MPI_LOCALRANKID (Hydra),
// SLURM_LOCALID of a process that srun started. A process without any of them sees what it saw.
#ifndef MEMO_COLLECTIVES_GPU_CHOICE_H
#define MEMO_COLLECTIVES_GPU_CHOICE_H

#include "base/error.h"

#include <stddef.h>

// Sets CUDA_VISIBLE_DEVICES of this process. Before threads, MPI and CUDA.
int gpu_choice_apply(struct error *err);

// The choice alone. visible: what CUDA_VISIBLE_DEVICES says, numbers or UUIDs; NULL: it is not set,
// and the host has `present` GPUs. out becomes the new value, "" when there is nothing to change.
int gpu_choice_pick(const char *visible, int present, int local_rank, char *out, size_t out_bytes,
                    struct error *err);

#endif
