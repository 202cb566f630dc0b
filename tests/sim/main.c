// SPDX-License-Identifier: Apache-2.0
// sim --seeds N [--from M]  plays N seeds, from M or 0 on
// sim --planted N           every planted bug must be found within N seeds
// sim --scale W T           W virtual workers and T tasks: figures, and under 1 GB
// sim --seed N [--story]    plays one seed, and tells what happens in it
#include "base/clock.h"
#include "base/log.h"
#include "tests/sim/scale.h"
#include "tests/sim/sim.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static int play_one(uint64_t seed, bool story)
{
    struct sim_stats stats;
    struct error err;
    const int rc = sim_run(seed, &sim_real_machine, story ? stdout : NULL, &stats, &err);
    printf("seed %" PRIu64
           ": %zu jobs, %zu tasks, %zu workers each, %zu starts, %zu crashes, %zu executions, "
           "%zu duplicate rows, %zu set aside, %zu backups, %zu events\n",
           seed, stats.jobs, stats.tasks, stats.workers, stats.runs, stats.crashes,
           stats.executions, stats.duplicate_rows, stats.aside, stats.backups, stats.events);
    if (rc)
        printf("%s\n", err.text);
    return rc ? 1 : 0;
}

static int play_many(uint64_t first, uint64_t seeds)
{
    struct sim_stats sum = {0};
    struct error err;
    const double begin = clock_seconds();
    uint64_t broken = 0;
    for (uint64_t seed = first; seed < first + seeds; seed++) {
        struct sim_stats stats;
        if (sim_run(seed, &sim_real_machine, NULL, &stats, &err)) {
            printf("%s\n", err.text);
            broken++;
        }
        sum.tasks += stats.tasks;
        sum.jobs += stats.jobs;
        sum.runs += stats.runs;
        sum.events += stats.events;
        sum.crashes += stats.crashes;
        sum.duplicate_rows += stats.duplicate_rows;
        sum.aside += stats.aside;
        sum.backups += stats.backups;
    }
    printf("%" PRIu64
           " seeds, %zu jobs, %zu tasks, %zu starts, %zu crashes, %zu duplicate rows, %zu set "
           "aside, %zu backups, %zu events, %.1f s: %" PRIu64 " broken\n",
           seeds, sum.jobs, sum.tasks, sum.runs, sum.crashes, sum.duplicate_rows, sum.aside,
           sum.backups, sum.events, clock_seconds() - begin, broken);
    return broken > 0 ? 1 : 0;
}

static int find_bug(const struct sim_machine *machine, uint64_t seeds)
{
    for (uint64_t seed = 0; seed < seeds; seed++) {
        struct sim_stats stats;
        struct error err;
        if (sim_run(seed, machine, NULL, &stats, &err)) {
            printf("%s: found by %s\n", machine->name, err.text);
            return 0;
        }
    }
    printf("%s: not found within %" PRIu64 " seeds\n", machine->name, seeds);
    return 1;
}

static int find_bugs(uint64_t seeds)
{
    int missed = 0;
    for (size_t i = 0; i < sim_planted_bug_count; i++)
        missed += find_bug(&sim_planted_bugs[i], seeds);
    return missed > 0 ? 1 : 0;
}

// Every task costs a fixed number of events, actions and messages, whatever the number of workers;
// each of them is O(log n).
static int play_scale(size_t workers, size_t tasks)
{
    struct sim_scale f;
    sim_run_scale(workers, tasks, &f);
    printf(
        "%zu workers, %zu tasks: %zu events, %zu actions, %zu messages, %.0f simulated s; %.1f s "
        "of CPU, %.0f MB\n",
        workers, tasks, f.events, f.actions, f.messages, f.span_seconds, f.cpu_seconds,
        f.peak_bytes * 1e-6);
    const size_t most = 3 * tasks + 8 * workers;
    if (f.done == tasks && f.peak_bytes < 1e9 && f.events < most && f.actions < most &&
        f.messages < most)
        return 0;
    printf("too many, too much, or not all done: %zu\n", f.done);
    return 1;
}

int main(int argc, char **argv)
{
    log_configure(LOG_ERROR, NULL);
    const uint64_t number = argc > 2 ? strtoull(argv[2], NULL, 10) : 0;
    if (argc == 3 && strcmp(argv[1], "--seeds") == 0)
        return play_many(0, number);
    if (argc == 5 && strcmp(argv[1], "--seeds") == 0 && strcmp(argv[3], "--from") == 0)
        return play_many(strtoull(argv[4], NULL, 10), number);
    if (argc == 3 && strcmp(argv[1], "--planted") == 0)
        return find_bugs(number);
    if (argc == 4 && strcmp(argv[1], "--scale") == 0)
        return play_scale((size_t)number, (size_t)strtoull(argv[3], NULL, 10));
    if (argc >= 3 && strcmp(argv[1], "--seed") == 0)
        return play_one(number, argc == 4 && strcmp(argv[3], "--story") == 0);
    fprintf(stderr,
            "usage: sim --seeds N [--from M] | --planted N | --scale W T | --seed N [--story]\n");
    return 2;
}
