// SPDX-License-Identifier: Apache-2.0
// A communicator that does not block: every call of NCCL returns at once, and
// ncclCommGetAsyncError says ncclInProgress until it is done with it; meanwhile nothing else may be
// asked of it. So every wait polls, looks for asynchronous errors, and ends at the group's
// deadline.
//
// NCCL means all ranks to abort, and an abort waits for some of them, and for the driver; so it
// runs in a thread of its own and is left alone after ABORT_SECONDS: the job ends anyway. Nobody
// else uses a communicator from then on. (NCCL aborts from any thread since 2.19.1, see
// github.com/NVIDIA/nccl/issues/992.)
#include "collectives/nccl_internal.h"

#include "base/clock.h"
#include "base/mem.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <time.h>

#define BUSY_SECONDS 0.002 // yield that long: most sums of a bucket take less
#define SLEEP_NS 50000     // between polls after that
#define ABORT_SECONDS 5.0  // for ncclCommAbort

int nccl_cuda_check(cudaError_t status, const char *what, struct error *err)
{
    if (status == cudaSuccess) {
        return 0;
    }
    return error_set(err, "%s failed: %s (%s)", what, cudaGetErrorString(status),
                     cudaGetErrorName(status));
}

// --- waiting ---

static int poll_comm(struct nccl_state *state, bool *done, struct error *err)
{
    ncclResult_t result = ncclSuccess;
    if (nccl_check(&state->nccl, state->nccl.CommGetAsyncError(state->comm, &result),
                   "ncclCommGetAsyncError", err) != 0) {
        return -1;
    }
    *done = result != ncclInProgress;
    return nccl_check(&state->nccl, result, "NCCL", err);
}

static int poll_event(struct nccl_state *state, bool *done, struct error *err)
{
    bool idle;
    const cudaError_t status = cudaEventQuery(state->done);
    *done = status == cudaSuccess;
    if (status != cudaSuccess && status != cudaErrorNotReady) {
        return nccl_cuda_check(status, "waiting for the GPU", err);
    }
    return *done ? 0 : poll_comm(state, &idle, err);
}

static int wait_until(struct group *group,
                      int (*poll)(struct nccl_state *state, bool *done, struct error *err),
                      const char *what, struct error *err)
{
    const double begin = clock_seconds();
    for (;;) {
        bool done, told;
        if (poll(group->state, &done, err) != 0) {
            return -1;
        }
        if (done) {
            return 0;
        }
        const double waited = clock_seconds() - begin;
        if (waited < BUSY_SECONDS) {
            sched_yield();
            continue;
        }
        if (group_keep_waiting(group, waited, &told, err) != 0) {
            return told ? -1
                        : error_set(err,
                                    "%s was not done within %.0f s: a rank is missing, or the "
                                    "network between GPUs is stuck",
                                    what, group->deadline_seconds);
        }
        struct timespec pause = {.tv_nsec = SLEEP_NS};
        nanosleep(&pause, NULL);
    }
}

int nccl_comm_wait(struct group *group, const char *what, struct error *err)
{
    return wait_until(group, poll_comm, what, err);
}

int nccl_comm_wait_done(struct group *group, const char *what, struct error *err)
{
    return wait_until(group, poll_event, what, err);
}

int nccl_comm_connect(struct group *group, const ncclUniqueId *id, struct error *err)
{
    struct nccl_state *state = group->state;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    if (nccl_check(
            &state->nccl,
            state->nccl.CommInitRankConfig(&state->comm, group->size, *id, group->rank, &config),
            "ncclCommInitRankConfig", err) != 0) {
        return -1;
    }
    return nccl_comm_wait(group, "connecting the GPUs", err);
}

// --- the end ---

struct abortion {
    __typeof__(&ncclCommAbort) CommAbort;
    ncclComm_t comm;
    int ordinal;
    _Atomic int parties; // that still use this; the last one frees it
    _Atomic bool done;
};

static void abortion_release(struct abortion *abortion)
{
    if (atomic_fetch_sub(&abortion->parties, 1) == 1) {
        free(abortion);
    }
}

static void *abortion_run(void *argument)
{
    struct abortion *abortion = argument;
    (void)cudaSetDevice(abortion->ordinal);
    (void)abortion->CommAbort(abortion->comm);
    atomic_store(&abortion->done, true);
    abortion_release(abortion);
    return NULL;
}

void nccl_comm_abort(struct nccl_state *state)
{
    if (state->comm == NULL) {
        return;
    }
    struct abortion *abortion = mem_calloc(1, sizeof(*abortion));
    *abortion = (struct abortion){.CommAbort = state->nccl.CommAbort,
                                  .comm = state->comm,
                                  .ordinal = state->ordinal,
                                  .parties = 2};
    state->comm = NULL; // nobody may use it any more
    pthread_t thread;
    if (pthread_create(&thread, NULL, abortion_run, abortion) != 0) {
        free(abortion);
        return;
    }
    pthread_detach(thread);
    const double begin = clock_seconds();
    while (!atomic_load(&abortion->done) && clock_seconds() - begin < ABORT_SECONDS) {
        struct timespec pause = {.tv_nsec = 1000000};
        nanosleep(&pause, NULL);
    }
    abortion_release(abortion);
}

void nccl_comm_close(struct group *group)
{
    struct nccl_state *state = group->state;
    struct error ignored;
    if (!group->broken && state->comm != NULL && cudaSetDevice(state->ordinal) == cudaSuccess &&
        nccl_check(&state->nccl, state->nccl.CommFinalize(state->comm), "ncclCommFinalize",
                   &ignored) == 0 &&
        nccl_comm_wait(group, "ncclCommFinalize", &ignored) == 0) {
        (void)state->nccl.CommDestroy(state->comm);
        state->comm = NULL;
    }
    nccl_comm_abort(state);
}
