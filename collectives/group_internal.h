// SPDX-License-Identifier: Apache-2.0
// What a transport of struct group provides. group.c counts the calls, names them in errors and
// builds group_agree and group_any; a transport moves bytes and sums.
#ifndef MEMO_COLLECTIVES_GROUP_INTERNAL_H
#define MEMO_COLLECTIVES_GROUP_INTERNAL_H

#include "collectives/flight.h"
#include "collectives/group.h"
#include "collectives/group_device.h"

// Waiting longer than this for the other ranks is an error. Longer than any step, evaluation or
// checkpoint between two collectives; short enough that a stuck job does not burn a night.
#define GROUP_DEADLINE_SECONDS (30.0 * 60.0)

// Where part `part` begins when count elements are cut into `parts` parts that differ by at most
// one.
static inline size_t group_part_begin(size_t count, int parts, int part)
{
    size_t n = (size_t)parts;
    size_t i = (size_t)part;
    return count / n * i + count % n * i / n;
}

// One element type of a sum.
struct group_element {
    size_t bytes;
    // sum[i] = ((term 0[i] + term 1[i]) + term 2[i]) + ..., where the term of rank r begins
    // r * stride bytes behind terms. sum may be one of the terms.
    void (*sum)(void *sum, const void *terms, size_t stride, int ranks, size_t count);
};

extern const struct group_element group_f32;
extern const struct group_element group_f64;
extern const struct group_element group_i64;  // wraps around
extern const struct group_element group_bf16; // added in float32

struct group_ops {
    const char *transport;
    int (*all_reduce)(struct group *group, void *data, size_t count,
                      const struct group_element *element, struct error *err);
    int (*reduce_scatter)(struct group *group, void *out, const void *in, size_t count,
                          const struct group_element *element, struct error *err);
    int (*all_gather)(struct group *group, void *out, const void *in, size_t bytes,
                      struct error *err);
    int (*broadcast)(struct group *group, void *data, size_t bytes, int root, struct error *err);
    int (*barrier)(struct group *group, struct error *err);
    void (*close)(struct group *group); // releases state, not the group itself
    // Of groups on a device, see group_device.h; otherwise NULL.
    int (*mark)(struct group *group, uint64_t *mark, struct error *err);
    int (*after)(struct group *group, uint64_t mark, struct error *err);
    void *(*stream)(const struct group *group);
    int (*batch_begin)(struct group *group, struct error *err);
    int (*batch_end)(struct group *group, struct error *err);
};

struct group {
    const struct group_ops *ops;
    void *state; // of the transport
    int rank;
    int size;
    int local_rank;
    int local_size;
    double deadline_seconds;
    const char *call;                  // name of the current or last call
    uint64_t sequence;                 // calls begun; equal on all ranks in a correct program
    uint64_t entry;                    // of the current call in the flight record
    struct group *control;             // of a group beside it; NULL: this one stands alone
    uint64_t batch[GROUP_BATCH_CALLS]; // entries of the calls of an open batch
    size_t batch_calls;
    bool in_batch;
    bool broken; // a call failed; failure says why
    struct error failure;
    struct flight *flight;
    bool owns_flight;
    char *record_directory; // of flight records; NULL: none are written
    bool silent;            // another rank speaks for this failure
    double next_look;       // at the directory, while waiting; see group_keep_waiting
    bool wrote_on_signal;
};

struct group *group_create(const struct group_ops *ops, void *state, int rank, int size);

// A second group of the same ranks: it shares flight record, record directory and fate.
struct group *group_create_beside(const struct group_ops *ops, void *state, struct group *control);

// What every call begins and ends with: numbers and flight record; a failure makes the group
// broken. begin may fail; end takes the call's result and gives it back.
int group_call_begin(struct group *group, const char *call, size_t bytes, struct error *err);
int group_call_end(struct group *group, int rc, struct error *err);

// Names the current call in err, and makes the group broken. Returns -1.
int group_call_failed(struct group *group, struct error *err);

// For the loops in which a transport waits, about every 10 ms or less: -1 when the wait must end,
// because it lasted longer than the deadline (`err` untouched: the transport says whom it misses)
// or because the call of another rank failed, which is all that can be said here (`err` is set and
// *told true).
int group_keep_waiting(struct group *group, double waited_seconds, bool *told, struct error *err);

// When a call of the group failed for the first time: leaves this rank's record, finds out who is
// missing and who tells people. Adds to err what the records of all ranks say.
void group_record_failure(struct group *group, struct error *err);
// When ranks agreed that one of them failed.
void group_record_disagreement(struct group *group, const struct error *err);
// Ends the process's part of a broken group without a second message: the rank that speaks at once,
// the others once it had the time to.
void group_await_last_words(const struct group *group);

// How this process was started. Read from the environment, so that a plain start on a laptop never
// touches MPI.
struct launch {
    const char *variable; // the environment variable that told; NULL: not started by a launcher
    bool connected;       // the launcher offers what MPI_Init needs (Open MPI's own, PMIx or PMI)
    long size;            // processes started together; 0 when the environment does not say
};

struct launch launch_detect(void);

// Fails when a launcher started several processes that could not find each other, which would
// otherwise run as so many separate jobs over the same files.
int launch_refuse_split(const struct launch *launch, const char *remedy, struct error *err);

// In mpi.c, or mpi_absent.c in a build without MPI.
int group_open_launched(const struct launch *launch, struct group **out, struct error *err);

#endif
