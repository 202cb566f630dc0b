// SPDX-License-Identifier: Apache-2.0
#include "jobs/train_job.h"

#include "base/clock.h"
#include "base/log.h"

#include <math.h>

static int record_step(struct train_job *job, const struct step_stats *stats, double seconds,
                       bool measured, struct error *err)
{
    struct strbuf line = {0};
    struct train_checkpoints *checkpoints = &job->checkpoints;
    const struct step_record record = {.stats = stats,
                                       .seconds = seconds,
                                       .flops = trainer_flops(job->model, stats),
                                       .peak_flops = job->plan.peak_flops,
                                       .checkpoint_seconds = checkpoints->seconds,
                                       .consumed = job->trainer->consumed,
                                       .held_out = measured ? &job->held_out.last : NULL};
    train_record_write(&record, &line);
    checkpoints->total_seconds += checkpoints->seconds;
    checkpoints->seconds = 0;
    const int rc = run_directory_metric(&job->run, &line, err);
    strbuf_release(&line);
    return rc;
}

static void show_step(const struct train_job *job, const struct step_stats *stats)
{
    char left[32];
    const struct trainer *trainer = job->trainer;
    const double rate = (double)job->tokens / job->training_seconds;
    const double tokens_left = (double)(trainer->steps - trainer->step) * (double)stats->tokens;
    clock_format_duration(tokens_left / rate, left, sizeof(left));
    log_progress("step %zu of %zu, loss %.4f, gradient norm %.3f, lr %.2e, %.0f tokens/s, left %s",
                 trainer->step, trainer->steps, stats->loss, stats->grad_norm, stats->learning_rate,
                 rate, left);
}

// *improved: the weights are now the best that were measured.
static int one_step(struct train_job *job, bool *improved, struct error *err)
{
    struct step_stats stats;
    const double start = clock_seconds();
    if (trainer_step(job->trainer, &stats, err))
        return -1;
    const double seconds = clock_seconds() - start - stats.settle_seconds;
    job->checkpoints.seconds += stats.settle_seconds;
    if (job->tokens == 0)
        job->first_loss = stats.loss;
    job->last_loss = stats.loss;
    job->tokens += stats.tokens;
    job->target_tokens += stats.target_tokens;
    job->training_seconds += seconds;
    bool measured;
    if (train_held_out_measure(job, &measured, improved, err))
        return -1;
    job->longest_step_seconds = fmax(job->longest_step_seconds, clock_seconds() - start);
    if (!train_is_rank0(job))
        return 0;
    show_step(job, &stats);
    return record_step(job, &stats, seconds, measured, err);
}

// Between now and the end lie at most another step and a checkpoint.
static bool time_is_up(struct train_job *job)
{
    const double now = clock_seconds();
    time_limit_observe(&job->limit, job->longest_step_seconds + job->checkpoints.longest_seconds);
    if (!time_limit_is_near(&job->limit, now))
        return false;
    log_warn("%.0f s are left, and stopping may take %.0f s: stopping",
             job->limit.end_seconds - now, time_limit_margin(&job->limit));
    return true;
}

// Collective: any rank may have been asked to stop; rank 0 sees the clock and the file.
static int ask(struct train_job *job, bool *stop, bool *checkpoint, struct error *err)
{
    const size_t every = (size_t)job->options->checkpoint_steps;
    const bool leads = train_is_rank0(job);
    int64_t asked[] = {stop_requested() || (leads && time_is_up(job)),
                       leads && train_checkpoints_wanted(job)};
    if (group_all_reduce_i64(job->group, asked, 2, err))
        return -1;
    *stop = asked[0] > 0;
    *checkpoint = asked[1] > 0 || (every > 0 && job->trainer->step % every == 0);
    return 0;
}

int train_steps(struct train_job *job, struct error *err)
{
    struct trainer *trainer = job->trainer;
    const bool saves_best = train_checkpoints_save_best(job->options);
    if (job->plan.copied)
        checkpoint_prepare(trainer);
    while (trainer->step < trainer->steps) {
        bool stop, due, improved = false;
        const int rc = one_step(job, &improved, err);
        if (group_agree(job->group, rc, err) || ask(job, &stop, &due, err))
            return -1;
        const bool last = trainer->step == trainer->steps;
        if (stop && !last)
            return train_checkpoints_save(job, true, err) ? -1 : 1;
        if (train_checkpoints_poll(job, err))
            return -1;
        if (!last && (due || (improved && saves_best)) && train_checkpoints_save(job, false, err))
            return -1;
    }
    return 0;
}
