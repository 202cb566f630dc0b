// SPDX-License-Identifier: Apache-2.0
// Faults of an engine on demand, so that tests of the whole binary can break it: with
// MEMO_ENGINE_FAULT=KIND:TEXT in the environment a request of which a part holds TEXT makes the
// engine's process
//
//     segv     die of SIGSEGV
//     stop     stop, as if it hung (SIGSTOP)
//     memory   take memory without end
//     exit     end with code 3
//     broken   report that its device failed
//
// The last returns -1, the others do not return.
#ifndef MEMO_WORKER_ENGINE_FAULT_H
#define MEMO_WORKER_ENGINE_FAULT_H

#include "base/error.h"
#include "worker/lm/lm.h"

// fault NULL: none. An unknown kind is an error as well.
int engine_fault_trip(const char *fault, const struct lm_request *request, struct error *err);

#endif
