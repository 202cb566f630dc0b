// SPDX-License-Identifier: Apache-2.0
// Stands in for mpi.c in a build without MPI: one process is a group of one, several are an error.
#include "collectives/group_internal.h"

int group_open_launched(const struct launch *launch, struct group **out, struct error *err)
{
    if (launch_refuse_split(
            launch, "this memo was built without MPI; build it without MEMO_MINIMAL", err) != 0) {
        return -1;
    }
    return group_open_self(out, err);
}
