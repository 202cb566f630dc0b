// SPDX-License-Identifier: Apache-2.0
#include "coordinator/worker_table.h"

#include "base/mem.h"

#include <math.h>
#include <stdlib.h>

static double faded(double value, double seconds)
{
    return value * exp(-seconds / WORKER_RATE_SECONDS);
}

// The time that has passed fades as well: a steady rate is read as itself after any time.
static double faded_seconds(const struct fading_rate *rate, double passed)
{
    return faded(rate->seconds, passed) +
           WORKER_RATE_SECONDS * (1 - exp(-passed / WORKER_RATE_SECONDS));
}

void fading_rate_add(struct fading_rate *rate, double now_seconds, double amount)
{
    const double passed = fmax(now_seconds - rate->updated_seconds, 0);
    rate->seconds = faded_seconds(rate, passed);
    rate->amount = faded(rate->amount, passed) + amount;
    rate->updated_seconds = now_seconds;
}

double fading_rate_read(const struct fading_rate *rate, double now_seconds)
{
    const double passed = fmax(now_seconds - rate->updated_seconds, 0);
    const double seconds = faded_seconds(rate, passed);
    return seconds > 0 ? faded(rate->amount, passed) / seconds : 0;
}

const char *worker_state_name(enum worker_state state)
{
    static const char *const names[WORKER_STATES] = {"awaited", "working", "idle",
                                                     "silent",  "left",    "failed"};
    return names[state];
}

void worker_table_init(struct worker_table *table, size_t count)
{
    table->rows = mem_calloc(count + 1, sizeof(*table->rows));
    table->count = count;
    for (size_t w = 0; w < count; w++) {
        table->rows[w].worker = (int)w;
        table->rows[w].heard_seconds = -1;
    }
}

void worker_table_release(struct worker_table *table)
{
    free(table->rows);
    *table = (struct worker_table){0};
}

static struct worker_row *hear(struct worker_table *table, int worker, double now_seconds)
{
    struct worker_row *row = &table->rows[worker];
    row->heard_seconds = now_seconds;
    return row;
}

void worker_table_joined(struct worker_table *table, int worker, double now_seconds)
{
    struct worker_row *row = hear(table, worker, now_seconds);
    row->state = WORKER_IDLE;
    row->rate = (struct fading_rate){.updated_seconds = now_seconds};
}

void worker_table_committed(struct worker_table *table, int worker, double now_seconds,
                            size_t tasks, uint64_t pairs, uint64_t tokens)
{
    struct worker_row *row = hear(table, worker, now_seconds);
    row->tasks += tasks;
    row->pairs += pairs;
    row->tokens += tokens;
    fading_rate_add(&row->rate, now_seconds, (double)tokens);
}

void worker_table_failed(struct worker_table *table, int worker, double now_seconds)
{
    hear(table, worker, now_seconds)->failed++;
}

void worker_table_left(struct worker_table *table, int worker, double now_seconds, bool failed)
{
    struct worker_row *row = hear(table, worker, now_seconds);
    row->state = failed ? WORKER_FAILED : WORKER_LEFT;
    row->held = 0;
}

void worker_table_observe(struct worker_table *table, int worker, uint32_t held, bool silent)
{
    struct worker_row *row = &table->rows[worker];
    row->held = held;
    row->state = silent ? WORKER_SILENT : held > 0 ? WORKER_WORKING : WORKER_IDLE;
}
