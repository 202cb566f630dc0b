// SPDX-License-Identifier: Apache-2.0
#include "collectives/gpu_choice.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DRIVER_DIRECTORY "/proc/driver/nvidia/gpus" // an entry per GPU

// Entry `index` of a list with commas: where it begins, and its length.
static const char *entry_of(const char *list, int index, size_t *length)
{
    for (; index > 0; index--) {
        list = strchr(list, ',') + 1;
    }
    *length = strcspn(list, ",");
    return list;
}

// As CUDA reads it: the list ends at the first entry that is empty or negative.
static int count_entries(const char *list)
{
    int count = 0;
    while (*list != '\0' && *list != ',' && *list != '-') {
        count++;
        list += strcspn(list, ",");
        list += *list == ',';
    }
    return count;
}

int gpu_choice_pick(const char *visible, int present, int local_rank, char *out, size_t out_bytes,
                    struct error *err)
{
    const int count = visible ? count_entries(visible) : present;
    out[0] = '\0';
    if (count <= 1) {
        return 0;
    }
    if (local_rank >= count) {
        return error_set(
            err,
            "rank %d of this host has no GPU of its own: %d are visible%s%s%s; start at "
            "most %d ranks per host (mpirun --map-by ppr:%d:node, srun "
            "--ntasks-per-node=%d)",
            local_rank, count, visible ? " (CUDA_VISIBLE_DEVICES=" : "", visible ? visible : "",
            visible ? ")" : "", count, count, count);
    }
    if (visible) {
        size_t length;
        const char *entry = entry_of(visible, local_rank, &length);
        snprintf(out, out_bytes, "%.*s", (int)length, entry);
    } else {
        snprintf(out, out_bytes, "%d", local_rank);
    }
    return 0;
}

static int count_present(void)
{
    int count = 0;
    DIR *directory = opendir(DRIVER_DIRECTORY);
    if (directory == NULL) {
        return 0;
    }
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        count += entry->d_name[0] != '.';
    }
    closedir(directory);
    return count;
}

// Under mpirun SLURM_LOCALID is that of the daemon that started the ranks of a host, for all alike.
static const char *find_local_rank(void)
{
    const char *text = getenv("OMPI_COMM_WORLD_LOCAL_RANK");
    if (text == NULL) {
        text = getenv("MPI_LOCALRANKID");
    }
    if (text == NULL && getenv("SLURM_STEP_NUM_TASKS") != NULL) {
        text = getenv("SLURM_LOCALID");
    }
    return text;
}

int gpu_choice_apply(struct error *err)
{
    char chosen[128];
    const char *local_rank = find_local_rank();
    if (local_rank == NULL) {
        return 0;
    }
    if (gpu_choice_pick(getenv("CUDA_VISIBLE_DEVICES"), count_present(), atoi(local_rank), chosen,
                        sizeof(chosen), err) != 0) {
        return -1;
    }
    if (chosen[0] != '\0') {
        setenv("CUDA_VISIBLE_DEVICES", chosen, 1);
    }
    return 0;
}
