// SPDX-License-Identifier: Apache-2.0
// One way of going wrong per name; run under mpirun with 2 ranks, whose output the tests compare.
#include "collectives/group_internal.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

// Rank 1 closes the group while rank 0 waits for it.
static int leave_early(struct group *group, struct error *err)
{
    if (group_barrier(group, err) != 0) {
        return -1;
    }
    return group_rank(group) == 1 ? 0 : group_barrier(group, err);
}

// Rank 1 is busy for longer than rank 0 is ready to wait.
static int arrive_late(struct group *group, struct error *err)
{
    group->deadline_seconds = 1.0;
    if (group_rank(group) == 1) {
        sleep(20);
        return 0;
    }
    float data[100] = {0};
    return group_all_reduce_f32(group, data, 100, err);
}

// Rank 1 announces more bytes than rank 0 expects: an error of MPI's own.
static int disagree(struct group *group, struct error *err)
{
    char in[64] = {0};
    char out[128];
    return group_all_gather(group, out, in, group_rank(group) == 1 ? 64 : 32, err);
}

int main(int argc, char **argv)
{
    struct error err = {{0}};
    struct group *group = NULL;
    const char *name = argc == 2 ? argv[1] : "";
    if (group_open(&group, &err) != 0) {
        fprintf(stderr, "%s\n", err.text);
        return 1;
    }
    int rc = 0;
    if (strcmp(name, "leave") == 0) {
        rc = leave_early(group, &err);
    } else if (strcmp(name, "late") == 0) {
        rc = arrive_late(group, &err);
    } else if (strcmp(name, "disagree") == 0) {
        rc = disagree(group, &err);
    }
    if (rc != 0) {
        fprintf(stderr, "returned: %s\n", err.text);
    }
    group_close(group);
    return rc != 0;
}
