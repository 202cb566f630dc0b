// SPDX-License-Identifier: Apache-2.0
// The calls of struct group: each is numbered, handed to the transport, and named when it fails.
#include "collectives/group.h"

#include "base/mem.h"
#include "collectives/group_internal.h"

#include <assert.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct group *group_create(const struct group_ops *ops, void *state, int rank, int size)
{
    assert(size >= 1 && rank >= 0 && rank < size);
    struct group *group = mem_calloc(1, sizeof(*group));
    group->ops = ops;
    group->state = state;
    group->rank = rank;
    group->size = size;
    group->local_size = 1;
    group->deadline_seconds = GROUP_DEADLINE_SECONDS;
    group->flight = flight_create(rank, size);
    group->owns_flight = true;
    return group;
}

struct group *group_create_beside(const struct group_ops *ops, void *state, struct group *control)
{
    struct group *group = group_create(ops, state, control->rank, control->size);
    flight_destroy(group->flight);
    group->flight = control->flight;
    group->owns_flight = false;
    group->control = control;
    group->local_rank = control->local_rank;
    group->local_size = control->local_size;
    group->deadline_seconds = control->deadline_seconds;
    return group;
}

int group_open(struct group **out, struct error *err)
{
    struct launch launch = launch_detect();
    if (launch.connected) {
        return group_open_launched(&launch, out, err);
    }
    if (launch_refuse_split(&launch, "use mpirun, or srun --mpi=pmix", err) != 0) {
        return -1;
    }
    return group_open_self(out, err);
}

void group_close(struct group *group)
{
    if (group == NULL) {
        return;
    }
    group->ops->close(group);
    if (group->owns_flight) {
        flight_destroy(group->flight);
    }
    free(group->record_directory);
    free(group);
}

int group_rank(const struct group *group)
{
    return group->rank;
}

int group_size(const struct group *group)
{
    return group->size;
}

int group_local_rank(const struct group *group)
{
    return group->local_rank;
}

int group_local_size(const struct group *group)
{
    return group->local_size;
}

const char *group_transport(const struct group *group)
{
    return group->ops->transport;
}

void group_set_deadline(struct group *group, double seconds)
{
    assert(seconds > 0);
    group->deadline_seconds = seconds;
}

double group_deadline(const struct group *group)
{
    return group->deadline_seconds;
}

void group_set_step(struct group *group, uint64_t step)
{
    flight_set_step(group->flight, step);
}

// Every call is begin, the transport's operation, end.
int group_call_begin(struct group *group, const char *call, size_t bytes, struct error *err)
{
    group->call = call;
    group->sequence++;
    if (group->broken) {
        return error_set(err, "an earlier call of this group failed, the job must end");
    }
    group->entry = flight_enter(group->flight, group->ops->transport, call, group->sequence, bytes);
    return 0;
}

static void name_call(const struct group *group, struct error *err)
{
    uint64_t step;
    if (flight_step(group->flight, &step)) {
        error_prefix(err, "rank %d of %d, %s number %" PRIu64 ", step %" PRIu64, group->rank,
                     group->size, group->call, group->sequence, step);
    } else {
        error_prefix(err, "rank %d of %d, %s number %" PRIu64, group->rank, group->size,
                     group->call, group->sequence);
    }
}

static void leave(struct group *group)
{
    if (group->in_batch) {
        assert(group->batch_calls < GROUP_BATCH_CALLS);
        group->batch[group->batch_calls++] = group->entry;
    } else {
        flight_leave(group->flight, group->entry);
    }
}

static void become_broken(struct group *group, struct error *err)
{
    group->broken = true;
    group_record_failure(group, err);
    group->failure = *err;
    if (group->control != NULL && !group->control->broken) {
        group->control->broken = true;
        group->control->failure = *err;
        group->control->silent = group->silent;
    }
}

int group_call_failed(struct group *group, struct error *err)
{
    group->in_batch = false;
    name_call(group, err);
    if (!group->broken) {
        become_broken(group, err);
    }
    return -1;
}

// A call that failed stays entered in the record.
int group_call_end(struct group *group, int rc, struct error *err)
{
    if (rc == 0) {
        leave(group);
        return 0;
    }
    return group_call_failed(group, err);
}

static int all_reduce(struct group *group, const char *call, void *data, size_t count,
                      const struct group_element *element, struct error *err)
{
    int rc = group_call_begin(group, call, count * element->bytes, err);
    if (rc == 0) {
        rc = group->ops->all_reduce(group, data, count, element, err);
    }
    return group_call_end(group, rc, err);
}

int group_all_reduce_f32(struct group *group, float *data, size_t count, struct error *err)
{
    return all_reduce(group, "all-reduce f32", data, count, &group_f32, err);
}

int group_all_reduce_f64(struct group *group, double *data, size_t count, struct error *err)
{
    return all_reduce(group, "all-reduce f64", data, count, &group_f64, err);
}

int group_all_reduce_i64(struct group *group, int64_t *data, size_t count, struct error *err)
{
    return all_reduce(group, "all-reduce i64", data, count, &group_i64, err);
}

int group_all_reduce_bf16(struct group *group, uint16_t *data, size_t count, struct error *err)
{
    return all_reduce(group, "all-reduce bf16", data, count, &group_bf16, err);
}

static int reduce_scatter(struct group *group, const char *call, void *out, const void *in,
                          size_t count, const struct group_element *element, struct error *err)
{
    int rc = group_call_begin(group, call, count * element->bytes, err);
    if (rc == 0) {
        rc = group->ops->reduce_scatter(group, out, in, count, element, err);
    }
    return group_call_end(group, rc, err);
}

int group_reduce_scatter_f32(struct group *group, float *out, const float *in, size_t count,
                             struct error *err)
{
    return reduce_scatter(group, "reduce-scatter f32", out, in, count, &group_f32, err);
}

int group_reduce_scatter_i64(struct group *group, int64_t *out, const int64_t *in, size_t count,
                             struct error *err)
{
    return reduce_scatter(group, "reduce-scatter i64", out, in, count, &group_i64, err);
}

int group_reduce_scatter_bf16(struct group *group, uint16_t *out, const uint16_t *in, size_t count,
                              struct error *err)
{
    return reduce_scatter(group, "reduce-scatter bf16", out, in, count, &group_bf16, err);
}

int group_all_gather(struct group *group, void *out, const void *in, size_t bytes,
                     struct error *err)
{
    int rc = group_call_begin(group, "all-gather", bytes, err);
    if (rc == 0) {
        rc = group->ops->all_gather(group, out, in, bytes, err);
    }
    return group_call_end(group, rc, err);
}

int group_broadcast(struct group *group, void *data, size_t bytes, int root, struct error *err)
{
    assert(root >= 0 && root < group->size);
    int rc = group_call_begin(group, "broadcast", bytes, err);
    if (rc == 0) {
        rc = group->ops->broadcast(group, data, bytes, root, err);
    }
    return group_call_end(group, rc, err);
}

int group_barrier(struct group *group, struct error *err)
{
    int rc = group_call_begin(group, "barrier", 0, err);
    if (rc == 0) {
        rc = group->ops->barrier(group, err);
    }
    return group_call_end(group, rc, err);
}

// The lowest rank whose flag is set, or -1: one byte of every rank.
static int lowest_flagged(struct group *group, bool flag, int *lowest, struct error *err)
{
    assert(!group_is_on_device(group)); // it would be handed bytes of the host
    unsigned char mine = flag;
    unsigned char *flags = mem_calloc((size_t)group->size, 1);
    int rc = group_all_gather(group, flags, &mine, 1, err);
    const unsigned char *first = memchr(flags, 1, (size_t)group->size);
    *lowest = first ? (int)(first - flags) : -1;
    free(flags);
    return rc;
}

int group_agree(struct group *group, int rc, struct error *err)
{
    struct error failure = {{0}}; // of the group; our own text in err is worth more
    int lowest = -1;
    if (lowest_flagged(group, rc != 0, &lowest, &failure) == 0) {
        if (lowest < 0) {
            return 0;
        }
        struct error text = {{0}};
        if (lowest == group->rank) {
            text = *err;
        }
        if (group_broadcast(group, text.text, sizeof(text.text), lowest, &failure) == 0) {
            if (lowest != group->rank) {
                error_prefix(&text, "rank %d", lowest);
            }
            *err = text;
            group_record_disagreement(group, err);
            return -1;
        }
    }
    if (rc == 0) {
        *err = failure;
    }
    return -1;
}

int group_any(struct group *group, bool value, bool *out, struct error *err)
{
    int lowest = -1;
    int rc = lowest_flagged(group, value, &lowest, err);
    *out = lowest >= 0;
    return rc;
}
