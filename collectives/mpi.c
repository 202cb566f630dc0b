// SPDX-License-Identifier: Apache-2.0
// Ranks over MPI, in host memory. One thread at a time may call.
//
// No wait is unbounded: each polls, yields and finally sleeps, and ends in an error at the group's
// deadline, or when a rank that the call needs has closed the group (every rank tells all others
// the number of its last call when it closes). MPI's own errors print rank, host and text, and
// abort. After an error here requests may still be in flight into the caller's memory, so closing a
// broken group aborts the whole launch.
#include "collectives/mpi_internal.h"

#include "base/clock.h"
#include "base/mem.h"

#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PIECE_BYTES (64u << 20) // counts of MPI calls are int
#define BUSY_SECONDS 0.005      // yield that long, then sleep between polls
#define SPINS 20                // polls before the first yield
#define SLEEP_NS 200000         // small against the waits in which sleeping begins

static _Noreturn void launch_abort(int rank, const char *text) // NULL: it was said already
{
    char host[256] = "?";
    gethostname(host, sizeof(host) - 1);
    if (text != NULL) {
        fprintf(stderr, "memo: rank %d on %s: %s; ending all ranks\n", rank, host, text);
    }
    fflush(NULL);
    MPI_Abort(MPI_COMM_WORLD, 1);
    _exit(1);
}

static void on_mpi_error(MPI_Comm *comm, int *code, ...)
{
    char text[MPI_MAX_ERROR_STRING + 1] = "unknown MPI error";
    int length = 0;
    int rank = -1;
    (void)comm;
    MPI_Error_string(*code, text, &length);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    launch_abort(rank, text);
}

// Takes note of ranks that closed the group; true when one of them will never make our call.
static bool partner_left(struct group *group, int *who)
{
    struct mpi_state *state = group->state;
    for (int r = 0; r < group->size; r++) {
        if (r != group->rank && !state->has_left[r]) {
            int done = 0;
            MPI_Test(&state->leave_requests[r], &done, MPI_STATUS_IGNORE);
            state->has_left[r] = done != 0;
        }
        if (state->has_left[r] && state->left[r] < group->sequence) {
            *who = r;
            return true;
        }
    }
    return false;
}

int mpi_wait_all(struct group *group, MPI_Request *requests, int count, struct error *err)
{
    double begin = 0;
    for (uint64_t polls = 0;; polls++) {
        int done = 0;
        MPI_Testall(count, requests, &done, MPI_STATUSES_IGNORE);
        if (done) {
            return 0;
        }
        if (polls < SPINS) {
            continue;
        }
        double now = clock_seconds();
        if (begin == 0) {
            begin = now;
        }
        if (now - begin < BUSY_SECONDS) {
            sched_yield();
            continue;
        }
        int who = -1;
        if (partner_left(group, &who)) {
            struct mpi_state *state = group->state;
            return error_set(err, "rank %d left the group after its call number %" PRIu64, who,
                             state->left[who]);
        }
        bool told;
        if (group_keep_waiting(group, now - begin, &told, err) != 0) {
            return told ? -1
                        : error_set(err, "the other ranks did not answer within %.0f s",
                                    group->deadline_seconds);
        }
        struct timespec pause = {.tv_nsec = SLEEP_NS};
        nanosleep(&pause, NULL);
    }
}

static int mpi_all_gather(struct group *group, void *out, const void *in, size_t bytes,
                          struct error *err)
{
    struct mpi_state *state = group->state;
    unsigned char *to = out;
    unsigned char *own = to + (size_t)group->rank * bytes;
    MPI_Request *requests = mpi_requests(group, 0, 0);
    if (bytes != 0 && own != in) {
        memcpy(own, in, bytes);
    }
    for (size_t done = 0; done < bytes; done += PIECE_BYTES) {
        int piece = (int)(bytes - done < PIECE_BYTES ? bytes - done : PIECE_BYTES);
        requests[0] = requests[1] = MPI_REQUEST_NULL;
        for (int i = 1; i < group->size; i++) {
            int peer = (group->rank + i) % group->size;
            MPI_Irecv(to + (size_t)peer * bytes + done, piece, MPI_BYTE, peer, TAG_GATHER,
                      state->comm, &requests[2 * i]);
            MPI_Isend(own + done, piece, MPI_BYTE, peer, TAG_GATHER, state->comm,
                      &requests[2 * i + 1]);
        }
        if (mpi_wait_all(group, requests, 2 * group->size, err) != 0) {
            return -1;
        }
    }
    return 0;
}

static int mpi_broadcast(struct group *group, void *data, size_t bytes, int root, struct error *err)
{
    struct mpi_state *state = group->state;
    for (size_t done = 0; done < bytes; done += PIECE_BYTES) {
        int piece = (int)(bytes - done < PIECE_BYTES ? bytes - done : PIECE_BYTES);
        MPI_Request request = MPI_REQUEST_NULL;
        MPI_Ibcast((unsigned char *)data + done, piece, MPI_BYTE, root, state->comm, &request);
        if (mpi_wait_all(group, &request, 1, err) != 0) {
            return -1;
        }
    }
    return 0;
}

static int mpi_barrier(struct group *group, struct error *err)
{
    struct mpi_state *state = group->state;
    MPI_Request request = MPI_REQUEST_NULL;
    MPI_Ibarrier(state->comm, &request);
    return mpi_wait_all(group, &request, 1, err);
}

int mpi_group_duplicate(struct group *group, MPI_Comm *out, struct error *err)
{
    struct mpi_state *state = group->state;
    MPI_Request request = MPI_REQUEST_NULL;
    MPI_Comm_idup(state->comm, out, &request);
    if (mpi_wait_all(group, &request, 1, err) != 0) {
        return -1;
    }
    MPI_Comm_set_errhandler(*out, state->handler);
    return 0;
}

// The lowest rank of which we have not heard that it leaves.
static int first_to_stay(const struct group *group, const MPI_Request *requests)
{
    int r = 0;
    while (r < group->size && requests[r] == MPI_REQUEST_NULL) {
        r++;
    }
    return r;
}

// Tells everybody that we leave, and waits, without burning a core, until everybody does.
static int mpi_leave(struct group *group, struct error *err)
{
    struct mpi_state *state = group->state;
    MPI_Request *sends = mpi_requests(group, 0, 0);
    const double begin = clock_seconds();
    for (int r = 0; r < group->size; r++) {
        sends[r] = MPI_REQUEST_NULL;
        if (r != group->rank) {
            MPI_Isend(&group->sequence, 1, MPI_UINT64_T, r, TAG_LEAVE, state->leaving, &sends[r]);
        }
    }
    for (int done = 0; !done;) {
        int received = 0;
        MPI_Testall(group->size, sends, &done, MPI_STATUSES_IGNORE);
        MPI_Testall(group->size, state->leave_requests, &received, MPI_STATUSES_IGNORE);
        done = done && received;
        if (!done) {
            if (group->record_directory != NULL &&
                clock_seconds() - begin > group->deadline_seconds) {
                return error_set(err, "rank %d did not end within %.0f s of this rank's end",
                                 first_to_stay(group, state->leave_requests),
                                 group->deadline_seconds);
            }
            struct timespec pause = {.tv_nsec = SLEEP_NS};
            nanosleep(&pause, NULL);
        }
    }
    return 0;
}

static void mpi_close(struct group *group)
{
    struct mpi_state *state = group->state;
    if (group->broken) {
        group_await_last_words(group);
        launch_abort(group->rank, group->record_directory ? NULL : group->failure.text);
    }
    if (mpi_leave(group, &group->failure) != 0) {
        launch_abort(group->rank, group->failure.text);
    }
    MPI_Comm_free(&state->leaving);
    MPI_Comm_free(&state->comm);
    MPI_Errhandler_free(&state->handler);
    MPI_Finalize();
    free(state->scratch);
    free(state->requests);
    free(state->leave_requests);
    free(state->left);
    free(state->has_left);
    free(state);
}

static const struct group_ops mpi_ops = {
    .transport = "mpi",
    .all_reduce = mpi_all_reduce,
    .reduce_scatter = mpi_reduce_scatter,
    .all_gather = mpi_all_gather,
    .broadcast = mpi_broadcast,
    .barrier = mpi_barrier,
    .close = mpi_close,
};

static int mpi_initialise(struct error *err)
{
    int initialised = 0;
    int level = 0;
    MPI_Initialized(&initialised);
    if (initialised) {
        return error_set(err, "MPI was used before in this process; it starts only once");
    }
    signal(SIGPIPE, SIG_IGN); // a peer that dies is an error of ours, not our death
    MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &level);
    if (level < MPI_THREAD_SERIALIZED) {
        MPI_Finalize();
        return error_set(err, "this MPI library does not support calls from several threads");
    }
    return 0;
}

// Duplicates the world, so that nothing of ours meets anything of anybody else's.
static void mpi_connect(struct mpi_state *state)
{
    MPI_Comm_create_errhandler(on_mpi_error, &state->handler);
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, state->handler);
    MPI_Comm_dup(MPI_COMM_WORLD, &state->comm);
    MPI_Comm_set_errhandler(state->comm, state->handler);
    MPI_Comm_dup(MPI_COMM_WORLD, &state->leaving);
    MPI_Comm_set_errhandler(state->leaving, state->handler);
}

static void find_host_ranks(MPI_Comm comm, int *rank, int *size)
{
    MPI_Comm host;
    MPI_Comm_split_type(comm, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &host);
    MPI_Comm_rank(host, rank);
    MPI_Comm_size(host, size);
    MPI_Comm_free(&host);
}

static struct group *mpi_group_create(int rank, int size)
{
    struct mpi_state *state = mem_calloc(1, sizeof(*state));
    mpi_connect(state);
    struct group *group = group_create(&mpi_ops, state, rank, size);
    find_host_ranks(state->comm, &group->local_rank, &group->local_size);
    state->scratch = mem_alloc(2 * (size_t)SCRATCH_BYTES);
    state->requests = mem_calloc(8 * (size_t)size, sizeof(MPI_Request));
    state->leave_requests = mem_calloc((size_t)size, sizeof(MPI_Request));
    state->left = mem_calloc((size_t)size, sizeof(uint64_t));
    state->has_left = mem_calloc((size_t)size, sizeof(bool));
    for (int r = 0; r < size; r++) {
        state->leave_requests[r] = MPI_REQUEST_NULL;
        if (r != rank) {
            MPI_Irecv(&state->left[r], 1, MPI_UINT64_T, r, TAG_LEAVE, state->leaving,
                      &state->leave_requests[r]);
        }
    }
    return group;
}

int group_open_launched(const struct launch *launch, struct group **out, struct error *err)
{
    if (mpi_initialise(err) != 0) {
        return -1;
    }
    int rank = 0;
    int size = 1;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    if (size == 1 && launch->size > 1) {
        MPI_Finalize();
        return launch_refuse_split(launch,
                                   "the launcher and memo use different MPI libraries; take "
                                   "the mpirun of the MPI that memo was built with",
                                   err);
    }
    *out = mpi_group_create(rank, size);
    return 0;
}
