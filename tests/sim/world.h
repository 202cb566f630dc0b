// SPDX-License-Identifier: Apache-2.0
// The parts of the simulated cluster; see sim.h for the model.
#ifndef MEMO_TESTS_SIM_WORLD_H
#define MEMO_TESTS_SIM_WORLD_H

#include "base/strbuf.h"
#include "collectives/transport_internal.h"
#include "coordinator/agent.h"
#include "tests/sim/sim.h"

enum sim_event_kind {
    SIM_START_WORKER,  // a process begins
    SIM_WAKE_WORKER,   // its next task ends, or a commit is due
    SIM_TO_WORKER,     // a message arrives
    SIM_TO_HEAD,       // a message arrives at the coordinator
    SIM_WORKER_LOST,   // the coordinator learns that a process died
    SIM_ASIDE_DURABLE, // the coordinator's own row is committed
    SIM_TICK,
    SIM_STOP,
    SIM_KILL_JOB,
};

struct sim_event {
    double time;
    uint64_t serial; // order of events of one time
    enum sim_event_kind kind;
    int run;
    int worker;
    int incarnation;
    uint32_t task;
    struct strbuf bytes; // owned
};

#define SIM_PREREQUISITES 6 // of one task at most
#define SIM_PRIORITIES 4
#define SIM_NO_ROW SIZE_MAX
#define SIM_SET_ASIDE UINT64_MAX

struct sim_row {
    uint32_t task;
    uint64_t execution; // SIM_SET_ASIDE: the coordinator's row
};

struct sim_running {
    uint32_t task;
    uint64_t execution;
    double end_seconds;
    bool dropped;
};

// One worker: its process, and what it has in memory.
struct sim_worker {
    struct sim_world *world;
    int number;
    int incarnation;
    bool alive;
    bool dying; // the process is dead, but its functions have not returned yet
    double slowness;
    double started_seconds;
    double ended_seconds;
    double next_wake_seconds;
    struct transport transport;
    struct task_runner runner;
    struct agent *agent;
    struct sim_running *running; // [runner.window]
    size_t running_count;
    struct sim_row *uncommitted;
    size_t uncommitted_count;
    size_t uncommitted_capacity;
    double oldest_seconds; // of uncommitted
};

// What the plain model knows of a task and of a worker.
enum model_state { MODEL_WAITING, MODEL_FREE, MODEL_HELD, MODEL_SPENT, MODEL_DONE, MODEL_ASIDE };

struct model_task {
    enum model_state state;
    int worker;
    uint64_t lease; // serial of the lease
    int attempts;
    bool aside_sent;
    uint32_t waits_for; // prerequisites that are not final
};

struct model_worker {
    bool present;
    bool silent;
    bool stopped;
    int incarnation; // that joined
    double stopped_seconds;
    uint32_t window;
    uint32_t held;
    uint32_t *batch; // leases to be sent
    size_t batch_count;
    size_t batch_capacity;
};

struct model_lease {
    uint32_t task;
    uint64_t lease;
    double deadline_seconds;
};

// The coordinator's process: the machine under test and the model beside it.
struct sim_head {
    void *machine;
    struct model_task *tasks;
    struct model_worker *workers;
    struct model_lease *leases; // in order of deadline
    size_t lease_count;
    size_t lease_capacity;
    size_t lease_first;
    size_t present;
    size_t free_tasks;
    size_t free_of[SIM_PRIORITIES]; // of them, by priority
    bool stopping;
    struct coordinator_counts counts;
};

// Drawn from the seed.
struct sim_shape {
    size_t tasks;
    size_t workers;
    size_t expected_workers;
    uint32_t window;
    double lease_seconds;
    double commit_seconds;
    int max_attempts;
    double loss; // of a message
    double duplicate;
    double delay_seconds; // mean
    double long_delay;    // share of messages that take about a lease
    double crash;         // per action of a worker
    double disk_full;     // per commit
    double poisoned;      // share of tasks
    size_t endless;       // tasks that never end
    double dependent;     // share of tasks that have prerequisites: the last ones
    bool priorities;
    double slow_workers;    // share
    bool calm;              // none of the faults above
    double quiet_seconds;   // faults end
    double restart_seconds; // mean time until a dead process is back
};

struct sim_world {
    uint64_t seed;
    uint64_t draws;
    FILE *story;
    const struct sim_machine *machine;
    struct sim_shape shape;
    double now_seconds;
    uint64_t serial;
    int run;
    struct sim_event *queue; // a binary heap
    size_t queue_count;
    size_t queue_capacity;
    struct sim_row *rows; // the disk
    size_t row_count;
    size_t row_capacity;
    size_t *first_row;             // [tasks] the row that counts, or SIM_NO_ROW
    bool *ever_leased;             // [tasks]
    uint32_t *prerequisites;       // [tasks * SIM_PREREQUISITES] of a task, ascending
    uint32_t *prerequisite_counts; // [tasks]
    uint32_t *dependents;          // those of task t: dependents[dependent_offsets[t]] and on
    uint32_t *dependent_offsets;   // [tasks + 1]
    uint32_t *execution_tasks;     // [executions] what was computed
    size_t executions;
    size_t execution_capacity;
    struct sim_worker *workers;
    struct sim_head head;
    struct sim_stats stats;
    bool broken; // a promise, or the simulator's limits
    struct error *err;
};

// world.c
double sim_uniform(struct sim_world *world);
bool sim_chance(struct sim_world *world, double probability);
double sim_exponential(struct sim_world *world, double mean);
bool sim_quiet(const struct sim_world *world); // faults have ended
void sim_tell_story(struct sim_world *world, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void sim_broken(struct sim_world *world, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
void sim_schedule(struct sim_world *world, struct sim_event event, double delay_seconds);
bool sim_next_event(struct sim_world *world, struct sim_event *out);
void sim_clear_events(struct sim_world *world);
void sim_send(struct sim_world *world, enum sim_event_kind direction, int worker, int incarnation,
              const void *bytes, size_t length);
void sim_commit_row(struct sim_world *world, struct sim_row row);
bool sim_task_is_poisoned(const struct sim_world *world, uint32_t task);
bool sim_task_is_endless(const struct sim_world *world, uint32_t task);
uint32_t sim_task_priority(const struct sim_world *world, uint32_t task); // < SIM_PRIORITIES

// dependencies.c
void sim_draw_dependencies(struct sim_world *world);
void sim_check_prerequisites(struct sim_world *world, uint32_t task); // each has its row

// workers.c
void sim_worker_start(struct sim_world *world, int number, int incarnation);
void sim_worker_receive(struct sim_world *world, const struct sim_event *event);
void sim_worker_wake(struct sim_world *world, const struct sim_event *event);
void sim_worker_kill(struct sim_world *world, int number); // and plans what comes after
void sim_worker_end(struct sim_worker *worker);            // releases the process

// head.c
void sim_head_start(struct sim_world *world);
void sim_head_end(struct sim_world *world);
void sim_head_receive(struct sim_world *world, const struct sim_event *event);
void sim_head_tell(struct sim_world *world, enum coordinator_event_kind kind, int worker,
                   uint32_t task, uint32_t window);
void sim_head_tick(struct sim_world *world);
bool sim_head_is_over(const struct sim_world *world);

#endif
