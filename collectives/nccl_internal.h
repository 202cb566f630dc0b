// SPDX-License-Identifier: Apache-2.0
// Inside NCCL's transport: nccl_library.c loads the library when it is needed, nccl_open.c opens a
// group, nccl_comm.c waits for the communicator and ends it, nccl.c makes the calls.
#ifndef MEMO_COLLECTIVES_NCCL_INTERNAL_H
#define MEMO_COLLECTIVES_NCCL_INTERNAL_H

#include "base/error.h"
#include "collectives/group_device.h"
#include "collectives/group_internal.h"

#include <nccl.h>

#include <stdatomic.h>

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

struct nccl_state {
    struct nccl nccl;
    ncclComm_t comm;      // NULL: not connected, or aborted
    cudaStream_t stream;  // own
    cudaStream_t compute; // the device's
    int ordinal;
    cudaEvent_t done;               // behind the last batch
    cudaEvent_t marks[GROUP_MARKS]; // mark m is marks[m % GROUP_MARKS]
    cudaEvent_t now;                // of calls without a mark
    _Atomic uint64_t mark_count;
    bool ordered; // the stream waits for a mark already
    bool in_batch;
    bool collecting; // between ncclGroupStart and ncclGroupEnd
};

extern const struct group_ops nccl_ops; // of a group whose state is a struct nccl_state
void nccl_state_release(struct nccl_state *state);

int nccl_cuda_check(cudaError_t status, const char *what, struct error *err);

// Starts the communicator and waits until all ranks have; at the group's deadline an error.
int nccl_comm_connect(struct group *group, const ncclUniqueId *id, struct error *err);
// Until the communicator has done what it was told: only then is everything in the stream.
int nccl_comm_wait(struct group *group, const char *what, struct error *err);
// Until state->done was reached.
int nccl_comm_wait_done(struct group *group, const char *what, struct error *err);
// Takes its kernels off the GPU. Does nothing once it is gone.
void nccl_comm_abort(struct nccl_state *state);
// The good end, collective; one that does not come in time is aborted.
void nccl_comm_close(struct group *group);

#endif
