// SPDX-License-Identifier: Apache-2.0
// NCCL as it was found when it was needed: nccl_library.c loads it, nccl.c uses it.
#ifndef MEMO_COLLECTIVES_NCCL_INTERNAL_H
#define MEMO_COLLECTIVES_NCCL_INTERNAL_H

#include "base/error.h"

#include <nccl.h>

struct nccl {
    __typeof__(&ncclGetVersion) GetVersion;
    __typeof__(&ncclGetUniqueId) GetUniqueId;
    __typeof__(&ncclCommInitRankConfig) CommInitRankConfig;
    __typeof__(&ncclCommGetAsyncError) CommGetAsyncError;
    __typeof__(&ncclCommFinalize) CommFinalize;
    __typeof__(&ncclCommDestroy) CommDestroy;
    __typeof__(&ncclCommAbort) CommAbort;
    __typeof__(&ncclGetErrorString) GetErrorString;
    __typeof__(&ncclGetLastError) GetLastError;
    __typeof__(&ncclGroupStart) GroupStart;
    __typeof__(&ncclGroupEnd) GroupEnd;
    __typeof__(&ncclAllReduce) AllReduce;
    __typeof__(&ncclReduceScatter) ReduceScatter;
    __typeof__(&ncclAllGather) AllGather;
    __typeof__(&ncclBroadcast) Broadcast;
    int version; // 22809 is 2.28.9
};

// The library stays loaded for the life of the process.
int nccl_load(struct nccl *nccl, struct error *err);

void nccl_format_version(int version, char out[32]);

// ncclInProgress is no failure: a communicator that does not block says it all the time.
int nccl_check(const struct nccl *nccl, ncclResult_t result, const char *what, struct error *err);

#endif
