// SPDX-License-Identifier: Apache-2.0
// Moving data between the ranks of a machine through a mapping they share.
//
// Data moves in turns. Each rank has two slots; in turn t everybody writes its slot t % 2, passes a
// barrier and reads the others' slots. Two slots are enough: a rank that writes in turn t has
// passed the barrier of turn t - 1, at which every rank arrived after its last read of turn t - 2.
// A sum has a second barrier inside its turn: rank r adds part r of all slots, in rank order, into
// part r of slot 0, and after the barrier everybody reads slot 0.
//
// The barrier is one counter per rank, written by that rank alone: arriving increments it, waiting
// looks at the others' counters one after the other. Waiting spins briefly, yields a few times and
// then sleeps on the counter (a futex), because spinning collapses where ranks share cores. A rank
// whose partner ended before arriving gives up; shm_run.c knows who ended.
#include "base/clock.h"
#include "collectives/shm_internal.h"

#include <inttypes.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SHM_YIELDS 50         // some 20 us on a free core; cheaper than sleeping and being woken
#define SHM_SLEEP_NS 10000000 // 10 ms: how soon a dead rank is noticed

void shm_wake(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

static void futex_sleep(_Atomic uint32_t *word, uint32_t seen)
{
    struct timespec limit = {.tv_nsec = SHM_SLEEP_NS};
    syscall(SYS_futex, word, FUTEX_WAIT, seen, &limit, NULL, 0);
}

static void spin_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static bool has_arrived(struct shm_rank *other, uint32_t target)
{
    return (int32_t)(atomic_load(&other->arrived) - target) >= 0;
}

static int partner_ended(struct shm_page *page, int partner, struct error *err)
{
    int failed = atomic_load(&page->first_failed) - 1;
    if (failed >= 0) {
        return error_set(err, "rank %d failed: %s", failed, page->ranks[failed].failure.text);
    }
    return error_set(err, "rank %d ended its work without making this call", partner);
}

static int wait_for_rank(struct group *group, int rank, uint32_t target, struct error *err)
{
    struct shm_state *state = group->state;
    struct shm_rank *other = &state->page->ranks[rank];
    for (int i = 0; i < state->spins; i++) {
        if (has_arrived(other, target)) {
            return 0;
        }
        spin_pause();
    }
    for (int i = 0; i < SHM_YIELDS; i++) {
        if (has_arrived(other, target)) {
            return 0;
        }
        sched_yield();
    }
    double begin = clock_seconds();
    while (!has_arrived(other, target)) {
        // The end is read before the counter is read again: a rank may arrive and then end.
        if (atomic_load(&other->end) != SHM_RUNNING && !has_arrived(other, target)) {
            return partner_ended(state->page, rank, err);
        }
        bool told;
        if (group_keep_waiting(group, clock_seconds() - begin, &told, err) != 0) {
            return told ? -1
                        : error_set(err, "rank %d did not arrive within %.0f s", rank,
                                    group->deadline_seconds);
        }
        atomic_fetch_add(&other->sleepers, 1);
        uint32_t seen = atomic_load(&other->arrived);
        if ((int32_t)(seen - target) < 0) {
            futex_sleep(&other->arrived, seen);
        }
        atomic_fetch_sub(&other->sleepers, 1);
        if (group->rank == 0) {
            shm_reap(state, group->size);
        }
    }
    return 0;
}

static int barrier_pass(struct group *group, struct error *err)
{
    struct shm_state *state = group->state;
    struct shm_rank *self = &state->page->ranks[group->rank];
    uint32_t target = ++state->arrived;
    atomic_store(&self->arrived, target);
    if (atomic_load(&self->sleepers) != 0) {
        shm_wake(&self->arrived);
    }
    for (int r = 0; r < group->size; r++) {
        if (r != group->rank && wait_for_rank(group, r, target, err) != 0) {
            return -1;
        }
    }
    return 0;
}

static unsigned char *slot(const struct group *group, int rank)
{
    const struct shm_state *state = group->state;
    size_t half = (size_t)(state->turn % 2) * (size_t)group->size;
    return state->slots + (half + (size_t)rank) * SHM_SLOT_BYTES;
}

// The first barrier of a turn; all ranks must move the same number of bytes in the same call.
static int turn_meet(struct group *group, size_t bytes, struct error *err)
{
    struct shm_state *state = group->state;
    struct shm_rank *ranks = state->page->ranks;
    size_t half = state->turn % 2;
    ranks[group->rank].move[half] = (struct shm_move){group->call, group->sequence, bytes};
    if (barrier_pass(group, err) != 0) {
        return -1;
    }
    for (int r = 0; r < group->size; r++) {
        struct shm_move other = ranks[r].move[half];
        if (other.call != group->call || other.sequence != group->sequence ||
            other.bytes != bytes) {
            return error_set(err,
                             "the ranks disagree: %zu bytes here, but rank %d is in its %s "
                             "number %" PRIu64 " with %zu bytes",
                             bytes, r, other.call, other.sequence, other.bytes);
        }
    }
    return 0;
}

static int reduce_block(struct group *group, unsigned char *data, size_t count,
                        const struct group_element *element, struct error *err)
{
    size_t bytes = count * element->bytes;
    memcpy(slot(group, group->rank), data, bytes);
    if (turn_meet(group, bytes, err) != 0) {
        return -1;
    }
    size_t begin = group_part_begin(count, group->size, group->rank);
    size_t end = group_part_begin(count, group->size, group->rank + 1);
    unsigned char *part = slot(group, 0) + begin * element->bytes;
    element->sum(part, part, SHM_SLOT_BYTES, group->size, end - begin);
    if (barrier_pass(group, err) != 0) {
        return -1;
    }
    memcpy(data, slot(group, 0), bytes);
    return 0;
}

static int shm_all_reduce(struct group *group, void *data, size_t count,
                          const struct group_element *element, struct error *err)
{
    struct shm_state *state = group->state;
    size_t block = SHM_SLOT_BYTES / element->bytes;
    for (size_t done = 0; done < count; done += block) {
        size_t part = count - done < block ? count - done : block;
        if (reduce_block(group, (unsigned char *)data + done * element->bytes, part, element,
                         err) != 0) {
            return -1;
        }
        state->turn++;
    }
    return 0;
}

static int shm_reduce_scatter(struct group *group, void *out, const void *in, size_t count,
                              const struct group_element *element, struct error *err)
{
    struct shm_state *state = group->state;
    const unsigned char *from = in;
    size_t block = SHM_SLOT_BYTES / element->bytes / (size_t)group->size;
    for (size_t done = 0; done < count; done += block) {
        size_t bytes = (count - done < block ? count - done : block) * element->bytes;
        for (int r = 0; r < group->size; r++) {
            memcpy(slot(group, group->rank) + (size_t)r * bytes,
                   from + ((size_t)r * count + done) * element->bytes, bytes);
        }
        if (turn_meet(group, bytes, err) != 0) {
            return -1;
        }
        element->sum((unsigned char *)out + done * element->bytes,
                     slot(group, 0) + (size_t)group->rank * bytes, SHM_SLOT_BYTES, group->size,
                     bytes / element->bytes);
        state->turn++;
    }
    return 0;
}

static int shm_all_gather(struct group *group, void *out, const void *in, size_t bytes,
                          struct error *err)
{
    struct shm_state *state = group->state;
    for (size_t done = 0; done < bytes; done += SHM_SLOT_BYTES) {
        size_t part = bytes - done < SHM_SLOT_BYTES ? bytes - done : SHM_SLOT_BYTES;
        memcpy(slot(group, group->rank), (const unsigned char *)in + done, part);
        if (turn_meet(group, part, err) != 0) {
            return -1;
        }
        for (int r = 0; r < group->size; r++) {
            memcpy((unsigned char *)out + (size_t)r * bytes + done, slot(group, r), part);
        }
        state->turn++;
    }
    return 0;
}

static int shm_broadcast(struct group *group, void *data, size_t bytes, int root, struct error *err)
{
    struct shm_state *state = group->state;
    for (size_t done = 0; done < bytes; done += SHM_SLOT_BYTES) {
        size_t part = bytes - done < SHM_SLOT_BYTES ? bytes - done : SHM_SLOT_BYTES;
        if (group->rank == root) {
            memcpy(slot(group, root), (unsigned char *)data + done, part);
        }
        if (turn_meet(group, part, err) != 0) {
            return -1;
        }
        if (group->rank != root) {
            memcpy((unsigned char *)data + done, slot(group, root), part);
        }
        state->turn++;
    }
    return 0;
}

static int shm_barrier(struct group *group, struct error *err)
{
    struct shm_state *state = group->state;
    int rc = turn_meet(group, 0, err);
    state->turn++;
    return rc;
}

// The mapping and the children belong to group_run_shm.
static void shm_close(struct group *group)
{
    (void)group;
}

const struct group_ops shm_ops = {
    .transport = "shm",
    .all_reduce = shm_all_reduce,
    .reduce_scatter = shm_reduce_scatter,
    .all_gather = shm_all_gather,
    .broadcast = shm_broadcast,
    .barrier = shm_barrier,
    .close = shm_close,
};
