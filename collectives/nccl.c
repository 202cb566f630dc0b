// SPDX-License-Identifier: Apache-2.0
// Ranks over NCCL, in the memory of their GPUs. No GPU has run this yet; the bookkeeping is tested
// with a library that stands in for NCCL (tests/collectives/fake_nccl).
//
// The communicator does not block: every call of NCCL returns at once, and ncclCommGetAsyncError
// says ncclInProgress until it is done with it. So a batch of calls goes through three waits, each
// of which polls, looks for asynchronous errors, and ends at the group's deadline:
//
//     ncclGroupStart, the calls, ncclGroupEnd
//     until the communicator is no longer in progress: only then is everything in the stream
//     an event behind it in the stream, until the event is reached
//
// When a wait fails the communicator is aborted, which takes its kernels off the GPU. NCCL means
// all ranks to abort, and an abort waits for some of them; so it runs in a thread of its own and is
// left alone after ABORT_SECONDS: the job ends anyway.
//
// Order at the start: the library, its version on all ranks, which GPU each rank has, the id, the
// communicator. Each step is agreed upon over the control group before the next.
#include "collectives/group_device.h"
#include "collectives/group_internal.h"
#include "collectives/id_file.h"
#include "collectives/nccl_internal.h"

#include "base/clock.h"
#include "base/mem.h"

#include <assert.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define BUSY_SECONDS 0.002 // yield that long: most sums of a bucket take less
#define SLEEP_NS 50000     // between polls after that
#define ABORT_SECONDS 5.0  // for ncclCommAbort

struct nccl_state {
    struct nccl nccl;
    ncclComm_t comm;
    cudaStream_t stream;  // own
    cudaStream_t compute; // the device's
    int ordinal;
    cudaEvent_t done;               // behind the last batch
    cudaEvent_t marks[GROUP_MARKS]; // mark m is marks[m % GROUP_MARKS]
    cudaEvent_t now;                // of calls without a mark
    _Atomic uint64_t mark_count;
    bool ordered; // the stream waits for a mark already
    bool in_batch;
};

// Which GPU a rank has.
struct gpu_identity {
    char host[64];
    char bus[32]; // PCI bus id
    int version;  // of NCCL
};

static int cuda_check(cudaError_t status, const char *what, struct error *err)
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
        return cuda_check(status, "waiting for the GPU", err);
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

// --- aborting ---

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

static void comm_abort(struct nccl_state *state)
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

// --- batches ---

static int stream_waits_for(struct nccl_state *state, cudaEvent_t event, struct error *err)
{
    return cuda_check(cudaStreamWaitEvent(state->stream, event, 0), "cudaStreamWaitEvent", err);
}

// The GPU's own work that the batch needs comes first: all of it, unless group_after said which.
static int order_batch(struct nccl_state *state, struct error *err)
{
    if (state->ordered) {
        state->ordered = false;
        return 0;
    }
    return cuda_check(cudaEventRecord(state->now, state->compute), "cudaEventRecord", err) ||
                   stream_waits_for(state, state->now, err)
               ? -1
               : 0;
}

static int launch_begin(struct nccl_state *state, struct error *err)
{
    return cuda_check(cudaSetDevice(state->ordinal), "cudaSetDevice", err) ||
                   order_batch(state, err) ||
                   nccl_check(&state->nccl, state->nccl.GroupStart(), "ncclGroupStart", err)
               ? -1
               : 0;
}

static int launch_end(struct group *group, struct error *err)
{
    struct nccl_state *state = group->state;
    return nccl_check(&state->nccl, state->nccl.GroupEnd(), "ncclGroupEnd", err) ||
                   wait_until(group, poll_comm, "the launch of the call", err) ||
                   cuda_check(cudaEventRecord(state->done, state->stream), "cudaEventRecord",
                              err) ||
                   wait_until(group, poll_event, "the call", err)
               ? -1
               : 0;
}

static int nccl_batch_begin(struct group *group, struct error *err)
{
    struct nccl_state *state = group->state;
    assert(!state->in_batch);
    state->in_batch = true;
    return launch_begin(state, err);
}

static int nccl_batch_end(struct group *group, struct error *err)
{
    struct nccl_state *state = group->state;
    state->in_batch = false;
    const int rc = launch_end(group, err);
    if (rc != 0) {
        comm_abort(state);
    }
    return rc;
}

// One call: by itself, or of the batch that is open.
static int call(struct group *group, ncclResult_t (*enqueue)(struct nccl_state *, const void *),
                const void *arguments, const char *what, struct error *err)
{
    struct nccl_state *state = group->state;
    int rc = state->in_batch ? 0 : launch_begin(state, err);
    rc = rc || nccl_check(&state->nccl, enqueue(state, arguments), what, err) ? -1 : 0;
    if (rc == 0 && !state->in_batch) {
        rc = launch_end(group, err);
    }
    if (rc != 0) {
        state->in_batch = false;
        comm_abort(state);
    }
    return rc;
}

// --- the calls ---

struct sum_call {
    void *out;
    const void *in;
    size_t count;
    ncclDataType_t type;
};

static ncclDataType_t type_of(const struct group_element *element)
{
    return element == &group_f32 ? ncclFloat32 : element == &group_f64 ? ncclFloat64 : ncclInt64;
}

static ncclResult_t enqueue_all_reduce(struct nccl_state *state, const void *arguments)
{
    const struct sum_call *sum = arguments;
    return state->nccl.AllReduce(sum->in, sum->out, sum->count, sum->type, ncclSum, state->comm,
                                 state->stream);
}

static int nccl_all_reduce(struct group *group, void *data, size_t count,
                           const struct group_element *element, struct error *err)
{
    const struct sum_call sum = {data, data, count, type_of(element)};
    return call(group, enqueue_all_reduce, &sum, "ncclAllReduce", err);
}

static ncclResult_t enqueue_reduce_scatter(struct nccl_state *state, const void *arguments)
{
    const struct sum_call *sum = arguments;
    return state->nccl.ReduceScatter(sum->in, sum->out, sum->count, sum->type, ncclSum, state->comm,
                                     state->stream);
}

static int nccl_reduce_scatter(struct group *group, void *out, const void *in, size_t count,
                               const struct group_element *element, struct error *err)
{
    const struct sum_call sum = {out, in, count, type_of(element)};
    return call(group, enqueue_reduce_scatter, &sum, "ncclReduceScatter", err);
}

struct move_call {
    void *out;
    const void *in;
    size_t bytes;
    int root;
};

static ncclResult_t enqueue_all_gather(struct nccl_state *state, const void *arguments)
{
    const struct move_call *move = arguments;
    return state->nccl.AllGather(move->in, move->out, move->bytes, ncclInt8, state->comm,
                                 state->stream);
}

static int nccl_all_gather(struct group *group, void *out, const void *in, size_t bytes,
                           struct error *err)
{
    const struct move_call move = {out, in, bytes, 0};
    return call(group, enqueue_all_gather, &move, "ncclAllGather", err);
}

static ncclResult_t enqueue_broadcast(struct nccl_state *state, const void *arguments)
{
    const struct move_call *move = arguments;
    return state->nccl.Broadcast(move->in, move->out, move->bytes, ncclInt8, move->root,
                                 state->comm, state->stream);
}

static int nccl_broadcast(struct group *group, void *data, size_t bytes, int root,
                          struct error *err)
{
    const struct move_call move = {data, data, bytes, root};
    return call(group, enqueue_broadcast, &move, "ncclBroadcast", err);
}

// Of the ranks, not of their GPUs; NCCL has none.
static int nccl_barrier(struct group *group, struct error *err)
{
    return group_barrier(group->control, err);
}

static int nccl_mark(struct group *group, uint64_t *mark, struct error *err)
{
    struct nccl_state *state = group->state;
    *mark = atomic_fetch_add(&state->mark_count, 1);
    return cuda_check(cudaEventRecord(state->marks[*mark % GROUP_MARKS], state->compute),
                      "cudaEventRecord", err);
}

static int nccl_after(struct group *group, uint64_t mark, struct error *err)
{
    struct nccl_state *state = group->state;
    if (cuda_check(cudaSetDevice(state->ordinal), "cudaSetDevice", err) ||
        stream_waits_for(state, state->marks[mark % GROUP_MARKS], err)) {
        return -1;
    }
    state->ordered = true;
    return 0;
}

static void *nccl_stream(const struct group *group)
{
    return ((const struct nccl_state *)group->state)->stream;
}

// --- life cycle ---

static void state_release(struct nccl_state *state)
{
    comm_abort(state);
    for (int m = 0; m < GROUP_MARKS; m++) {
        if (state->marks[m] != NULL) {
            (void)cudaEventDestroy(state->marks[m]);
        }
    }
    if (state->now != NULL) {
        (void)cudaEventDestroy(state->now);
    }
    if (state->done != NULL) {
        (void)cudaEventDestroy(state->done);
    }
    if (state->stream != NULL) {
        (void)cudaStreamDestroy(state->stream);
    }
    free(state);
}

// A communicator that does not end well is aborted: what it was for is done.
static void nccl_close(struct group *group)
{
    struct nccl_state *state = group->state;
    struct error ignored;
    if (!group->broken && state->comm != NULL && cudaSetDevice(state->ordinal) == cudaSuccess &&
        nccl_check(&state->nccl, state->nccl.CommFinalize(state->comm), "ncclCommFinalize",
                   &ignored) == 0 &&
        wait_until(group, poll_comm, "ncclCommFinalize", &ignored) == 0) {
        (void)state->nccl.CommDestroy(state->comm);
        state->comm = NULL;
    }
    state_release(state);
}

static const struct group_ops nccl_ops = {
    .transport = "nccl",
    .all_reduce = nccl_all_reduce,
    .reduce_scatter = nccl_reduce_scatter,
    .all_gather = nccl_all_gather,
    .broadcast = nccl_broadcast,
    .barrier = nccl_barrier,
    .close = nccl_close,
    .mark = nccl_mark,
    .after = nccl_after,
    .stream = nccl_stream,
    .batch_begin = nccl_batch_begin,
    .batch_end = nccl_batch_end,
};

static int create_event(cudaEvent_t *event, struct error *err)
{
    return cuda_check(cudaEventCreateWithFlags(event, cudaEventDisableTiming), "cudaEventCreate",
                      err);
}

// Sums go before the kernels that could run beside them: the step waits for the slowest bucket.
static int create_stream(struct nccl_state *state, struct error *err)
{
    int least, greatest;
    if (cuda_check(cudaSetDevice(state->ordinal), "cudaSetDevice", err) ||
        cuda_check(cudaDeviceGetStreamPriorityRange(&least, &greatest),
                   "cudaDeviceGetStreamPriorityRange", err) ||
        cuda_check(cudaStreamCreateWithPriority(&state->stream, cudaStreamNonBlocking, greatest),
                   "cudaStreamCreate", err) ||
        create_event(&state->done, err) || create_event(&state->now, err)) {
        return -1;
    }
    for (int m = 0; m < GROUP_MARKS; m++) {
        if (create_event(&state->marks[m], err) != 0) {
            return -1;
        }
    }
    return 0;
}

static int identify(const struct nccl_state *state, struct gpu_identity *out, struct error *err)
{
    *out = (struct gpu_identity){.version = state->nccl.version};
    gethostname(out->host, sizeof(out->host) - 1);
    return cuda_check(cudaDeviceGetPCIBusId(out->bus, sizeof(out->bus), state->ordinal),
                      "cudaDeviceGetPCIBusId", err);
}

// The same answer on all ranks.
static int check_identities(const struct gpu_identity *all, int size, struct error *err)
{
    for (int r = 1; r < size; r++) {
        if (all[r].version != all[0].version) {
            char first[32], other[32];
            nccl_format_version(all[0].version, first);
            nccl_format_version(all[r].version, other);
            return error_set(err,
                             "rank 0 on %s has NCCL %s, rank %d on %s has NCCL %s: all need the "
                             "same",
                             all[0].host, first, r, all[r].host, other);
        }
        for (int o = 0; o < r; o++) {
            if (strcmp(all[o].host, all[r].host) == 0 && strcmp(all[o].bus, all[r].bus) == 0) {
                return error_set(err,
                                 "ranks %d and %d on %s have the same GPU %s, but NCCL needs one "
                                 "for each: start as many ranks per host as it has GPUs "
                                 "(--ntasks-per-node), and let each see its own (srun "
                                 "--gpus-per-task=1) or all of them (CUDA_VISIBLE_DEVICES)",
                                 o, r, all[o].host, all[o].bus);
            }
        }
    }
    return 0;
}

static int compare_identities(struct group *control, const struct gpu_identity *own,
                              struct error *err)
{
    struct gpu_identity *all = mem_calloc((size_t)control->size, sizeof(*all));
    int rc = group_all_gather(control, all, own, sizeof(*own), err);
    if (rc == 0) {
        rc = check_identities(all, control->size, err);
    }
    free(all);
    return rc;
}

static int share_id_by_file(struct group *control, struct nccl_state *state, const char *directory,
                            ncclUniqueId *id, struct error *err)
{
    char *path = NULL;
    int rc = id_file_path(directory, &path, err);
    if (rc == 0 && control->rank == 0) {
        rc = nccl_check(&state->nccl, state->nccl.GetUniqueId(id), "ncclGetUniqueId", err) ||
                     id_file_publish(fs_system(), path, id, sizeof(*id), err)
                 ? -1
                 : 0;
    } else if (rc == 0) {
        rc = id_file_await(fs_system(), path, id, sizeof(*id), control->deadline_seconds, err);
    }
    rc = group_agree(control, rc, err);
    if (control->rank == 0 && path != NULL) {
        id_file_remove(fs_system(), path);
    }
    free(path);
    return rc;
}

static int share_id(struct group *control, struct nccl_state *state, const char *directory,
                    ncclUniqueId *id, struct error *err)
{
    memset(id, 0, sizeof(*id));
    if (directory != NULL) {
        return share_id_by_file(control, state, directory, id, err);
    }
    const int rc = control->rank == 0 ? nccl_check(&state->nccl, state->nccl.GetUniqueId(id),
                                                   "ncclGetUniqueId", err)
                                      : 0;
    return group_agree(control, rc, err) || group_broadcast(control, id, sizeof(*id), 0, err) ? -1
                                                                                              : 0;
}

static int init_comm(struct group *group, const ncclUniqueId *id, struct error *err)
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
    return wait_until(group, poll_comm, "connecting the GPUs", err);
}

// The first call of the group. A rank on which it fails breaks the control group too, and so ends
// the job: the others may wait in here for ever otherwise.
static int connect_comm(struct group *group, const ncclUniqueId *id, struct error *err)
{
    int rc = group_call_begin(group, "connect", 0, err);
    if (rc == 0) {
        rc = init_comm(group, id, err);
    }
    return group_call_end(group, rc, err);
}

static int prepare(struct group *control, struct nccl_state *state, struct error *err)
{
    struct gpu_identity own;
    const int rc =
        nccl_load(&state->nccl, err) || create_stream(state, err) || identify(state, &own, err) ? -1
                                                                                                : 0;
    return group_agree(control, rc, err) || compare_identities(control, &own, err) ? -1 : 0;
}

int group_open_nccl(struct group *control, const struct group_device_options *options,
                    struct group **out, struct error *err)
{
    struct nccl_state *state = mem_calloc(1, sizeof(*state));
    ncclUniqueId id;
    state->compute = options->stream;
    state->ordinal = options->ordinal;
    if (prepare(control, state, err) || share_id(control, state, options->id_directory, &id, err)) {
        state_release(state);
        return error_prefix(err, "GPUs of %d ranks", control->size);
    }
    struct group *group = group_create_beside(&nccl_ops, state, control);
    if (connect_comm(group, &id, err) != 0 || group_agree(control, 0, err) != 0) {
        group->broken = true;
        group_close(group);
        return error_prefix(err, "GPUs of %d ranks", control->size);
    }
    *out = group;
    return 0;
}
