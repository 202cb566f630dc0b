// SPDX-License-Identifier: Apache-2.0
// What tests of the whole program arrange in the emulated runtime, by variables:
//   MEMO_EMULATOR_DEVICE=9,0,8589934592   compute capability and bytes of memory
//   MEMO_EMULATOR_DRIVER=13000            its version; 0: there is none
//   MEMO_EMULATOR_FAIL=NAME,ERROR,CALLS   after so many calls of this function it fails once
#include "tests/cuda_emulator/arrange.h"

#include <stdio.h>
#include <stdlib.h>

static void arrange_device(const char *text)
{
    int major, minor;
    size_t bytes;
    if (sscanf(text, "%d,%d,%zu", &major, &minor, &bytes) == 3)
        emulator_set_device(major, minor, bytes);
    else
        abort();
}

static void arrange_failure(const char *text)
{
    char function[64];
    int error;
    unsigned calls;
    if (sscanf(text, "%63[^,],%d,%u", function, &error, &calls) == 3)
        emulator_fail_later(function, error, calls);
    else
        abort();
}

static struct arrangement {
    arrangement()
    {
        const char *device = getenv("MEMO_EMULATOR_DEVICE");
        const char *driver = getenv("MEMO_EMULATOR_DRIVER");
        const char *failure = getenv("MEMO_EMULATOR_FAIL");
        if (device)
            arrange_device(device);
        if (driver)
            emulator_set_driver(atoi(driver));
        if (failure)
            arrange_failure(failure);
    }
} arrangement;
