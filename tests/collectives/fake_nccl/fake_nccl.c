// SPDX-License-Identifier: Apache-2.0
// Stands in for NCCL in tests: built as libnccl.so.2, loaded by the same dlopen. Ranks are
// processes that meet in a shared file whose name is the unique id; "device memory" is the host's.
// Like the real one with a communicator that does not block, it says ncclInProgress for a while,
// and puts calls into the stream only then; calls of the stream then wait for the other ranks.
// Where the real one would be silent about misuse it is too: ranks that make different calls get
// wrong sums.
//
//     FAKE_NCCL_VERSION  what ncclGetVersion says (default 22800)
//     FAKE_NCCL_FAULT    KIND:RANK:CALL, calls counted from 1; see enum fault
#include <nccl.h>

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum {
    MAX_RANKS = 8,
    SLOT_BYTES = 64 << 10, // small: larger calls go through in several turns
    GROUP_LIMIT = 64,
    POLLS_IN_PROGRESS = 3, // that say so before calls go into the stream
};

enum fault {
    FAULT_NONE,
    FAULT_INIT_HANG,     // the rank never joins
    FAULT_INIT_ERROR,    // the rank is refused
    FAULT_CALL_HANG,     // the rank's call never starts
    FAULT_ASYNC_ERROR,   // the rank's call fails on the way
    FAULT_ABORT_HANG,    // as FAULT_CALL_HANG, and on every rank the abort never returns
    FAULT_FINALIZE_HANG, // the rank's communicator never becomes quiet
    FAULT_CALL_REFUSED,  // the rank's call is an error at once
};
static const char *const fault_names[] = {
    "",           "init-hang",     "init-error",  "call-hang", "async-error",
    "abort-hang", "finalize-hang", "call-refused"};

struct world {
    _Atomic int joined;
    _Atomic uint64_t arrived[MAX_RANKS]; // barriers passed
    unsigned char slots[MAX_RANKS][SLOT_BYTES];
};

enum call_kind { CALL_ALL_REDUCE, CALL_REDUCE_SCATTER, CALL_ALL_GATHER, CALL_BROADCAST };

struct call {
    enum call_kind kind;
    const unsigned char *in;
    unsigned char *out;
    size_t count;
    ncclDataType_t type;
    int root;
    ncclComm_t comm;
    cudaStream_t stream;
    uint64_t number;
};

struct ncclComm {
    struct world *world;
    int rank, ranks;
    bool joined;
    _Atomic bool aborted;
    _Atomic int running; // calls in the stream
    _Atomic int async_error;
    uint64_t barriers;
    _Atomic int collected; // calls of a group that did not end
    uint64_t asked;        // calls, also those that were refused
    uint64_t calls;
    struct call waiting[GROUP_LIMIT]; // of a group that ended but is not in the stream
    int waiting_count;
    int polls;
    bool finalizing;
    enum fault fault;
    int fault_rank;
    uint64_t fault_call;
};

static _Thread_local struct call group_calls[GROUP_LIMIT];
static _Thread_local int group_count, group_depth;
static _Thread_local ncclResult_t group_error; // of a call of the group
static char last_error[256];

static ncclResult_t fail(ncclResult_t result, const char *text)
{
    snprintf(last_error, sizeof(last_error), "%s", text);
    return result;
}

static void nap(void)
{
    struct timespec pause = {.tv_nsec = 50000};
    nanosleep(&pause, NULL);
}

ncclResult_t ncclGetVersion(int *version)
{
    const char *text = getenv("FAKE_NCCL_VERSION");
    *version = text ? atoi(text) : 22800;
    return ncclSuccess;
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    const char *directory = getenv("TMPDIR");
    memset(id, 0, sizeof(*id));
    snprintf(id->internal, sizeof(id->internal), "%s/fake-nccl-XXXXXX",
             directory ? directory : "/tmp");
    const int fd = mkstemp(id->internal);
    if (fd < 0 || ftruncate(fd, sizeof(struct world)) != 0) {
        return fail(ncclSystemError, "no shared file");
    }
    close(fd);
    return ncclSuccess;
}

static void read_fault(struct ncclComm *comm)
{
    char kind[32] = "";
    int rank = -1, call = 0;
    const char *text = getenv("FAKE_NCCL_FAULT");
    comm->fault = FAULT_NONE;
    if (text == NULL || sscanf(text, "%31[^:]:%d:%d", kind, &rank, &call) < 2) {
        return;
    }
    for (int i = 1; i <= FAULT_CALL_REFUSED; i++) {
        if (strcmp(kind, fault_names[i]) == 0) {
            comm->fault = (enum fault)i;
        }
    }
    comm->fault_rank = rank;
    comm->fault_call = (uint64_t)call;
}

static bool has_fault(const struct ncclComm *comm, enum fault fault, uint64_t call)
{
    return comm->fault == fault && comm->fault_rank == comm->rank && comm->fault_call == call;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *out, int ranks, ncclUniqueId id, int rank,
                                    ncclConfig_t *config)
{
    if (config->blocking != 0 || ranks < 1 || ranks > MAX_RANKS || rank < 0 || rank >= ranks) {
        return fail(ncclInvalidArgument, "wrong arguments");
    }
    const int fd = open(id.internal, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        return fail(ncclInvalidArgument, "this is no id of ncclGetUniqueId");
    }
    struct world *world = mmap(NULL, sizeof(*world), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    if (world == MAP_FAILED) {
        return fail(ncclSystemError, "no shared memory");
    }
    struct ncclComm *comm = calloc(1, sizeof(*comm));
    comm->world = world;
    comm->rank = rank;
    comm->ranks = ranks;
    read_fault(comm);
    *out = comm;
    if (has_fault(comm, FAULT_INIT_ERROR, comm->fault_call)) {
        atomic_store(&comm->async_error, ncclSystemError);
        snprintf(last_error, sizeof(last_error), "no route to the other ranks");
    } else if (!has_fault(comm, FAULT_INIT_HANG, comm->fault_call) &&
               atomic_fetch_add(&world->joined, 1) + 1 == ranks) {
        unlink(id.internal);
    }
    return ncclInProgress;
}

// --- in the stream ---

static bool meet(struct ncclComm *comm)
{
    const uint64_t target = ++comm->barriers;
    atomic_store(&comm->world->arrived[comm->rank], target);
    for (int r = 0; r < comm->ranks; r++) {
        while (atomic_load(&comm->world->arrived[r]) < target) {
            if (atomic_load(&comm->aborted)) {
                return false;
            }
            nap();
        }
    }
    return true;
}

static size_t width_of(ncclDataType_t type)
{
    return type == ncclInt8 ? 1 : type == ncclBfloat16 ? 2 : type == ncclFloat32 ? 4 : 8;
}

static float widen(uint16_t half)
{
    const uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

static uint16_t narrow(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

// Rounds after every addition.
static void add_bf16(uint16_t *sum, const uint16_t *term, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        sum[i] = narrow(widen(sum[i]) + widen(term[i]));
    }
}

static void add(unsigned char *sum, const unsigned char *term, size_t count, ncclDataType_t type)
{
    if (type == ncclBfloat16) {
        add_bf16((void *)sum, (const void *)term, count);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        if (type == ncclFloat32) {
            ((float *)(void *)sum)[i] += ((const float *)(const void *)term)[i];
        } else if (type == ncclFloat64) {
            ((double *)(void *)sum)[i] += ((const double *)(const void *)term)[i];
        } else {
            ((uint64_t *)(void *)sum)[i] += ((const uint64_t *)(const void *)term)[i];
        }
    }
}

// The last rank first: unlike the host's transports, so that nobody relies on the order.
static void add_slots(const struct ncclComm *comm, unsigned char *out, size_t offset, size_t count,
                      ncclDataType_t type)
{
    memcpy(out, comm->world->slots[comm->ranks - 1] + offset, count * width_of(type));
    for (int r = comm->ranks - 2; r >= 0; r--) {
        add(out, comm->world->slots[r] + offset, count, type);
    }
}

// Elements [begin, begin + count) of a call, which fit into a slot together.
static void put(const struct call *call, size_t begin, size_t count)
{
    const struct ncclComm *comm = call->comm;
    const size_t width = width_of(call->type);
    unsigned char *slot = comm->world->slots[comm->rank];
    for (int r = 0; call->kind == CALL_REDUCE_SCATTER && r < comm->ranks; r++) {
        memcpy(slot + (size_t)r * count * width,
               call->in + ((size_t)r * call->count + begin) * width, count * width);
    }
    if (call->kind != CALL_REDUCE_SCATTER) {
        memcpy(slot, call->in + begin * width, count * width);
    }
}

static void get(const struct call *call, size_t begin, size_t count)
{
    const struct ncclComm *comm = call->comm;
    const size_t width = width_of(call->type);
    unsigned char *out = call->out + begin * width;
    switch (call->kind) {
    case CALL_ALL_REDUCE:
        add_slots(comm, out, 0, count, call->type);
        break;
    case CALL_REDUCE_SCATTER:
        add_slots(comm, out, (size_t)comm->rank * count * width, count, call->type);
        break;
    case CALL_ALL_GATHER:
        for (int r = 0; r < comm->ranks; r++) {
            memcpy(call->out + ((size_t)r * call->count + begin) * width, comm->world->slots[r],
                   count * width);
        }
        break;
    case CALL_BROADCAST:
        memcpy(out, comm->world->slots[call->root], count * width);
        break;
    }
}

static bool move(const struct call *call)
{
    const size_t slot = SLOT_BYTES / width_of(call->type) / MAX_RANKS;
    for (size_t begin = 0; begin < call->count; begin += slot) {
        const size_t left = call->count - begin, count = left < slot ? left : slot;
        put(call, begin, count);
        if (!meet(call->comm)) {
            return false;
        }
        get(call, begin, count);
        if (!meet(call->comm)) {
            return false;
        }
    }
    return true;
}

static void run_call(void *argument)
{
    struct call *call = argument;
    struct ncclComm *comm = call->comm;
    if (has_fault(comm, FAULT_ASYNC_ERROR, call->number)) {
        snprintf(last_error, sizeof(last_error), "socket closed by the peer");
        atomic_store(&comm->async_error, ncclRemoteError);
    }
    const bool hangs = has_fault(comm, FAULT_CALL_HANG, call->number) ||
                       has_fault(comm, FAULT_ABORT_HANG, call->number) ||
                       has_fault(comm, FAULT_ASYNC_ERROR, call->number);
    while (hangs && !atomic_load(&comm->aborted)) {
        nap();
    }
    if (!hangs) {
        (void)move(call);
    }
    free(call);
    atomic_fetch_sub(&comm->running, 1);
}

// --- calls ---

static void start_waiting(struct ncclComm *comm)
{
    for (int i = 0; i < comm->waiting_count; i++) {
        struct call *call = malloc(sizeof(*call));
        *call = comm->waiting[i];
        call->number = ++comm->calls;
        atomic_fetch_add(&comm->running, 1);
        cudaLaunchHostFunc(call->stream, run_call, call);
    }
    comm->waiting_count = 0;
}

static bool is_in_progress(struct ncclComm *comm)
{
    comm->joined = comm->joined || atomic_load(&comm->world->joined) == comm->ranks;
    if (!comm->joined) {
        return true;
    }
    if (comm->waiting_count > 0 && ++comm->polls >= POLLS_IN_PROGRESS) {
        start_waiting(comm);
    }
    return comm->waiting_count > 0 ||
           (comm->finalizing && (atomic_load(&comm->running) > 0 ||
                                 has_fault(comm, FAULT_FINALIZE_HANG, comm->fault_call)));
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error)
{
    *error = (ncclResult_t)atomic_load(&comm->async_error);
    if (*error == ncclSuccess && is_in_progress(comm)) {
        *error = ncclInProgress;
    }
    return ncclSuccess;
}

ncclResult_t ncclGroupStart(void)
{
    group_depth++;
    return ncclSuccess;
}

ncclResult_t ncclGroupEnd(void)
{
    if (group_depth == 0) {
        return fail(ncclInvalidUsage, "no group was begun");
    }
    if (--group_depth > 0 || group_count == 0) {
        return ncclSuccess;
    }
    struct ncclComm *comm = group_calls[0].comm;
    atomic_store(&comm->collected, 0);
    if (group_error != ncclSuccess) {
        const ncclResult_t error = group_error;
        group_error = ncclSuccess;
        group_count = 0;
        return error;
    }
    if (is_in_progress(comm)) {
        group_count = 0;
        return fail(ncclInvalidUsage, "the communicator is still in progress");
    }
    memcpy(comm->waiting, group_calls, (size_t)group_count * sizeof(group_calls[0]));
    comm->waiting_count = group_count;
    comm->polls = 0;
    group_count = 0;
    return ncclInProgress;
}

static ncclResult_t add_call(struct call call)
{
    if (group_depth == 0 || group_count == GROUP_LIMIT) {
        return fail(ncclInvalidUsage, "only calls of a group, and not so many");
    }
    group_calls[group_count++] = call;
    atomic_fetch_add(&call.comm->collected, 1);
    if (has_fault(call.comm, FAULT_CALL_REFUSED, ++call.comm->asked)) {
        group_error = ncclInvalidArgument;
        return fail(ncclInvalidArgument, "this call is refused");
    }
    return ncclSuccess;
}

ncclResult_t ncclAllReduce(const void *in, void *out, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream)
{
    (void)op;
    return add_call((struct call){CALL_ALL_REDUCE, in, out, count, type, 0, comm, stream, 0});
}

ncclResult_t ncclReduceScatter(const void *in, void *out, size_t count, ncclDataType_t type,
                               ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream)
{
    (void)op;
    return add_call((struct call){CALL_REDUCE_SCATTER, in, out, count, type, 0, comm, stream, 0});
}

ncclResult_t ncclAllGather(const void *in, void *out, size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream)
{
    return add_call((struct call){CALL_ALL_GATHER, in, out, count, type, 0, comm, stream, 0});
}

ncclResult_t ncclBroadcast(const void *in, void *out, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream)
{
    return add_call((struct call){CALL_BROADCAST, in, out, count, type, root, comm, stream, 0});
}

// --- ending ---

ncclResult_t ncclCommFinalize(ncclComm_t comm)
{
    comm->finalizing = true;
    return ncclInProgress;
}

static void comm_free(struct ncclComm *comm)
{
    munmap(comm->world, sizeof(*comm->world));
    free(comm);
}

ncclResult_t ncclCommDestroy(ncclComm_t comm)
{
    while (atomic_load(&comm->running) > 0) {
        nap();
    }
    comm_free(comm);
    return ncclSuccess;
}

// Another thread's group must not hold the communicator any more.
ncclResult_t ncclCommAbort(ncclComm_t comm)
{
    if (atomic_load(&comm->collected) > 0) {
        fprintf(stderr, "fake NCCL: a communicator is aborted that a group still holds\n");
        abort();
    }
    while (comm->fault == FAULT_ABORT_HANG) {
        nap();
    }
    atomic_store(&comm->aborted, true);
    return ncclCommDestroy(comm);
}

const char *ncclGetErrorString(ncclResult_t result)
{
    switch (result) {
    case ncclRemoteError:
        return "remote process exited or there was a network error";
    case ncclSystemError:
        return "unhandled system error";
    case ncclInvalidUsage:
        return "invalid usage";
    default:
        return result == ncclInProgress ? "in progress" : "an error";
    }
}

const char *ncclGetLastError(ncclComm_t comm)
{
    (void)comm;
    return last_error;
}
