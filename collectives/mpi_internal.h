// SPDX-License-Identifier: Apache-2.0
// What mpi.c, mpi_sum.c and transport_mpi.c share.
#ifndef MEMO_COLLECTIVES_MPI_INTERNAL_H
#define MEMO_COLLECTIVES_MPI_INTERNAL_H

#include "collectives/group_internal.h"

#include <mpi.h>

#define SCRATCH_BYTES (2u << 20) // of one block of a sum; two are under way

enum { TAG_PARTS = 1, TAG_SUMS, TAG_GATHER, TAG_LEAVE };

struct mpi_state {
    MPI_Comm comm;
    MPI_Comm leaving; // the numbers of last calls
    MPI_Errhandler handler;
    unsigned char *scratch;      // [2][SCRATCH_BYTES]
    MPI_Request *requests;       // [2 blocks][2 steps][2 * size]
    MPI_Request *leave_requests; // [size]
    uint64_t *left;              // [size] last call of a rank that closed; valid once received
    bool *has_left;              // [size]
};

// The requests of step 0 or 1 of a block: [2 * size].
static inline MPI_Request *mpi_requests(struct group *group, size_t block, int step)
{
    struct mpi_state *state = group->state;
    return state->requests + ((block % 2) * 2 + (size_t)step) * 2 * (size_t)group->size;
}

// Until all are complete; an error at the deadline or when a rank left that should take part.
int mpi_wait_all(struct group *group, MPI_Request *requests, int count, struct error *err);

int mpi_all_reduce(struct group *group, void *data, size_t count,
                   const struct group_element *element, struct error *err);
int mpi_reduce_scatter(struct group *group, void *out, const void *in, size_t count,
                       const struct group_element *element, struct error *err);

// A duplicate of the group's communicator, with the error handler that prints and aborts.
// Collective.
int mpi_group_duplicate(struct group *group, MPI_Comm *out, struct error *err);

#endif
