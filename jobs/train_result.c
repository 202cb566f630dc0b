// SPDX-License-Identifier: Apache-2.0
#include "jobs/train_job.h"

#include "base/log.h"
#include "jobs/verbs.h"
#include "worker/model/lora.h"

#include <inttypes.h>
#include <stdlib.h>

// The step whose weights the model gets.
static size_t chosen_step(const struct train_job *job)
{
    const struct train_held_out *held_out = &job->held_out;
    return job->options->best && held_out->score.known ? held_out->best_step : job->trainer->step;
}

// Those of the chosen weights, as far as this run measured them.
static const struct held_out_figures *chosen_figures(const struct train_job *job)
{
    const struct train_held_out *held_out = &job->held_out;
    if (chosen_step(job) != job->trainer->step)
        return held_out->best_measured ? &held_out->best : NULL;
    return held_out->measured ? &held_out->last : NULL;
}

static int write_card(struct train_job *job, struct error *err)
{
    const struct train_options *options = job->options;
    const struct sequence_set *set = &job->data.sequences;
    struct strbuf echo = {0};
    options_echo(&verb_train, options, &echo);
    const struct model_card card = {.base = options->base,
                                    .data = options->data.items,
                                    .data_count = options->data.count,
                                    .pairs = (size_t)job->data.pairs,
                                    .sequences = set->count,
                                    .too_long = set->too_long,
                                    .objective = options->objective,
                                    .data_digest = sequence_set_digest(set),
                                    .trainer = job->trainer,
                                    .first_loss = job->first_loss,
                                    .last_loss = job->last_loss,
                                    .held_out = chosen_figures(job),
                                    .options = echo.bytes,
                                    .best_step = chosen_step(job),
                                    .best_by = options->best_by};
    const int rc = model_card_write(&card, fs_system(), options->out, err);
    strbuf_release(&echo);
    return rc;
}

// Only what was planned makes a model.
static int check_tokens(const struct train_job *job, struct error *err)
{
    const uint64_t planned = trainer_planned_tokens(job->trainer);
    if (job->trainer->tokens == planned)
        return 0;
    return error_set(err,
                     "%" PRIu64 " tokens were trained on, but %" PRIu64 " were planned: no model "
                     "was written",
                     job->trainer->tokens, planned);
}

// The adapters first, then they become part of the model.
static int save_adapters(struct train_job *job, struct error *err)
{
    if (!job->model->lora)
        return 0;
    char *directory = fs_join(job->options->out, "adapter");
    const int rc = lora_save(job->model, fs_system(), directory, job->options->base, err) ||
                           model_merge_lora(job->model, err)
                       ? -1
                       : 0;
    free(directory);
    return rc;
}

static int take_best(struct train_job *job, struct error *err)
{
    const size_t step = chosen_step(job);
    if (step == job->trainer->step)
        return 0;
    if (train_is_rank0(job))
        log_info("the model gets the weights after step %zu, the best by held-out %s", step,
                 job->options->best_by);
    return checkpoint_load_step(job->trainer, fs_system(), job->checkpoints.directory, step, err);
}

int train_save_model(struct train_job *job, struct error *err)
{
    const struct train_options *options = job->options;
    if (check_tokens(job, err))
        return -1;
    int rc = train_is_rank0(job) ? write_card(job, err) : 0;
    if (group_agree(job->group, rc, err) || take_best(job, err) ||
        trainer_finish(job->trainer, err))
        return -1;
    if (train_is_rank0(job))
        rc = save_adapters(job, err) ||
                     model_save(job->model, fs_system(), options->out,
                                &(struct model_save_options){.tokenizer_from = options->base}, err)
                 ? -1
                 : 0;
    return group_agree(job->group, rc, err);
}

static void record_held_out(struct train_job *job)
{
    const struct train_held_out *held_out = &job->held_out;
    const struct closed_book_score *answers = &held_out->last.answers;
    struct run_directory *run = &job->run;
    if (held_out->score.known) {
        run_directory_int(run, "best_step", (int64_t)held_out->best_step);
        run_directory_text(run, "best_by", held_out->score.name);
    }
    if (!held_out->measured)
        return;
    run_directory_number(run, "held_out_loss", held_out->last.loss);
    if (answers->asked > 0) {
        run_directory_number(run, "held_out_exact", closed_book_exact_share(answers));
        run_directory_number(run, "held_out_f1", answers->f1);
    }
}

void train_record_summary(struct train_job *job)
{
    char consumed[DIGEST_TEXT_BYTES];
    struct run_directory *run = &job->run;
    const struct trainer *trainer = job->trainer;
    run_directory_int(run, "pairs", (int64_t)job->data.pairs);
    run_directory_int(run, "sequences", (int64_t)job->data.sequences.count);
    run_directory_int(run, "too_long", (int64_t)job->data.sequences.too_long);
    run_directory_int(run, "steps", (int64_t)trainer->steps);
    run_directory_int(run, "steps_done", (int64_t)trainer->step);
    run_directory_int(run, "tokens", (int64_t)job->tokens);
    run_directory_int(run, "tokens_planned", (int64_t)trainer_planned_tokens(trainer));
    run_directory_int(run, "tokens_consumed", (int64_t)trainer->tokens);
    digest_format(trainer->consumed, consumed);
    run_directory_text(run, "consumed", consumed);
    run_directory_int(run, "target_tokens", (int64_t)job->target_tokens);
    run_directory_int(run, "planned_bytes", (int64_t)job->plan.total_bytes);
    run_directory_int(run, "peak_resident_bytes", (int64_t)process_peak_bytes());
    run_directory_number(run, "training_seconds", job->training_seconds);
    run_directory_number(run, "checkpoint_seconds", job->checkpoints.total_seconds);
    run_directory_number(run, "first_loss", job->first_loss);
    run_directory_number(run, "last_loss", job->last_loss);
    record_held_out(job);
}
