// SPDX-License-Identifier: Apache-2.0
// memo train: trains a memory model, all of its weights or adapters, by one process or by the ranks
// of mpirun.
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "jobs/compute.h"
#include "jobs/run_directory.h"
#include "jobs/train_plan.h"
#include "jobs/train_records.h"
#include "jobs/training_data.h"
#include "jobs/verbs.h"
#include "worker/model/lora.h"
#include "worker/train/checkpoint.h"
#include "worker/train/trainer.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct train_options {
    const char *base;
    struct option_list data;
    const char *out;
    const char *objective;
    const char *part;
    const char *chat_template;
    int64_t sample;
    int64_t max_tokens;
    int64_t epochs;
    int64_t batch;
    int64_t micro_batch_tokens;
    double learning_rate;
    const char *schedule;
    double warmup;
    double weight_decay;
    double clip;
    double beta1, beta2, epsilon;
    const char *dtype;
    int64_t lora_r;
    double lora_alpha, lora_dropout;
    const char *lora_targets;
    const char *moments;
    int64_t zero;
    const char *reduce;
    int64_t seed;
    bool loss_on_header;
    int64_t held_out;
    int64_t eval_steps;
    const char *checkpoint_activations;
    double memory;
    int64_t checkpoint_steps;
    double checkpoint_minutes;
    int64_t keep;
    const char *backend;
    int64_t threads;
    double collective_seconds;
};

#define OPTION_AT(field) offsetof(struct train_options, field)

static const struct option train_option_table[] = {
    {"base", OPTION_STRING, OPTION_AT(base), "DIR", NULL, 0, 0, NULL,
     "model directory to start from", true},
    {"data", OPTION_LIST, OPTION_AT(data), "PATH...", NULL, 0, 0, NULL,
     "reflections directories or .jsonl files of pairs; with --objective text one corpus.h5", true},
    {"out", OPTION_STRING, OPTION_AT(out), "DIR", NULL, 0, 0, NULL, "model directory to write",
     true},
    {"objective", OPTION_CHOICE, OPTION_AT(objective), "NAME", "qa", 0, 0, "qa|text",
     "qa: answers of pairs; text: every token of the documents", false},
    {"sample", OPTION_INT, OPTION_AT(sample), "N", "0", 0, INT32_MAX, NULL,
     "train on the N pairs with the smallest record ids, or on N pieces of text (0: all)", false},
    {"part", OPTION_STRING, OPTION_AT(part), "K/N", "1/1", 0, 0, NULL,
     "with --objective text: only the documents of part K of N", false},
    {"chat-template", OPTION_CHOICE, OPTION_AT(chat_template), "NAME", NULL, 0, 0,
     CHAT_TEMPLATE_CHOICES, "default: what the base model's files say", false},
    {"max-tokens", OPTION_INT, OPTION_AT(max_tokens), "N", "8096", 2, 1 << 20, NULL,
     "of one pair, longer ones are counted and left out; of one piece of text", false},
    {"epochs", OPTION_INT, OPTION_AT(epochs), "N", "3", 1, 1 << 20, NULL, "passes over the data",
     false},
    {"batch", OPTION_INT, OPTION_AT(batch), "N", "512", 1, 1 << 20, NULL,
     "sequences of one optimizer step, over all ranks", false},
    {"micro-batch-tokens", OPTION_INT, OPTION_AT(micro_batch_tokens), "N", "8192", 2, 1 << 24, NULL,
     "most tokens that a rank computes at once; costs memory, changes no result", false},
    {"lr", OPTION_NUMBER, OPTION_AT(learning_rate), "X", "2e-5", 0, 1, NULL, "peak learning rate",
     false},
    {"schedule", OPTION_CHOICE, OPTION_AT(schedule), "NAME", "constant", 0, 0, SCHEDULE_CHOICES,
     "of the learning rate after the warm-up", false},
    {"warmup", OPTION_NUMBER, OPTION_AT(warmup), "X", "0.05", 0, 1, NULL,
     "share of the steps over which the learning rate rises", false},
    {"weight-decay", OPTION_NUMBER, OPTION_AT(weight_decay), "X", "0.01", 0, 1, NULL,
     "of matrices; norms and biases have none", false},
    {"clip", OPTION_NUMBER, OPTION_AT(clip), "X", "1", 0, 1e9, NULL,
     "largest gradient norm (0: no limit)", false},
    {"beta1", OPTION_NUMBER, OPTION_AT(beta1), "X", "0.9", 0, 0.9999, NULL, "of AdamW", false},
    {"beta2", OPTION_NUMBER, OPTION_AT(beta2), "X", "0.999", 0, 0.99999, NULL, "of AdamW", false},
    {"epsilon", OPTION_NUMBER, OPTION_AT(epsilon), "X", "1e-8", 1e-16, 1, NULL, "of AdamW", false},
    {"dtype", OPTION_CHOICE, OPTION_AT(dtype), "NAME", "f32", 0, 0, "f32|bf16",
     "of the weights that are computed with; what is trained is float32 either way", false},
    {"lora-r", OPTION_INT, OPTION_AT(lora_r), "N", "0", 0, 4096, NULL,
     "train low-rank adapters of this rank and nothing else; --out becomes the merged model and "
     "--out/adapter the adapters as PEFT has them (0: train all weights)",
     false},
    {"lora-alpha", OPTION_NUMBER, OPTION_AT(lora_alpha), "X", "32", 0, 1e6, NULL,
     "adapters count alpha / r times", false},
    {"lora-dropout", OPTION_NUMBER, OPTION_AT(lora_dropout), "X", "0", 0, 0.99, NULL,
     "share of an adapter's inputs that a step drops", false},
    {"lora-targets", OPTION_STRING, OPTION_AT(lora_targets), "NAME,...", LORA_TARGET_NAMES, 0, 0,
     NULL, "projections that get adapters", false},
    {"moments", OPTION_CHOICE, OPTION_AT(moments), "NAME", "f32", 0, 0, "f32|bf16|8bit",
     "how AdamW keeps its moments", false},
    {"zero", OPTION_INT, OPTION_AT(zero), "N", "0", 0, 2, NULL,
     "what ranks divide: 1 the optimizer's states, 2 the sums of gradients too", false},
    {"reduce", OPTION_CHOICE, OPTION_AT(reduce), "NAME", "float", 0, 0, "float|exact",
     "exact: gradients are added as integers, the same bits for any number of ranks", false},
    {"seed", OPTION_INT, OPTION_AT(seed), "N", "1", 0, INT32_MAX, NULL, "of the order of the data",
     false},
    {"loss-on-header", OPTION_FLAG, OPTION_AT(loss_on_header), NULL, NULL, 0, 0, NULL,
     "train also on what the template writes in front of an answer, as the paper does", false},
    {"held-out", OPTION_INT, OPTION_AT(held_out), "N", "0", 0, INT32_MAX, NULL,
     "sequences that are not trained on, those with the largest record ids", false},
    {"eval-steps", OPTION_INT, OPTION_AT(eval_steps), "N", "100", 1, INT32_MAX, NULL,
     "steps between measurements of the held-out loss", false},
    {"checkpoint-activations", OPTION_CHOICE, OPTION_AT(checkpoint_activations), "NAME", "auto", 0,
     0, "auto|on|off",
     "keep layers' inputs only and compute the rest again; auto: when memory would not do", false},
    {"memory", OPTION_NUMBER, OPTION_AT(memory), "GB", "0", 0, 1e6, NULL,
     "that a rank may use (0: what is free, shared among the host's ranks)", false},
    {"checkpoint-steps", OPTION_INT, OPTION_AT(checkpoint_steps), "N", "500", 0, INT32_MAX, NULL,
     "steps between checkpoints (0: none but at a stop request)", false},
    {"checkpoint-minutes", OPTION_NUMBER, OPTION_AT(checkpoint_minutes), "X", "0", 0, 1e6, NULL,
     "minutes between checkpoints (0: by steps only)", false},
    {"keep", OPTION_INT, OPTION_AT(keep), "N", "1", 1, 1000, NULL, "checkpoints kept", false},
    {"backend", OPTION_CHOICE, OPTION_AT(backend), "NAME", NULL, 0, 0, BACKEND_CHOICES,
     "default: the fastest that works here", false},
    {"threads", OPTION_INT, OPTION_AT(threads), "N", "0", 0, 4096, NULL,
     "of each rank (0: the host's processors shared among its ranks)", false},
    {"collective-seconds", OPTION_NUMBER, OPTION_AT(collective_seconds), "X", "1800", 0.1, 1e6,
     NULL, "that a rank waits for the others before the job fails and says who is missing", false},
    {0},
};

struct train_job {
    const struct train_options *options;
    struct group *group;
    struct group *gpus; // sums gradients; NULL: group does
    struct device *device;
    struct text_codec codec;
    struct model *model;
    struct sequence_set set;
    struct sequence_set held_out;
    struct train_plan plan;
    struct trainer *trainer;
    struct run_directory run; // rank 0
    char *checkpoints;
    struct checkpoint_write *writing; // NULL: none is under way
    size_t pairs;
    uint64_t tokens; // trained on in this run
    uint64_t target_tokens;
    double first_loss, last_loss;
    double held_out_loss; // negative: not measured
    double training_seconds;
    double checkpoint_seconds; // that checkpoints held the run up, since the last record
    double checkpoint_total;   // the same, in all
    double checkpoint_due;     // when the next one by the clock is
};

static bool is_rank0(const struct train_job *job)
{
    return group_rank(job->group) == 0;
}

static int load_pairs(struct train_job *job, struct error *err)
{
    const struct train_options *options = job->options;
    struct pair_list pairs;
    if (pair_list_open(fs_system(), options->data.items, options->data.count,
                       (size_t)options->sample, &pairs, err))
        return -1;
    job->pairs = pairs.count;
    const int rc = training_data_from_pairs(&job->codec, &pairs, (size_t)options->max_tokens,
                                            options->loss_on_header, &job->set, err);
    pair_list_close(&pairs);
    return rc;
}

static int load_text(struct train_job *job, struct error *err)
{
    const struct train_options *options = job->options;
    struct corpus_part part;
    struct corpus *corpus = NULL;
    if (options->data.count != 1)
        return error_set(err, "--objective text takes one corpus, not %zu", options->data.count);
    int rc =
        corpus_part_parse(options->part, &part, err) ||
                corpus_open(options->data.items[0], &corpus, err) ||
                training_data_from_corpus(&job->codec, corpus, part, (size_t)options->max_tokens,
                                          (size_t)options->sample, &job->set, err)
            ? -1
            : 0;
    corpus_close(corpus);
    return rc;
}

static int load_data(struct train_job *job, struct error *err)
{
    const bool text = strcmp(job->options->objective, "text") == 0;
    if (text ? load_text(job, err) : load_pairs(job, err))
        return -1;
    if (job->set.too_long > 0 && is_rank0(job))
        log_warn("%zu of %zu pairs are longer than --max-tokens %" PRId64
                 " (longest: %zu tokens) and were left out",
                 job->set.too_long, job->pairs, job->options->max_tokens, job->set.longest_refused);
    if (job->set.count == 0)
        return error_set(err, "nothing to train on: every sequence is longer than --max-tokens");
    const size_t held_out = (size_t)job->options->held_out;
    if (held_out >= job->set.count)
        return error_set(err, "--held-out %zu of %zu sequences leaves nothing to train on",
                         held_out, job->set.count);
    training_data_hold_out(&job->set, held_out, &job->held_out);
    return 0;
}

static int open_trainer(struct train_job *job, struct error *err)
{
    const struct train_options *options = job->options;
    size_t micro_batch = (size_t)options->micro_batch_tokens;
    if (micro_batch < job->set.longest)
        micro_batch = job->set.longest; // a sequence is never cut
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
    if (schedule_parse_kind(options->schedule, &how.schedule.kind, err) ||
        state_form_parse(job->model->lora ? "f32" : options->dtype, options->moments,
                         &how.optimizer.form, err))
        return -1;
    const char *choice = options->checkpoint_activations;
    const int rc = train_plan_make(job->model, job->group, (size_t)(options->memory * 1e9),
                                   strcmp(choice, "on") == 0    ? RECOMPUTE_ON
                                   : strcmp(choice, "off") == 0 ? RECOMPUTE_OFF
                                                                : RECOMPUTE_AUTO,
                                   &how, &job->plan, err);
    if (group_agree(job->group, rc, err))
        return -1;
    return trainer_create(job->model, job->group, &job->set, &how, &job->trainer, err);
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
                   load_model(job, err) ||
                   text_codec_check(&job->codec, &job->model->config, err) || load_data(job, err)
               ? -1
               : 0;
}

static void say_what_will_be_done(const struct train_job *job, int resumed)
{
    char device[128];
    const struct trainer *trainer = job->trainer;
    const size_t tokens = (size_t)job->set.offsets[job->set.count];
    device_describe(job->device, device, sizeof(device));
    log_info(
        "training %.2f M parameters, %zu sequences of %zu tokens, %zu steps of %zu sequences, %d ranks "
        "over %s, %s",
        (double)model_trained_layout(job->model)->elements / 1e6, job->set.count, tokens,
        trainer->steps, trainer->options.plan.per_step, group_size(job->group),
        group_transport(job->gpus ? job->gpus : job->group), device);
    train_plan_log(&job->plan, trainer, (size_t)job->options->keep, job->options->out);
    if (resumed)
        log_info("continuing after step %zu of %zu", trainer->step, trainer->steps);
}

static int record_step(struct train_job *job, const struct step_stats *stats, double seconds,
                       bool measured, struct error *err)
{
    struct strbuf line = {0};
    const struct step_record record = {.stats = stats,
                                       .seconds = seconds,
                                       .flops = trainer_flops(job->model, stats),
                                       .peak_flops = job->plan.peak_flops,
                                       .checkpoint_seconds = job->checkpoint_seconds,
                                       .held_out_loss = measured ? &job->held_out_loss : NULL};
    train_record_write(&record, &line);
    job->checkpoint_total += job->checkpoint_seconds;
    job->checkpoint_seconds = 0;
    const int rc = run_directory_metric(&job->run, &line, err);
    strbuf_release(&line);
    return rc;
}

// Collective, after every --eval-steps steps and the last one.
static int measure_held_out(struct train_job *job, bool *measured, struct error *err)
{
    const struct trainer *trainer = job->trainer;
    *measured = job->held_out.count > 0 && (trainer->step % (size_t)job->options->eval_steps == 0 ||
                                            trainer->step == trainer->steps);
    if (!*measured)
        return 0;
    if (trainer_evaluate(job->trainer, &job->held_out, &job->held_out_loss, err))
        return error_prefix(err, "held-out loss");
    if (is_rank0(job))
        log_info("held-out loss after step %zu: %.4f", trainer->step, job->held_out_loss);
    return 0;
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

static int one_step(struct train_job *job, struct error *err)
{
    struct step_stats stats;
    const double start = clock_seconds();
    if (trainer_step(job->trainer, &stats, err))
        return -1;
    const double seconds = clock_seconds() - start;
    if (job->tokens == 0)
        job->first_loss = stats.loss;
    job->last_loss = stats.loss;
    job->tokens += stats.tokens;
    job->target_tokens += stats.target_tokens;
    job->training_seconds += seconds;
    bool measured;
    if (measure_held_out(job, &measured, err))
        return -1;
    if (!is_rank0(job))
        return 0;
    show_step(job, &stats);
    return record_step(job, &stats, seconds, measured, err);
}

// Collective. Only a last one must stand when this returns.
static int save_checkpoint(struct train_job *job, bool last, struct error *err)
{
    const double start = clock_seconds();
    const size_t keep = (size_t)job->options->keep;
    bool behind; // one rank without room makes all wait
    if (checkpoint_complete(&job->writing, err) ||
        group_any(job->group, last || !job->plan.behind, &behind, err))
        return -1;
    behind = !behind;
    const int rc = behind ? checkpoint_begin(job->trainer, fs_system(), job->checkpoints, keep,
                                             &job->writing, err)
                          : checkpoint_save(job->trainer, fs_system(), job->checkpoints, keep, err);
    job->checkpoint_seconds += clock_seconds() - start;
    job->checkpoint_due = clock_seconds() + 60 * job->options->checkpoint_minutes;
    return rc;
}

// Collective: by steps, or by rank 0's clock.
static int checkpoint_is_due(const struct train_job *job, bool *due, struct error *err)
{
    const size_t every = (size_t)job->options->checkpoint_steps;
    *due = every > 0 && job->trainer->step % every == 0;
    if (*due || job->options->checkpoint_minutes <= 0)
        return 0;
    return group_any(job->group, is_rank0(job) && clock_seconds() >= job->checkpoint_due, due, err);
}

// 0: all steps done; 1: stopped on request after a checkpoint; -1: failed.
static int train_steps(struct train_job *job, struct error *err)
{
    struct trainer *trainer = job->trainer;
    job->checkpoint_due = clock_seconds() + 60 * job->options->checkpoint_minutes;
    while (trainer->step < trainer->steps) {
        bool stop, due = false;
        const int rc = one_step(job, err);
        if (group_agree(job->group, rc, err) || group_any(job->group, stop_requested(), &stop, err))
            return -1;
        const bool last = trainer->step == trainer->steps;
        if (stop && !last)
            return save_checkpoint(job, true, err) ? -1 : 1;
        if (checkpoint_poll(&job->writing, err) || (!last && checkpoint_is_due(job, &due, err)))
            return -1;
        if (due && save_checkpoint(job, false, err))
            return -1;
    }
    return 0;
}

static int write_card(struct train_job *job, struct error *err)
{
    const struct train_options *options = job->options;
    struct strbuf echo = {0};
    options_echo(&verb_train, options, &echo);
    const struct model_card card = {.base = options->base,
                                    .data = options->data.items,
                                    .data_count = options->data.count,
                                    .pairs = job->pairs,
                                    .sequences = job->set.count,
                                    .too_long = job->set.too_long,
                                    .objective = options->objective,
                                    .data_digest = sequence_set_digest(&job->set),
                                    .trainer = job->trainer,
                                    .first_loss = job->first_loss,
                                    .last_loss = job->last_loss,
                                    .held_out_loss = job->held_out_loss,
                                    .options = echo.bytes};
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

static int save_model(struct train_job *job, struct error *err)
{
    int rc = 0;
    if (check_tokens(job, err) || trainer_finish(job->trainer, err))
        return -1;
    if (is_rank0(job))
        rc = write_card(job, err) || save_adapters(job, err) ||
                     model_save(job->model, fs_system(), job->options->out,
                                &(struct model_save_options){.tokenizer_from = job->options->base},
                                err)
                 ? -1
                 : 0;
    return group_agree(job->group, rc, err);
}

static void record_summary(struct train_job *job)
{
    char identity[DIGEST_TEXT_BYTES], consumed[DIGEST_TEXT_BYTES];
    digest_format(trainer_identity(job->trainer), identity);
    run_directory_text(&job->run, "identity", identity);
    run_directory_int(&job->run, "pairs", (int64_t)job->pairs);
    run_directory_int(&job->run, "sequences", (int64_t)job->set.count);
    run_directory_int(&job->run, "too_long", (int64_t)job->set.too_long);
    run_directory_int(&job->run, "steps", (int64_t)job->trainer->steps);
    run_directory_int(&job->run, "steps_done", (int64_t)job->trainer->step);
    run_directory_int(&job->run, "tokens", (int64_t)job->tokens);
    run_directory_int(&job->run, "tokens_planned", (int64_t)trainer_planned_tokens(job->trainer));
    run_directory_int(&job->run, "tokens_consumed", (int64_t)job->trainer->tokens);
    digest_format(job->trainer->consumed, consumed);
    run_directory_text(&job->run, "consumed", consumed);
    run_directory_int(&job->run, "target_tokens", (int64_t)job->target_tokens);
    run_directory_int(&job->run, "planned_bytes", (int64_t)job->plan.total_bytes);
    run_directory_int(&job->run, "peak_resident_bytes", (int64_t)process_peak_bytes());
    run_directory_number(&job->run, "training_seconds", job->training_seconds);
    run_directory_number(&job->run, "checkpoint_seconds", job->checkpoint_total);
    run_directory_number(&job->run, "first_loss", job->first_loss);
    run_directory_number(&job->run, "last_loss", job->last_loss);
    if (job->held_out_loss >= 0)
        run_directory_number(&job->run, "held_out_loss", job->held_out_loss);
}

static int run_training(struct train_job *job, struct error *err)
{
    const int resumed = checkpoint_load(job->trainer, fs_system(), job->checkpoints, err);
    if (resumed < 0)
        return EXIT_FAILED;
    if (is_rank0(job))
        say_what_will_be_done(job, resumed);
    stop_requests_catch();
    int rc = train_steps(job, err);
    if (rc == 0 && checkpoint_complete(&job->writing, err))
        rc = -1;
    if (is_rank0(job)) {
        log_progress_end();
        record_summary(job);
    }
    if (rc > 0) {
        if (is_rank0(job))
            log_info("stopped after step %zu of %zu; the same command continues",
                     job->trainer->step, job->trainer->steps);
        return EXIT_STOPPED;
    }
    if (rc < 0 || save_model(job, err))
        return EXIT_FAILED;
    if (is_rank0(job))
        log_info("%s: loss %.4f -> %.4f, %" PRIu64 " tokens in this run, %.0f tokens/s",
                 job->options->out, job->first_loss, job->last_loss, job->tokens,
                 (double)job->tokens / job->training_seconds);
    return EXIT_DONE;
}

// Whether an earlier run finished exactly this training; its records then stay as they are.
static int is_finished(struct train_job *job, bool *finished, struct error *err)
{
    int rc = 0;
    *finished = false;
    if (is_rank0(job)) {
        char identity[DIGEST_TEXT_BYTES];
        digest_format(trainer_identity(job->trainer), identity);
        rc = run_directory_was_done(job->options->out, identity, finished, err);
    }
    return group_agree(job->group, rc, err) ||
                   group_broadcast(job->group, finished, sizeof(*finished), 0, err)
               ? -1
               : 0;
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
    int rc = 0;
    if (group_agree(job->group, open_local(job, err), err) ||
        compute_gpus_open(job->group, job->device, &job->gpus, err) || open_trainer(job, err) ||
        is_finished(job, &finished, err))
        return EXIT_FAILED;
    if (finished) {
        if (is_rank0(job))
            log_info("%s: already trained on these data with these options", job->options->out);
        return EXIT_DONE;
    }
    if (is_rank0(job))
        rc = run_directory_open(&job->run, job->options->out, true, &verb_train, job->options, err);
    if (group_agree(job->group, rc, err) || keep_flight_records(job, err))
        return run_directory_close(&job->run, EXIT_FAILED, err);
    return run_directory_close(&job->run, run_training(job, err), err);
}

static void close_everything(struct train_job *job)
{
    checkpoint_abandon(job->writing);
    trainer_destroy(job->trainer);
    sequence_set_release(&job->set);
    sequence_set_release(&job->held_out);
    model_destroy(job->model);
    text_codec_close(&job->codec);
    group_close(job->gpus);
    device_destroy(job->device);
    free(job->checkpoints);
    group_close(job->group);
}

static int run_train(const void *parsed, const struct option_list *positional, struct error *err)
{
    struct train_job job = {.options = parsed, .held_out_loss = -1};
    struct corpus_part part;
    (void)positional;
    if (corpus_part_parse(job.options->part, &part, err))
        return EXIT_USAGE;
    if (compute_choose_gpu(job.options->backend, err) || group_open(&job.group, err))
        return EXIT_FAILED;
    group_set_deadline(job.group, job.options->collective_seconds);
    job.checkpoints = fs_join(job.options->out, "run/checkpoints");
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
        "  memo train --base models/start --data corpus.h5 --objective text --out models/base\n"
        "  memo train --base models/base --data reflections/ --out models/memory --lora-r 16\n"
        "The same command continues from the last checkpoint, on any number of ranks.\n",
    .options = train_option_table,
    .options_bytes = sizeof(struct train_options),
    .run = run_train,
};
