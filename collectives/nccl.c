// SPDX-License-Identifier: Apache-2.0
// Ranks over NCCL, in the memory of their GPUs. No GPU has run this yet; the bookkeeping is tested
// with a library that stands in for NCCL (tests/collectives/fake_nccl).
//
// A batch of calls, and a call alone, goes into the group's own stream behind what it has to wait
// for, and then through two waits:
//
//     ncclGroupStart, the calls, ncclGroupEnd
//     until the communicator is no longer in progress: only then is everything in the stream
//     an event behind it in the stream, until the event is reached
//
// Whatever fails, the communicator is aborted.
#include "collectives/nccl_internal.h"

#include <assert.h>
#include <stdlib.h>

static int stream_waits_for(struct nccl_state *state, cudaEvent_t event, struct error *err)
{
    return nccl_cuda_check(cudaStreamWaitEvent(state->stream, event, 0), "cudaStreamWaitEvent",
                           err);
}

// The GPU's own work that the batch needs comes first: all of it, unless group_after said which.
static int order_batch(struct nccl_state *state, struct error *err)
{
    if (state->ordered) {
        state->ordered = false;
        return 0;
    }
    return nccl_cuda_check(cudaEventRecord(state->now, state->compute), "cudaEventRecord", err) ||
                   stream_waits_for(state, state->now, err)
               ? -1
               : 0;
}

static int launch_begin(struct nccl_state *state, struct error *err)
{
    if (nccl_cuda_check(cudaSetDevice(state->ordinal), "cudaSetDevice", err) ||
        order_batch(state, err) ||
        nccl_check(&state->nccl, state->nccl.GroupStart(), "ncclGroupStart", err)) {
        return -1;
    }
    state->collecting = true;
    return 0;
}

static int launch_end(struct group *group, struct error *err)
{
    struct nccl_state *state = group->state;
    state->collecting = false;
    return nccl_check(&state->nccl, state->nccl.GroupEnd(), "ncclGroupEnd", err) ||
                   nccl_comm_wait(group, "the launch of the call", err) ||
                   nccl_cuda_check(cudaEventRecord(state->done, state->stream), "cudaEventRecord",
                                   err) ||
                   nccl_comm_wait_done(group, "the call", err)
               ? -1
               : 0;
}

// What NCCL had collected is dropped first: this thread's calls still hold the communicator.
static int give_up(struct nccl_state *state)
{
    state->in_batch = false;
    if (state->collecting) {
        state->collecting = false;
        (void)state->nccl.GroupEnd();
    }
    nccl_comm_abort(state);
    return -1;
}

static int nccl_batch_begin(struct group *group, struct error *err)
{
    struct nccl_state *state = group->state;
    assert(!state->in_batch);
    state->in_batch = true;
    return launch_begin(state, err) == 0 ? 0 : give_up(state);
}

static int nccl_batch_end(struct group *group, struct error *err)
{
    struct nccl_state *state = group->state;
    state->in_batch = false;
    return launch_end(group, err) == 0 ? 0 : give_up(state);
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
    return rc == 0 ? 0 : give_up(state);
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
    return element == &group_f32    ? ncclFloat32
           : element == &group_f64  ? ncclFloat64
           : element == &group_bf16 ? ncclBfloat16
                                    : ncclInt64;
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
    return nccl_cuda_check(cudaEventRecord(state->marks[*mark % GROUP_MARKS], state->compute),
                           "cudaEventRecord", err);
}

static int nccl_after(struct group *group, uint64_t mark, struct error *err)
{
    struct nccl_state *state = group->state;
    if (nccl_cuda_check(cudaSetDevice(state->ordinal), "cudaSetDevice", err) ||
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

// --- the end ---

void nccl_state_release(struct nccl_state *state)
{
    nccl_comm_abort(state);
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

static void nccl_close(struct group *group)
{
    nccl_comm_close(group);
    nccl_state_release(group->state);
}

const struct group_ops nccl_ops = {
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
