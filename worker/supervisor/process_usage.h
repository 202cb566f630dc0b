// SPDX-License-Identifier: Apache-2.0
// What the kernel says of another process, from /proc/PID.
#ifndef MEMO_WORKER_PROCESS_USAGE_H
#define MEMO_WORKER_PROCESS_USAGE_H

#include "base/error.h"

#include <stdint.h>
#include <sys/types.h>

struct process_usage {
    // Resident memory that is its own or shared with others by intent: RssAnon + RssShmem. Pages of
    // mapped files are left out, the system takes them back when it needs memory.
    uint64_t memory_bytes;
    // Grows as long as the process does anything: ticks of processor time and page faults.
    uint64_t activity;
};

int process_usage_read(pid_t pid, struct process_usage *out, struct error *err);

#endif
