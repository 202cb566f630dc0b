// SPDX-License-Identifier: Apache-2.0
// The mapping that the ranks of one machine share: shm.c moves data through it, shm_run.c starts
// the ranks and keeps account of those that ended.
#ifndef MEMO_COLLECTIVES_SHM_INTERNAL_H
#define MEMO_COLLECTIVES_SHM_INTERNAL_H

#include "collectives/group_internal.h"

#include <stdatomic.h>
#include <sys/types.h>

#define SHM_MAX_RANKS 64            // one machine; rank 0 asks after each child by itself
#define SHM_SLOT_BYTES (256u << 10) // the slots of a few ranks stay in a second-level cache

enum shm_end { SHM_RUNNING, SHM_DONE, SHM_FAILED };

// What a rank moves in a turn; all must agree. The text of the call is a constant of the program,
// which has the same address in every rank.
struct shm_move {
    const char *call;
    uint64_t sequence;
    size_t bytes;
};

struct shm_rank {
    _Alignas(64) _Atomic uint32_t arrived; // barriers; wraps
    _Atomic uint32_t sleepers;             // ranks that sleep on arrived
    _Atomic uint32_t end;                  // enum shm_end
    struct shm_move move[2];               // of turn t % 2
    struct error failure;                  // set before end becomes SHM_FAILED
};

struct shm_page {
    _Atomic int first_failed; // 1 + rank, 0 while nobody failed
    struct shm_rank ranks[];
};

struct shm_state {
    struct shm_page *page;
    unsigned char *slots; // [2][size][SHM_SLOT_BYTES]
    uint64_t turn;
    uint32_t arrived; // our own counter
    int spins;        // 0 when the ranks share cores
    pid_t *children;  // rank 0: [size], 0 once reaped and for ranks that were never started
};

extern const struct group_ops shm_ops;

void shm_wake(_Atomic uint32_t *word);

// Rank 0: asks after the children and speaks for those that died. Returns how many still run.
int shm_reap(struct shm_state *state, int size);

#endif
