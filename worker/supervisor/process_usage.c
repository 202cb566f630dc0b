// SPDX-License-Identifier: Apache-2.0
#include "worker/supervisor/process_usage.h"

#include "base/fs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int read_file(pid_t pid, const char *name, struct strbuf *out, struct error *err)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, name);
    return fs_read(fs_system(), path, out, err);
}

// The number of kilobytes behind "\nNAME:"; 0 when the kernel does not say.
static uint64_t kilobytes(const char *status, const char *name)
{
    const char *at = strstr(status, name);
    return at ? strtoull(at + strlen(name), NULL, 10) : 0;
}

// /proc/PID/stat: behind the name, which ends with the last ')', fields 3, 4, ... of proc(5);
// 10 and 12 are page faults, 14 and 15 ticks in user and system mode.
static uint64_t sum_activity(const char *stat)
{
    const char *at = strrchr(stat, ')');
    uint64_t sum = 0;
    for (int field = 3; at && field <= 15; field++) {
        at = strchr(at + 1, ' ');
        if (at && (field == 10 || field == 12 || field >= 14))
            sum += strtoull(at + 1, NULL, 10);
    }
    return sum;
}

int process_usage_read(pid_t pid, struct process_usage *out, struct error *err)
{
    struct strbuf status = {0}, stat = {0};
    const int rc =
        read_file(pid, "status", &status, err) || read_file(pid, "stat", &stat, err) ? -1 : 0;
    if (rc == 0)
        *out =
            (struct process_usage){.memory_bytes = 1024 * (kilobytes(status.bytes, "\nRssAnon:") +
                                                           kilobytes(status.bytes, "\nRssShmem:")),
                                   .activity = sum_activity(stat.bytes)};
    strbuf_release(&status);
    strbuf_release(&stat);
    return rc;
}
