// SPDX-License-Identifier: Apache-2.0
// memo train: trains a memory model, all of its weights or adapters, by one process or by the ranks
// of mpirun.
#include "base/clock.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/mem.h"
#include "jobs/task_plan.h"
#include "jobs/train_job.h"
#include "jobs/verbs.h"
#include "worker/model/lora.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static int make_plan(struct train_job *job, struct trainer_options *how, struct error *err)
{
    const struct train_options *options = job->options;
    const char *choice = options->checkpoint_activations;
    const size_t steps = plan_steps(&how->plan, &job->data.sequences);
    struct train_plan_request request = {.model = job->model,
                                         .group = job->group,
                                         .limit_bytes = (size_t)(options->memory * 1e9),
                                         .recompute = strcmp(choice, "on") == 0    ? RECOMPUTE_ON
                                                      : strcmp(choice, "off") == 0 ? RECOMPUTE_OFF
                                                                                   : RECOMPUTE_AUTO,
                                         .copies = train_checkpoints_come(options, steps)};
    if (job->held_out.answers.questions > 0) {
        const struct engine_options engine =
            closed_book_engine(&job->held_out.answers, &job->model->config, group_size(job->group));
        request.answer_bytes = engine_bytes_needed(job->model, &engine);
    }
    return group_agree(job->group, train_plan_make(&request, how, &job->plan, err), err);
}

static int open_trainer(struct train_job *job, struct error *err)
{
    const struct train_options *options = job->options;
    const struct sequence_set *set = &job->data.sequences;
    size_t micro_batch = (size_t)options->micro_batch_tokens;
    if (micro_batch < set->longest)
        micro_batch = set->longest; // a sequence is never cut
    struct trainer_options how = {.plan = {.seed = (uint64_t)options->seed,
                                           .per_step = (size_t)options->batch,
                                           .epochs = (size_t)options->epochs},
                                  .schedule = {.peak = options->learning_rate},
                                  .warmup_fraction = options->warmup,
                                  .micro_batch_tokens = micro_batch,
                                  .clip_norm = options->clip,
                                  .optimizer = {.beta1 = options->beta1,
                                                .beta2 = options->beta2,
                                                .epsilon = options->epsilon,
                                                .weight_decay = options->weight_decay}};
    how.zero = (enum zero_stage)options->zero;
    how.device_group = job->gpus;
    how.exact_sums = strcmp(options->reduce, "exact") == 0;
    how.grads = strcmp(options->grad_dtype, "bf16") == 0 ? DTYPE_BF16 : DTYPE_F32;
    if (schedule_parse_kind(options->schedule, &how.schedule.kind, err) ||
        state_form_parse(job->model->lora ? "f32" : options->dtype, options->moments,
                         &how.optimizer.form, err) ||
        make_plan(job, &how, err) || training_set_share(options, job->group, &job->data, err) ||
        trainer_create(job->model, job->group, set, &how, &job->trainer, err))
        return -1;
    job->trainer->score = job->held_out.score;
    return 0;
}

// Weights that are not trained need no float32.
static int load_model(struct train_job *job, struct error *err)
{
    const struct train_options *options = job->options;
    const bool has_lora = options->lora_r > 0;
    struct lora_options lora = {.r = options->lora_r,
                                .alpha = options->lora_alpha,
                                .dropout = options->lora_dropout,
                                .seed = (uint64_t)options->seed};
    const enum dtype dtype =
        has_lora && strcmp(options->dtype, "bf16") == 0 ? DTYPE_BF16 : DTYPE_F32;
    if (lora_targets_parse(options->lora_targets, &lora.targets, err) ||
        model_load(job->device, options->base, dtype, &job->model, err))
        return -1;
    return has_lora ? model_add_lora(job->model, &lora, err) : 0;
}

static int open_local(struct train_job *job, struct error *err)
{
    const struct train_options *options = job->options;
    return compute_device_open(job->group, options->backend, options->threads, &job->device, err) ||
                   text_codec_open(options->base, options->chat_template, &job->codec, err) ||
                   load_model(job, err) || text_codec_check(&job->codec, &job->model->config, err)
               ? -1
               : 0;
}

// Of each rank, because the sizes of its micro-batches are its own.
static int record_products(struct train_job *job, struct error *err)
{
    if (!job->options->measure_products)
        return 0;
    char *directory = fs_join(job->options->out, "run");
    char *path = mem_printf("%s/products-%04d", directory, group_rank(job->group));
    const int rc = fs_make_directories(fs_system(), directory, err) ||
                           device_record_products(job->device, path, err)
                       ? -1
                       : 0;
    free(path);
    free(directory);
    return rc;
}

static int open_job(struct train_job *job, struct error *err)
{
    if (group_agree(job->group, open_local(job, err), err) ||
        compute_gpus_open(job->group, job->device, &job->gpus, err) ||
        training_set_prepare(job->options, &job->codec, job->group, &job->data, err) ||
        group_agree(job->group, record_products(job, err), err))
        return -1;
    train_held_out_open(job);
    return open_trainer(job, err);
}

static void say_what_will_be_done(const struct train_job *job)
{
    char device[128];
    const struct trainer *trainer = job->trainer;
    const struct sequence_set *set = &job->data.sequences;
    device_describe(job->device, device, sizeof(device));
    log_info(
        "training %.2f M parameters, %zu sequences of %zu tokens%s, %zu steps of %zu sequences, %d "
        "ranks over %s, %s",
        (double)model_trained_layout(job->model)->elements / 1e6, set->count,
        (size_t)set->offsets[set->count], job->data.found ? " (tokenized before)" : "",
        trainer->steps, trainer->options.plan.per_step, group_size(job->group),
        group_transport(job->gpus ? job->gpus : job->group), device);
    train_plan_log(&job->plan, trainer, train_checkpoints_kept(job->options), job->options->out);
}

static void say_how_it_continues(const struct train_job *job, const struct strbuf *changed)
{
    const struct trainer *trainer = job->trainer;
    log_info("continuing after step %zu of %zu", trainer->step, trainer->steps);
    if (changed->length > 0)
        log_info("exact to rounding, because %s changed", changed->bytes);
}

// 1: from a checkpoint.
static int resume(struct train_job *job, struct error *err)
{
    struct strbuf changed = {0};
    int resumed =
        checkpoint_load(job->trainer, fs_system(), job->checkpoints.directory, &changed, err);
    if (resumed >= 0 && train_held_out_resume(job, err))
        resumed = -1;
    if (resumed >= 0 && train_is_rank0(job)) {
        say_what_will_be_done(job);
        if (resumed)
            say_how_it_continues(job, &changed);
    }
    strbuf_release(&changed);
    return resumed;
}

static int run_training(struct train_job *job, struct error *err)
{
    if (resume(job, err) < 0)
        return EXIT_FAILED;
    stop_requests_catch();
    int rc = train_steps(job, err);
    if (rc == 0 && train_checkpoints_complete(job, err))
        rc = -1;
    if (train_is_rank0(job)) {
        log_progress_end();
        train_record_summary(job);
    }
    if (rc > 0) {
        if (train_is_rank0(job))
            log_info("stopped after step %zu of %zu; the same command continues",
                     job->trainer->step, job->trainer->steps);
        return EXIT_STOPPED;
    }
    if (rc < 0 || train_save_model(job, err))
        return EXIT_FAILED;
    if (train_is_rank0(job))
        log_info("%s: loss %.4f -> %.4f, %" PRIu64 " tokens in this run, %.0f tokens/s",
                 job->options->out, job->first_loss, job->last_loss, job->tokens,
                 (double)job->tokens / job->training_seconds);
    return EXIT_DONE;
}

// What makes the model in --out the one that it is: the training, and which of its weights.
static void result_identity(const struct train_job *job, char out[DIGEST_TEXT_BYTES])
{
    struct digest identity = trainer_identity(job->trainer);
    if (job->options->best) {
        struct digest_builder builder;
        digest_begin(&builder);
        digest_field(&builder, identity.bytes, sizeof(identity.bytes));
        digest_field_text(&builder, job->options->best_by);
        digest_field_u64(&builder, (uint64_t)job->options->eval_steps);
        identity = digest_end(&builder);
    }
    digest_format(identity, out);
}

// Whether an earlier run finished exactly this training; its records then stay as they are.
static int is_finished(struct train_job *job, bool *finished, struct error *err)
{
    int rc = 0;
    *finished = false;
    if (train_is_rank0(job)) {
        char identity[DIGEST_TEXT_BYTES];
        result_identity(job, identity);
        rc = run_directory_was_done(job->options->out, identity, finished, err);
    }
    return group_agree(job->group, rc, err) ||
                   group_broadcast(job->group, finished, sizeof(*finished), 0, err)
               ? -1
               : 0;
}

static int open_run(struct train_job *job, struct error *err)
{
    char identity[DIGEST_TEXT_BYTES];
    if (run_directory_open(&job->run, job->options->out, true, &verb_train, job->options, err))
        return -1;
    result_identity(job, identity);
    run_directory_text(&job->run, "identity", identity);
    return 0;
}

// Collective.
static int keep_flight_records(struct train_job *job, struct error *err)
{
    char *directory = fs_join(job->options->out, "run/flight");
    const int rc = group_record(job->group, directory, err);
    free(directory);
    return rc;
}

static int train(struct train_job *job, struct error *err)
{
    bool finished;
    if (open_job(job, err) || is_finished(job, &finished, err))
        return EXIT_FAILED;
    if (finished) {
        if (train_is_rank0(job))
            log_info("%s: already trained on these data with these options", job->options->out);
        return EXIT_DONE;
    }
    const int rc = train_is_rank0(job) ? open_run(job, err) : 0;
    if (group_agree(job->group, rc, err) || keep_flight_records(job, err))
        return run_directory_close(&job->run, EXIT_FAILED, err);
    return run_directory_close(&job->run, run_training(job, err), err);
}

static void close_everything(struct train_job *job)
{
    train_checkpoints_close(job);
    trainer_destroy(job->trainer);
    training_set_release(&job->data);
    model_destroy(job->model);
    text_codec_close(&job->codec);
    group_close(job->gpus);
    device_destroy(job->device);
    group_close(job->group);
}

// What can be seen to be wrong before anything is opened.
static int check_options(const struct train_options *options, struct error *err)
{
    struct corpus_part part;
    if (corpus_part_parse(options->part, &part, err))
        return -1;
    const bool half_grads = strcmp(options->grad_dtype, "bf16") == 0;
    if (half_grads && strcmp(options->reduce, "exact") == 0)
        return error_set(err, "--reduce exact sums 64 bits an element, and gradients in bfloat16 "
                              "would save nothing: leave out --grad-dtype bf16, or --reduce exact");
    if (half_grads && options->lora_r > 0)
        return error_set(err, "adapters have few gradients, in float32: leave out --grad-dtype "
                              "bf16 with --lora-r");
    if (options->best && options->held_out == 0)
        return error_set(err, "--best needs something to measure by: give --held-out");
    if (options->held_out > 0 && strcmp(options->best_by, "loss") != 0 &&
        training_set_questions(options) == 0)
        return error_set(err, "--best-by %s needs answers: give --eval-answers, and pairs",
                         options->best_by);
    return 0;
}

static int run_train(const void *parsed, const struct option_list *positional, struct error *err)
{
    struct train_job job = {.options = parsed};
    (void)positional;
    if (check_options(job.options, err))
        return EXIT_USAGE;
    job.limit = time_limit_after(clock_seconds(), job.options->time_left);
    if (compute_choose_gpu(job.options->backend, err) ||
        group_open_meeting(job.options->rendezvous, job.options->collective_seconds, &job.group,
                           err))
        return EXIT_FAILED;
    group_set_deadline(job.group, job.options->collective_seconds);
    train_checkpoints_open(&job);
    const int code = train(&job, err);
    if (!group_speaks(job.group))
        err->text[0] = '\0'; // another rank speaks for all
    else if (code == EXIT_FAILED)
        verb_report_failure(&verb_train, err);
    close_everything(&job);
    return code;
}

const struct verb verb_train = {
    .name = "train",
    .summary = "train a memory model on pairs, or a base model on text",
    .examples =
        "  memo train --base models/base --data reflections/ --out models/memory\n"
        "  mpirun -np 8 memo train --base models/base --data reflections/ --out models/memory\n"
        "  srun --mpi=none memo train --rendezvous models --base models/base ... (no MPI, no PMIx)\n"
        "  memo train --base models/start --data corpus.h5 --objective text --out models/base\n"
        "  memo train --base models/base --data reflections/ --out models/memory --lora-r 16\n"
        "The same command continues from the last checkpoint, on any number of ranks. TERM, INT and\n"
        "USR2 stop it after a checkpoint, with exit code 75; the file OUT/run/checkpoint-now asks\n"
        "for a checkpoint without stopping, and goes away when it stands.\n",
    .options = train_option_table,
    .options_bytes = sizeof(struct train_options),
    .run = run_train,
};
