// SPDX-License-Identifier: Apache-2.0
// Whether a process that made claims has ended, where that can be known at once: it ran on this
// host, or Slurm has started its job again.
#ifndef MEMO_COORDINATOR_CLAIMS_PROCESS_H
#define MEMO_COORDINATOR_CLAIMS_PROCESS_H

#include "coordinator/claims.h"

// This process in one line: host, boot, pid namespace, pid, start time, Slurm job and restart.
void claims_process_describe(char out[CLAIMS_PROCESS_BYTES]);

// True only when the process of the line has certainly ended.
bool claims_process_is_gone(const char *process);

#endif
