// SPDX-License-Identifier: Apache-2.0
// What the two sides of a launcher share: orders and events are packets of a SOCK_SEQPACKET socket.
#ifndef MEMO_WORKER_LAUNCHER_INTERNAL_H
#define MEMO_WORKER_LAUNCHER_INTERNAL_H

#include <sys/types.h>

#define PROGRAM_BYTES 4096
#define PASSED 2 // descriptors that come with ORDER_START: socket, log

struct order {
    enum { ORDER_START, ORDER_KILL } kind;
    char program[PROGRAM_BYTES];
};

// The forked process: obeys until the rank is gone.
_Noreturn void launcher_run(int control, pid_t rank);

#endif
