// SPDX-License-Identifier: Apache-2.0
// Several jobs on one output directory: cuts a plan into blocks and opens the claims on them, under
// OUT/claims/DIGEST (of the plan and its blocks), so that jobs with other tasks do not meet there.
#ifndef MEMO_JOBS_GENERATE_SHARING_H
#define MEMO_JOBS_GENERATE_SHARING_H

#include "coordinator/sharing.h"
#include "datasets/reflections_index.h"
#include "jobs/generation.h"

struct generate_sharing {
    // The caller's.
    const struct generate_options *options;
    const struct task_plan *plan;
    struct reflections_index *index; // rank 0
    struct fs *fs;
    const char *attempt; // its last component is the owner's name
    bool coordinates;    // rank 0

    char *directory;
    char *owner_path; // NULL: claims are off
    struct sharing_block *blocks;
    size_t block_count, block_capacity;
    struct claims *claims;
    struct sharing_options sharing;
    uint64_t found_pairs; // of tasks that other jobs did meanwhile
};

// The fields above the gap are set before; the rest is zero. Rank 0 claims and then reads what is
// committed by now; the other ranks learn owner_path.
int generate_sharing_open(struct generate_sharing *sharing, struct error *err);

// Gives back what is claimed, after the workers have ended. complete: all is done, so that the last
// of several jobs removes the claims from disk.
void generate_sharing_close(struct generate_sharing *sharing, bool complete);

#endif
