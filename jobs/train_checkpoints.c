// SPDX-License-Identifier: Apache-2.0
#include "jobs/train_job.h"

#include "base/clock.h"
#include "base/log.h"

#include <math.h>
#include <stdlib.h>

#define LOOK_SECONDS 0.5 // between looks for the file: a look may cost a round trip to its server

bool train_checkpoints_save_best(const struct train_options *options)
{
    return options->held_out > 0 &&
           (options->best || options->checkpoint_steps > 0 || options->checkpoint_minutes > 0);
}

size_t train_checkpoints_kept(const struct train_options *options)
{
    return (size_t)options->keep + train_checkpoints_save_best(options);
}

static void set_due(struct train_job *job)
{
    job->checkpoints.due = clock_seconds() + 60 * job->options->checkpoint_minutes;
}

void train_checkpoints_open(struct train_job *job)
{
    job->checkpoints = (struct train_checkpoints){
        .directory = fs_join(job->options->out, "run/checkpoints"),
        .request = fs_join(job->options->out, "run/checkpoint-now"),
    };
    set_due(job);
}

bool train_checkpoints_come(const struct train_options *options, size_t steps)
{
    const size_t every = (size_t)options->checkpoint_steps;
    return options->checkpoint_minutes > 0 || (every > 0 && every < steps) ||
           (train_checkpoints_save_best(options) && (size_t)options->eval_steps < steps);
}

bool train_checkpoints_wanted(struct train_job *job)
{
    struct train_checkpoints *checkpoints = &job->checkpoints;
    const double now = clock_seconds();
    if (job->options->checkpoint_minutes > 0 && now >= checkpoints->due)
        return true;
    if (job->options->time_left > 0 && checkpoints->longest_seconds == 0 && !checkpoints->writing)
        return true;
    if (checkpoints->serves || now < checkpoints->looked + LOOK_SECONDS)
        return false;
    checkpoints->looked = now;
    return fs_exists(fs_system(), checkpoints->request);
}

// One that is under way has finished, or one was written.
static void note_standing(struct train_job *job)
{
    struct train_checkpoints *checkpoints = &job->checkpoints;
    struct fs *fs = fs_system();
    if (!checkpoints->writing && checkpoints->began > 0) {
        const double seconds = clock_seconds() - checkpoints->began;
        checkpoints->longest_seconds = fmax(checkpoints->longest_seconds, seconds);
        checkpoints->began = 0;
    }
    if (!checkpoints->serves || checkpoints->writing)
        return;
    checkpoints->serves = false;
    log_info("the checkpoint that '%s' asked for stands", checkpoints->request);
    fs->ops->remove(fs->state, checkpoints->request);
}

int train_checkpoints_complete(struct train_job *job, struct error *err)
{
    if (checkpoint_complete(&job->checkpoints.writing, err))
        return -1;
    note_standing(job);
    return 0;
}

int train_checkpoints_poll(struct train_job *job, struct error *err)
{
    if (checkpoint_poll(&job->checkpoints.writing, err))
        return -1;
    note_standing(job);
    return 0;
}

int train_checkpoints_save(struct train_job *job, bool last, struct error *err)
{
    struct train_checkpoints *checkpoints = &job->checkpoints;
    const double start = clock_seconds();
    const size_t keep = (size_t)job->options->keep;
    bool waits; // one rank without room makes all wait
    if (train_checkpoints_complete(job, err) ||
        group_any(job->group, last || !job->plan.behind, &waits, err))
        return -1;
    checkpoints->serves = train_is_rank0(job) && fs_exists(fs_system(), checkpoints->request);
    checkpoints->began = clock_seconds();
    const int rc =
        waits ? checkpoint_save(job->trainer, fs_system(), checkpoints->directory, keep, err)
              : checkpoint_begin(job->trainer, fs_system(), checkpoints->directory, keep,
                                 &checkpoints->writing, err);
    if (rc == 0)
        note_standing(job);
    checkpoints->seconds += clock_seconds() - start;
    set_due(job);
    return rc;
}

void train_checkpoints_close(struct train_job *job)
{
    checkpoint_abandon(job->checkpoints.writing);
    free(job->checkpoints.directory);
    free(job->checkpoints.request);
}
