// SPDX-License-Identifier: Apache-2.0
// Sums over MPI, in host memory.
//
// MPI leaves the order of terms in a reduction open, so sums are ours. An all-reduce works on
// blocks of SCRATCH_BYTES. In each block rank r owns part r: (1) everybody sends its part r to r,
// which adds what it receives in rank order; (2) r sends the sum to everybody. Step 1 of the next
// block is under way while a block is added, and step 2 of a block while the next one is; hence two
// scratch blocks. A rank sends 2 (size - 1) / size of the data and receives as much; no algorithm
// needs less.
#include "collectives/mpi_internal.h"

#include <assert.h>
#include <string.h>

// A sum under way. Block k is elements [k * block, ...) of data (all-reduce) or of every rank's
// part (reduce-scatter), and part r of it is what rank r adds.
struct mpi_sum {
    struct group *group;
    const struct group_element *element;
    const unsigned char *in;
    unsigned char *out;
    size_t count; // of data, or of one part
    size_t block; // elements
    bool scatter;
};

struct mpi_part {
    size_t begin; // in elements of in
    size_t count;
};

static struct mpi_part sum_part(const struct mpi_sum *sum, size_t k, int rank)
{
    size_t begin = k * sum->block;
    size_t count = sum->count - begin < sum->block ? sum->count - begin : sum->block;
    if (sum->scatter) {
        return (struct mpi_part){(size_t)rank * sum->count + begin, count};
    }
    size_t low = group_part_begin(count, sum->group->size, rank);
    size_t high = group_part_begin(count, sum->group->size, rank + 1);
    return (struct mpi_part){begin + low, high - low};
}

// Our part as rank `from` sent it.
static unsigned char *sum_received(const struct mpi_sum *sum, size_t k, int from)
{
    struct mpi_state *state = sum->group->state;
    size_t bytes = sum_part(sum, k, sum->group->rank).count * sum->element->bytes;
    return state->scratch + (k % 2) * SCRATCH_BYTES + (size_t)from * bytes;
}

// Step 1: parts go to their owners.
static void sum_send_parts(const struct mpi_sum *sum, size_t k)
{
    struct group *group = sum->group;
    struct mpi_state *state = group->state;
    MPI_Request *requests = mpi_requests(group, k, 0);
    int own = (int)(sum_part(sum, k, group->rank).count * sum->element->bytes);
    for (int i = 0; i < group->size; i++) {
        int peer = (group->rank + i) % group->size; // not everybody to rank 0 at once
        requests[2 * i] = requests[2 * i + 1] = MPI_REQUEST_NULL;
        struct mpi_part part = sum_part(sum, k, peer);
        if (i != 0 && own != 0) {
            MPI_Irecv(sum_received(sum, k, peer), own, MPI_BYTE, peer, TAG_PARTS, state->comm,
                      &requests[2 * i]);
        }
        if (i != 0 && part.count != 0) {
            MPI_Isend(sum->in + part.begin * sum->element->bytes,
                      (int)(part.count * sum->element->bytes), MPI_BYTE, peer, TAG_PARTS,
                      state->comm, &requests[2 * i + 1]);
        }
    }
}

// Adds our part in rank order; our own term joins the received ones in the scratch.
static void sum_add(const struct mpi_sum *sum, size_t k, unsigned char *out)
{
    struct group *group = sum->group;
    struct mpi_part own = sum_part(sum, k, group->rank);
    size_t bytes = own.count * sum->element->bytes;
    memcpy(sum_received(sum, k, group->rank), sum->in + own.begin * sum->element->bytes, bytes);
    sum->element->sum(out, sum_received(sum, k, 0), bytes, group->size, own.count);
}

// Step 2: sums go to everybody, in place.
static void sum_send_sums(const struct mpi_sum *sum, size_t k)
{
    struct group *group = sum->group;
    struct mpi_state *state = group->state;
    MPI_Request *requests = mpi_requests(group, k, 1);
    struct mpi_part own = sum_part(sum, k, group->rank);
    size_t width = sum->element->bytes;
    for (int i = 0; i < group->size; i++) {
        int peer = (group->rank + i) % group->size;
        requests[2 * i] = requests[2 * i + 1] = MPI_REQUEST_NULL;
        struct mpi_part part = sum_part(sum, k, peer);
        if (i != 0 && part.count != 0) {
            MPI_Irecv(sum->out + part.begin * width, (int)(part.count * width), MPI_BYTE, peer,
                      TAG_SUMS, state->comm, &requests[2 * i]);
        }
        if (i != 0 && own.count != 0) {
            MPI_Isend(sum->out + own.begin * width, (int)(own.count * width), MPI_BYTE, peer,
                      TAG_SUMS, state->comm, &requests[2 * i + 1]);
        }
    }
}

int mpi_all_reduce(struct group *group, void *data, size_t count,
                   const struct group_element *element, struct error *err)
{
    // A multiple of size, so that the largest part, times size, still fits into the scratch.
    size_t size = (size_t)group->size;
    size_t block = SCRATCH_BYTES / element->bytes / size * size;
    assert(block > 0);
    struct mpi_sum sum = {group, element, data, data, count, block, false};
    size_t blocks = count / block + (count % block != 0);
    int requests = 2 * group->size;
    if (blocks > 0) {
        sum_send_parts(&sum, 0);
    }
    for (size_t k = 0; k < blocks; k++) {
        if (k + 1 < blocks) {
            sum_send_parts(&sum, k + 1);
        }
        if (mpi_wait_all(group, mpi_requests(group, k, 0), requests, err) != 0) {
            return -1;
        }
        sum_add(&sum, k, sum.out + sum_part(&sum, k, group->rank).begin * element->bytes);
        if (k > 0 && mpi_wait_all(group, mpi_requests(group, k - 1, 1), requests, err) != 0) {
            return -1;
        }
        sum_send_sums(&sum, k);
    }
    return blocks > 0 ? mpi_wait_all(group, mpi_requests(group, blocks - 1, 1), requests, err) : 0;
}

int mpi_reduce_scatter(struct group *group, void *out, const void *in, size_t count,
                       const struct group_element *element, struct error *err)
{
    size_t block = SCRATCH_BYTES / element->bytes / (size_t)group->size;
    assert(block > 0);
    struct mpi_sum sum = {group, element, in, out, count, block, true};
    size_t blocks = count / block + (count % block != 0);
    if (blocks > 0) {
        sum_send_parts(&sum, 0);
    }
    for (size_t k = 0; k < blocks; k++) {
        if (k + 1 < blocks) {
            sum_send_parts(&sum, k + 1);
        }
        if (mpi_wait_all(group, mpi_requests(group, k, 0), 2 * group->size, err) != 0) {
            return -1;
        }
        sum_add(&sum, k, sum.out + k * block * element->bytes);
    }
    return 0;
}
