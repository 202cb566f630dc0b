// SPDX-License-Identifier: Apache-2.0
// What rank 0 has heard of each worker, for people: counts, rates and when it last spoke. Decisions
// are the state machine's alone; nothing here has a say in them. Every call costs O(1).
#ifndef MEMO_COORDINATOR_WORKER_TABLE_H
#define MEMO_COORDINATOR_WORKER_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WORKER_RATE_SECONDS 120.0 // rates forget what is older by this; commits come every minute

// A rate over the recent past: both sums fade with exp(-age / WORKER_RATE_SECONDS).
struct fading_rate {
    double amount;
    double seconds;
    double updated_seconds;
};
void fading_rate_add(struct fading_rate *rate, double now_seconds, double amount);
double fading_rate_read(const struct fading_rate *rate, double now_seconds); // per second

enum worker_state {
    WORKER_AWAITED, // has not said hello yet
    WORKER_WORKING, // holds tasks
    WORKER_IDLE,    // holds none
    WORKER_SILENT,  // let a lease expire and has reported nothing since
    WORKER_LEFT,    // said goodbye
    WORKER_FAILED,  // said goodbye with a failure
};
#define WORKER_STATES 6
const char *worker_state_name(enum worker_state state);

struct worker_row {
    int worker; // rank
    enum worker_state state;
    uint32_t held;  // leases
    uint64_t tasks; // committed in this run, late and repeated results included
    uint64_t failed;
    uint64_t pairs;
    uint64_t tokens;
    double heard_seconds;    // when it last spoke, since the start of the run; negative: never
    struct fading_rate rate; // tokens
};

struct worker_table {
    struct worker_row *rows; // [count] by rank
    size_t count;
};

void worker_table_init(struct worker_table *table, size_t count);
void worker_table_release(struct worker_table *table);
void worker_table_joined(struct worker_table *table, int worker, double now_seconds);
void worker_table_committed(struct worker_table *table, int worker, double now_seconds,
                            size_t tasks, uint64_t pairs, uint64_t tokens);
void worker_table_failed(struct worker_table *table, int worker, double now_seconds);
void worker_table_left(struct worker_table *table, int worker, double now_seconds, bool failed);
// What the state machine says of a worker that is present.
void worker_table_observe(struct worker_table *table, int worker, uint32_t held, bool silent);

#endif
