// SPDX-License-Identifier: Apache-2.0
// A group of ranks that compute together. Transports: self (one rank), shm (fork + shared memory,
// several ranks without MPI), mpi (host memory), nccl (memory of GPUs, see group_device.h; beside a
// control group of another transport). Every call below is collective: all ranks of the
// group make it, in the same order, with the same counts.
//
// Sums are computed in rank order (((r0 + r1) + r2) + ...), so that every rank gets the same bits
// and a run repeats exactly; NCCL has an order of its own.
#ifndef MEMO_COLLECTIVES_GROUP_H
#define MEMO_COLLECTIVES_GROUP_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct group;

// MPI when this process was started by mpirun or srun, otherwise a group of one. Initialises MPI.
int group_open(struct group **out, struct error *err);
int group_open_self(struct group **out, struct error *err);

// Accepts NULL. Over MPI: waits until every rank closes, then finalises MPI; a group of which a
// call failed aborts the whole launch instead, after printing the failure (unless it keeps records:
// then who speaks has printed it), because the other ranks and the requests in flight cannot be
// called back. Of a group that keeps records all must close within the deadline.
void group_close(struct group *group);

// Forks ranks - 1 children over shared memory and runs body in each rank; the children exit with
// body's result. Returns in the caller (rank 0) when all have ended: 0, or -1 with the text of the
// lowest rank that failed. A rank that dies makes the others' collectives fail instead of hanging;
// one that still runs 3 s after another has failed is killed.
// Call it before threads are started, so before devices are created: a child has only the thread
// that forked.
int group_run_shm(int ranks, int (*body)(struct group *group, void *context, struct error *err),
                  void *context, struct error *err);

int group_rank(const struct group *group);
int group_size(const struct group *group);
int group_local_rank(const struct group *group); // among the ranks of this host
int group_local_size(const struct group *group);
const char *group_transport(const struct group *group);

// How long a call waits for the other ranks before it fails; 30 minutes unless set.
void group_set_deadline(struct group *group, double seconds);
double group_deadline(const struct group *group);

// The step that the job is at, for messages and the flight record.
void group_set_step(struct group *group, uint64_t step);

// Collective: from now on a failure leaves every rank's flight record (flight.h) in this directory,
// which is created or cleared of older ones. The first rank that fails waits a moment for the
// others' records and adds to its message who is missing in which call; the other ranks get the
// same message, and only it may tell people: see group_speaks.
int group_record(struct group *group, const char *directory, struct error *err);

// Whether this rank is the one that tells people about a failure: rank 0, or, once a call of a
// group with records failed, the first rank on which it did.
bool group_speaks(const struct group *group);

// Of a signal handler for SIGTERM: ranks that wait in a call write their flight records, since the
// launcher may be about to end all of them because one died.
void group_note_termination(void);

// In place, sum. A failure names the rank, the call and its sequence number; the group is then
// unusable and the job must end.
int group_all_reduce_f32(struct group *group, float *data, size_t count, struct error *err);
int group_all_reduce_f64(struct group *group, double *data, size_t count, struct error *err);
int group_all_reduce_i64(struct group *group, int64_t *data, size_t count, struct error *err);
// Of bfloat16: added in float32 in rank order, and rounded once, to nearest, ties to even (NCCL
// rounds as it likes).
int group_all_reduce_bf16(struct group *group, uint16_t *data, size_t count, struct error *err);

// Equal parts: in is [size * count], out [count] = this rank's part of the sum. out may be this
// rank's part of in, but must not overlap another one's.
int group_reduce_scatter_f32(struct group *group, float *out, const float *in, size_t count,
                             struct error *err);
int group_reduce_scatter_i64(struct group *group, int64_t *out, const int64_t *in, size_t count,
                             struct error *err);
int group_reduce_scatter_bf16(struct group *group, uint16_t *out, const uint16_t *in, size_t count,
                              struct error *err);
// in is [bytes], out [size * bytes] in rank order. in may be this rank's place in out.
int group_all_gather(struct group *group, void *out, const void *in, size_t bytes,
                     struct error *err);
int group_broadcast(struct group *group, void *data, size_t bytes, int root, struct error *err);
int group_barrier(struct group *group, struct error *err);

// All ranks take the same branch after a step that may fail locally: 0 when rc is 0 everywhere;
// else -1 on every rank, with the text of the lowest failing rank prefixed by "rank N: " on the
// others.
int group_agree(struct group *group, int rc, struct error *err);

// Logical or over ranks: true everywhere when true anywhere. For stop requests.
int group_any(struct group *group, bool value, bool *out, struct error *err);

#endif
