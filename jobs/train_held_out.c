// SPDX-License-Identifier: Apache-2.0
#include "jobs/train_job.h"

#include "base/log.h"

#include <stdio.h>
#include <string.h>

void train_held_out_open(struct train_job *job)
{
    const struct train_options *options = job->options;
    struct train_held_out *held_out = &job->held_out;
    held_out->answers = (struct closed_book){.questions = training_set_questions(options),
                                             .longest_prompt = job->data.longest_prompt,
                                             .max_new = (size_t)options->eval_answer_tokens};
    if (options->held_out > 0)
        snprintf(held_out->score.name, sizeof(held_out->score.name), "%s", options->best_by);
}

int train_held_out_resume(struct train_job *job, struct error *err)
{
    struct train_held_out *held_out = &job->held_out;
    struct {
        int64_t step;
        struct held_out_score score;
    } best = {-1, held_out->score};
    if (job->options->held_out == 0)
        return 0;
    const int rc = train_is_rank0(job)
                       ? checkpoint_best(fs_system(), job->checkpoints.directory,
                                         held_out->score.name, &best.step, &best.score, err)
                       : 0;
    if (group_agree(job->group, rc, err) ||
        group_broadcast(job->group, &best, sizeof(best), 0, err))
        return -1;
    held_out->score = best.score;
    held_out->best_step = best.step < 0 ? 0 : (size_t)best.step;
    return 0;
}

static double score_of(const char *figure, const struct held_out_figures *figures)
{
    if (strcmp(figure, "exact") == 0)
        return -closed_book_exact_share(&figures->answers);
    return strcmp(figure, "f1") == 0 ? -figures->answers.f1 : figures->loss;
}

static void say(const struct train_job *job)
{
    const struct held_out_figures *figures = &job->held_out.last;
    const struct closed_book_score *answers = &figures->answers;
    if (answers->asked == 0)
        log_info("held-out loss after step %zu: %.4f", job->trainer->step, figures->loss);
    else
        log_info("held-out loss after step %zu: %.4f; %zu of %zu answers are exact (%.1f%%), token "
                 "F1 %.1f%%",
                 job->trainer->step, figures->loss, answers->exact, answers->asked,
                 100 * closed_book_exact_share(answers), 100 * answers->f1);
}

// The same figures on all ranks, so that all think the same one the best.
static bool is_best(struct train_job *job)
{
    struct train_held_out *held_out = &job->held_out;
    struct trainer *trainer = job->trainer;
    trainer->score = held_out->score;
    trainer->score.known = true;
    trainer->score.value = score_of(held_out->score.name, &held_out->last);
    if (!held_out_score_is_better(&trainer->score, &held_out->score))
        return false;
    held_out->score = trainer->score;
    held_out->best = held_out->last;
    held_out->best_step = trainer->step;
    held_out->best_measured = true;
    return true;
}

int train_held_out_measure(struct train_job *job, bool *measured, bool *improved, struct error *err)
{
    const struct trainer *trainer = job->trainer;
    struct train_held_out *held_out = &job->held_out;
    const struct sequence_set *set = &job->data.held_out;
    *improved = false;
    *measured = set->count > 0 && (trainer->step % (size_t)job->options->eval_steps == 0 ||
                                   trainer->step == trainer->steps);
    if (!*measured)
        return 0;
    held_out->last = (struct held_out_figures){0};
    if (trainer_evaluate(job->trainer, set, &held_out->last.loss, err))
        return error_prefix(err, "held-out loss");
    if (held_out->answers.questions > 0 &&
        closed_book_measure(&held_out->answers, job->model, job->group, &job->codec, set,
                            &held_out->last.answers, err))
        return -1;
    held_out->measured = true;
    *improved = is_best(job);
    if (train_is_rank0(job))
        say(job);
    return 0;
}
