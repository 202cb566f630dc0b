// SPDX-License-Identifier: Apache-2.0
// Stands in for nccl.c in a build without CUDA or without NCCL's header.
#include "collectives/group_device.h"

int group_open_nccl(struct group *control, const struct group_device_options *options,
                    struct group **out, struct error *err)
{
    (void)control, (void)options, (void)out;
    return error_set(err,
                     "this memo was built without NCCL: build it where nccl.h is found (CMake's "
                     "NCCL_ROOT), or use one GPU");
}
