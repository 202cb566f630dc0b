// SPDX-License-Identifier: Apache-2.0
// A job's part in dividing tasks with other jobs on one run directory: carries the coordinator's
// wishes for blocks to the claims on disk, and what the disk says to the coordinator.
#ifndef MEMO_COORDINATOR_SHARING_H
#define MEMO_COORDINATOR_SHARING_H

#include "coordinator/claims.h"
#include "coordinator/coordinator.h"

struct sharing_block {
    uint32_t first; // task
    uint32_t count;
};

struct sharing_options {
    const struct sharing_block *blocks; // in the order in which they are given to the coordinator
    size_t block_count;
    struct claims
        *claims; // of these blocks and then, one each, of the tasks' backups; the caller's
    size_t tasks;
    double patience_seconds; // while the files of the claims cannot be written
    double look_seconds;     // between two looks for what others have done
    size_t expected_jobs;    // others may begin a little later
    double expected_seconds; // and then it counts who is there
    void *state;
    // Takes an event to the coordinator; NULL: coordinator_handle does.
    void (*tell)(void *state, const struct coordinator_event *event);
    // Reads what was committed since the last time.
    int (*look)(void *state, struct error *err);
    // Whether the task's row was there at the last look, and whether it sets the task aside.
    bool (*find)(void *state, uint32_t task, bool *aside);
};

struct sharing {
    const struct sharing_options *options;
    struct coordinator *coordinator;
    double looked_seconds; // when the last look began; the first one is the caller's, before
    double next_look_seconds;
    bool failing; // the claims cannot be kept at the moment
    double failing_since_seconds;
    bool stop_told;
};

// Gives the blocks to the coordinator, which has not yet had an event. What was on disk at
// looked_seconds, after the claims were opened, has been restored or will be.
void sharing_init(struct sharing *sharing, const struct sharing_options *options,
                  struct coordinator *coordinator, double looked_seconds);

// Call it with every tick.
int sharing_step(struct sharing *sharing, double now_seconds, struct error *err);

// Carries out ACTION_CLAIM. Of a block that was another job's, what that job committed to its end
// is looked for before anything of it is leased.
int sharing_claim(struct sharing *sharing, uint32_t block, double now_seconds, struct error *err);

// Carries out ACTION_BACKUP.
void sharing_back_up(struct sharing *sharing, uint32_t task, double now_seconds);

#endif
