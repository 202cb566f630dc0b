// SPDX-License-Identifier: Apache-2.0
// All-reduce of 4 M floats over 2 ranks, beside memcpy of the same bytes by the same ranks in the
// same run. Under mpirun it measures MPI, otherwise shared memory.
#include "base/clock.h"
#include "base/mem.h"
#include "collectives/group.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT (4u << 20)
#define ROUNDS 15

static int compare_seconds(const void *a, const void *b)
{
    double x = *(const double *)a;
    double y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *seconds)
{
    qsort(seconds, ROUNDS, sizeof(*seconds), compare_seconds);
    return seconds[ROUNDS / 2];
}

static int measure(struct group *group, void *context, struct error *err)
{
    (void)context;
    float *data = mem_calloc(COUNT, sizeof(*data));
    float *copy = mem_calloc(COUNT, sizeof(*copy));
    double copies[ROUNDS];
    double sums[ROUNDS];
    int rc = 0;
    memset(copy, 1, COUNT * sizeof(*copy)); // every page is there before the clock starts
    for (int i = 0; rc == 0 && i < ROUNDS; i++) {
        for (size_t k = 0; k < COUNT; k++) {
            data[k] = (float)(k % 100);
        }
        rc = group_barrier(group, err);
        double begin = clock_seconds();
        memcpy(copy, data, COUNT * sizeof(*data));
        copies[i] = clock_seconds() - begin;
        rc = rc ? rc : group_barrier(group, err);
        begin = clock_seconds();
        rc = rc ? rc : group_all_reduce_f32(group, data, COUNT, err);
        sums[i] = clock_seconds() - begin;
        for (size_t k = 0; rc == 0 && k < COUNT; k++) {
            if (data[k] != copy[k] * (float)group_size(group)) {
                rc = error_set(err, "element %zu is wrong", k);
            }
        }
    }
    if (rc == 0 && group_rank(group) == 0) {
        double all_reduce = median(sums);
        double memory = median(copies);
        printf("%s, %d ranks, %u floats: all-reduce %.2f ms, memcpy %.2f ms, ratio %.1f\n",
               group_transport(group), group_size(group), COUNT, 1e3 * all_reduce, 1e3 * memory,
               all_reduce / memory);
    }
    free(data);
    free(copy);
    return rc;
}

int main(void)
{
    struct error err = {{0}};
    struct group *group = NULL;
    int rc = group_open(&group, &err);
    if (rc == 0 && strcmp(group_transport(group), "self") == 0) {
        rc = group_run_shm(2, measure, NULL, &err);
    } else if (rc == 0) {
        rc = measure(group, NULL, &err);
    }
    if (rc != 0) {
        fprintf(stderr, "%s\n", err.text);
    }
    group_close(group);
    return rc != 0;
}
