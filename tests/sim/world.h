// SPDX-License-Identifier: Apache-2.0
// The parts of the simulated cluster; see sim.h for the model.
#ifndef MEMO_TESTS_SIM_WORLD_H
#define MEMO_TESTS_SIM_WORLD_H

#include "base/strbuf.h"
#include "collectives/transport_internal.h"
#include "coordinator/agent.h"
#include "coordinator/sharing.h"
#include "tests/sim/disk.h"
#include "tests/sim/sim.h"

enum sim_event_kind {
    SIM_START_JOB,
    SIM_START_WORKER, // a process begins
    SIM_WAKE_WORKER,  // its next task ends, or a commit is due
    SIM_TO_WORKER,    // a message arrives
    SIM_TO_HEAD,      // a message arrives at the coordinator
    SIM_WORKER_LOST,  // the coordinator learns that a process died
    SIM_SET_ASIDE,    // the coordinator commits its own row
    SIM_TICK,
    SIM_STOP,
    SIM_KILL_JOB,
    SIM_POWER_LOSS, // every job and the file server
};

struct sim_event {
    double time;
    uint64_t serial; // order of events of one time
    enum sim_event_kind kind;
    int job; // SIM_NO_JOB: of the world
    int life;
    int worker;
    int incarnation;
    uint32_t task;
    struct strbuf bytes; // owned
};

#define SIM_NO_JOB (-1)
#define SIM_MAX_JOBS 4
#define SIM_PREREQUISITES 6 // of one task at most
#define SIM_PRIORITIES 4
#define SIM_SET_ASIDE_ROW UINT64_MAX
#define SIM_MAX_RECORDS 3 // of one row
#define SIM_DIRECTORY "run"

// A row of a segment: what one execution of a task gave. A record says which execution made it.
struct sim_row {
    uint32_t task;
    uint32_t record_count;
    uint64_t execution; // or SIM_SET_ASIDE_ROW
    uint64_t records[SIM_MAX_RECORDS];
};

struct sim_running {
    uint32_t task;
    uint64_t execution;
    double end_seconds;
    bool dropped;
};

// Where a process is killed or paused: between two operations on files.
struct sim_process {
    struct sim_job *job;
    bool dying; // dead, but its functions have not returned yet
    struct sim_client client;
};

// One worker: its process, and what it has in memory.
struct sim_worker {
    struct sim_process process;
    int number;
    int incarnation;
    bool alive;
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
    unsigned segments;     // committed by this process
};

// What the plain model knows of a task, a lease and a worker.
enum model_state {
    MODEL_WAITING,
    MODEL_CLOSED,
    MODEL_FREE,
    MODEL_HELD,
    MODEL_SPENT,
    MODEL_DONE,
    MODEL_ASIDE,
};

struct model_lease {
    bool held;
    bool late;
    int worker;
    double late_seconds;
    double deadline_seconds;
};

struct model_task {
    enum model_state state;
    struct model_lease leases[2];
    int attempts;
    bool aside_sent;
    bool backup;      // of another job's block: FREE, HELD, or it was
    bool backup_ours; // this life has won it
    bool backup_failed;
    uint32_t waits_for; // prerequisites that are not final
};

struct model_worker {
    bool present;
    bool silent;
    bool stopped;
    int incarnation; // that joined
    double stopped_seconds;
    uint32_t window;
    uint32_t limit;
    uint32_t held;
    uint32_t *batch; // leases to be sent
    size_t batch_count;
    size_t batch_capacity;
};

// The coordinator's process: the machine under test and the model beside it.
struct sim_head {
    struct sim_process process;
    void *machine;
    struct model_task *tasks;
    struct model_worker *workers;
    bool *owned;               // [blocks]
    double next_alarm_seconds; // no lease rings before
    size_t free_tasks;
    size_t free_of[SIM_PRIORITIES]; // of them, by priority
    double own_work_seconds;        // a task that is no backup was leased or committed
    size_t late_tasks;              // with one lease, which is late
    bool stopping;
    struct coordinator_counts counts;
};

enum sim_job_state { SIM_JOB_AWAY, SIM_JOB_RUNNING, SIM_JOB_COMPLETE };

// A job: it is submitted once and started again until it has seen everything done.
struct sim_job {
    struct sim_world *world;
    int number;
    int life; // starts so far
    enum sim_job_state state;
    bool failed; // this life ends at the next occasion
    bool busy;   // one of its functions is on the stack: its events wait
    double clock_offset;
    double paused_seconds; // without a beat, since the last calm time
    int calm_ticks;        // without a pause
    bool *known_before;    // [tasks] acknowledged when this life began
    char *attempt;
    char owner[CLAIMS_NAME_BYTES];
    char *owner_path;
    struct sim_head head;
    struct sim_worker *workers;
    size_t worker_count;
    struct claims *claims; // NULL: the story has none
    struct sharing sharing;
    struct sharing_options sharing_options;
    struct sim_reader *reader;
};

// Drawn from the seed.
struct sim_shape {
    size_t jobs;
    size_t tasks;
    size_t workers; // of one job
    size_t expected_workers;
    uint32_t window;
    double lease_seconds;
    double late_seconds;
    double commit_seconds;
    int max_attempts;
    bool claims;
    uint32_t block_tasks;
    double beat_seconds;
    double stale_seconds;
    bool knows_the_dead; // claims_options.is_gone
    double loss;         // of a message
    double duplicate;
    double delay_seconds; // mean
    double long_delay;    // share of messages that take about a lease
    double crash;         // per action of a worker
    double pause;         // per operation on files
    double disk_full;     // per write
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
    double server_offset; // of the file server's clock
    uint64_t serial;
    struct sim_event *queue; // a binary heap
    size_t queue_count;
    size_t queue_capacity;
    struct sim_event *deferred; // of busy jobs
    size_t deferred_count;
    size_t deferred_capacity;
    int depth; // of events inside of events
    struct sim_disk *disk;
    struct sharing_block *blocks; // [block_count]
    size_t block_count;
    bool *ever_leased;             // [tasks]
    bool *acknowledged;            // [tasks] committed, or found on disk: a new life must find it
    uint32_t *prerequisites;       // [tasks * SIM_PREREQUISITES] of a task, ascending
    uint32_t *prerequisite_counts; // [tasks]
    uint32_t *dependents;          // those of task t: dependents[dependent_offsets[t]] and on
    uint32_t *dependent_offsets;   // [tasks + 1]
    uint32_t *execution_tasks;     // [executions] what was computed
    size_t executions;
    size_t execution_capacity;
    struct sim_job jobs[SIM_MAX_JOBS];
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
void sim_schedule_job(struct sim_job *job, struct sim_event event, double delay_seconds);
bool sim_next_event(struct sim_world *world, struct sim_event *out);
// The next event until a time that is not of a busy job; those are deferred.
bool sim_next_event_of_others(struct sim_world *world, double until_seconds, struct sim_event *out);
void sim_requeue_deferred(struct sim_world *world);
void sim_clear_events(struct sim_world *world);
void sim_send(struct sim_job *job, enum sim_event_kind direction, int worker, int incarnation,
              const void *bytes, size_t length);
bool sim_task_is_poisoned(const struct sim_world *world, uint32_t task);
bool sim_task_is_endless(const struct sim_world *world, uint32_t task);
uint32_t sim_task_priority(const struct sim_world *world, uint32_t task); // < SIM_PRIORITIES

// dependencies.c
void sim_draw_dependencies(struct sim_world *world);
void sim_check_prerequisites(struct sim_world *world, uint32_t task); // each has its row

// sim.c
void sim_handle_event(struct sim_world *world, const struct sim_event *event);

// job.c
double sim_now(const struct sim_job *job); // by its own clock
void sim_process_init(struct sim_process *process, struct sim_job *job);
void sim_job_init(struct sim_job *job, struct sim_world *world, int number);
void sim_job_release(struct sim_job *job);
void sim_job_start(struct sim_job *job);
void sim_job_tick(struct sim_job *job);
void sim_job_end_when_over(struct sim_job *job);
// Every process of the job is gone, and it is started again. crash: so is its machine's cache.
void sim_job_kill(struct sim_job *job, bool crash);

// store.c: segments, written as memo writes them and read as memo reads them
// 0, TASK_RUNNER_FENCED or -1.
int sim_store_rows(struct sim_process *process, const char *name, const struct sim_row *rows,
                   size_t count, struct error *err);
struct sim_reader;
struct sim_reader *sim_reader_create(struct sim_world *world);
void sim_reader_destroy(struct sim_reader *reader);
int sim_reader_refresh(struct sim_reader *reader, struct fs *fs, struct error *err);
// The row that counts, or NULL; rows: of all executions.
const struct sim_row *sim_reader_find(const struct sim_reader *reader, uint32_t task);
size_t sim_reader_rows(const struct sim_reader *reader, uint32_t task);
// What is on disk at this moment, to everybody. Caller destroys.
struct sim_reader *sim_read_disk(struct sim_world *world);

// workers.c
void sim_worker_start(struct sim_job *job, int number, int incarnation);
void sim_worker_receive(struct sim_job *job, const struct sim_event *event);
void sim_worker_wake(struct sim_job *job, const struct sim_event *event);
void sim_worker_kill(struct sim_job *job, int number); // and plans what comes after
void sim_worker_end(struct sim_worker *worker);        // releases the process

// head.c
void sim_head_start(struct sim_job *job);
void sim_head_end(struct sim_job *job);
void sim_head_receive(struct sim_job *job, const struct sim_event *event);
void sim_head_handle(struct sim_job *job, const struct coordinator_event *event);
void sim_head_tell(struct sim_job *job, enum coordinator_event_kind kind, int worker, uint32_t task,
                   uint32_t window);
void sim_head_set_aside(struct sim_job *job, uint32_t task);
void sim_head_tick(struct sim_job *job);
bool sim_head_is_over(const struct sim_job *job);

#endif
