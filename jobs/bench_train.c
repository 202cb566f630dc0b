// SPDX-License-Identifier: Apache-2.0
// memo bench train: whole steps (forward, backward, sum over ranks, AdamW) at a fixed number of
// tokens a step and rank, by one rank with all threads and, with --ranks or under mpirun, by
// several that divide them. What counts as work is trainer_flops; its share is taken of the
// bfloat16 (or float32) multiplier's peak and of the best product of a layer's shape, both measured
// here.
#include "jobs/bench.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/random.h"
#include "worker/train/trainer.h"

#include <stdio.h>
#include <string.h>

// Lengths of pairs made by the cloze generator, in tokens of a small vocabulary, when no data are
// given.
enum { PAIR_MIN_TOKENS = 30, PAIR_MAX_TOKENS = 80, PAIR_TARGETS = 5, MADE_PAIRS = 1024 };
enum { USUAL_LAYERS = 6, PADDED_PAIRS = 16, STEPS = 8 };

struct training {
    const struct bench *bench;
    struct model_config config;
    struct sequence_set set;
    size_t one_step; // pairs of a step of one rank
    int threads;     // of the whole machine
};

// What a group of ranks reached; of rank 0.
struct reached {
    double tokens, flops, seconds; // of all ranks
    double communication, exposed; // seconds
    size_t steps;
    double planned_bytes, taken_bytes; // of the device; taken 0: not known
    struct bench_checkpoint checkpoint;
};

struct trial {
    const struct training *training;
    struct reached reached;
};

static void make_pairs(const struct model_config *config, struct sequence_set *out)
{
    int32_t ids[PAIR_MAX_TOKENS];
    for (size_t s = 0; s < MADE_PAIRS; s++) {
        const size_t spread = PAIR_MAX_TOKENS - PAIR_MIN_TOKENS + 1;
        const size_t length = PAIR_MIN_TOKENS + random_u64(1, s, 0) % spread;
        for (size_t t = 0; t < length; t++)
            ids[t] = (int32_t)(random_u64(2, s, t) % (uint64_t)config->vocabulary);
        sequence_set_add(out, ids, length, length - PAIR_TARGETS, length, PAIR_MAX_TOKENS);
    }
}

static size_t targets_of(const struct sequence_set *set)
{
    size_t targets = 0;
    for (size_t s = 0; s < set->count; s++)
        targets += set->target_end[s] - set->target_begin[s];
    return targets;
}

// Tokens that batches of PADDED_PAIRS neighbours would have if each were filled up to its longest,
// per token that there is.
static double padding_factor(const struct sequence_set *set)
{
    uint64_t padded = 0;
    for (size_t s = 0; s < set->count; s += PADDED_PAIRS) {
        const size_t end = s + PADDED_PAIRS < set->count ? s + PADDED_PAIRS : set->count;
        uint64_t longest = 0;
        for (size_t i = s; i < end; i++) {
            const uint64_t length = set->offsets[i + 1] - set->offsets[i];
            longest = length > longest ? length : longest;
        }
        padded += longest * (end - s);
    }
    return (double)padded / (double)set->offsets[set->count];
}

static void report_data(const struct training *training)
{
    const struct bench *bench = training->bench;
    const struct sequence_set *set = &training->set;
    const double tokens = (double)set->offsets[set->count];
    char what[64];
    bench_report(bench, "training data: pairs", (double)set->count, "", 0, NULL);
    bench_report(bench, "training data: tokens", tokens, "", 0, NULL);
    bench_report(bench, "training data: mean length", tokens / (double)set->count, "tokens", 0,
                 NULL);
    bench_report(bench, "training data: targets", (double)targets_of(set), "tokens",
                 (double)targets_of(set) / tokens, "all tokens");
    snprintf(what, sizeof(what), "training data: padding, batches of %d", PADDED_PAIRS);
    bench_report(bench, what, padding_factor(set), "times", 0, NULL);
}

// Pairs of a step of so many ranks.
static size_t step_pairs(const struct training *training, int ranks)
{
    const struct sequence_set *set = &training->set;
    const double mean = (double)set->offsets[set->count] / (double)set->count;
    const size_t pairs = (size_t)((double)training->bench->options->step_tokens / mean + 0.5);
    return (pairs > 0 ? pairs : 1) * (size_t)ranks;
}

// The same pairs over and over, so that whole steps of any number of ranks make an epoch.
static void repeat_pairs(struct training *training, int ranks)
{
    struct sequence_set *set = &training->set;
    const size_t given = set->count, count = STEPS * step_pairs(training, ranks);
    struct sequence_set all = {0};
    for (size_t i = 0; i < count; i++) {
        const size_t s = i % given;
        sequence_set_add(&all, set->ids + set->offsets[s],
                         (size_t)(set->offsets[s + 1] - set->offsets[s]), set->target_begin[s],
                         set->target_end[s], SIZE_MAX);
    }
    training->one_step = step_pairs(training, 1);
    sequence_set_release(set);
    *set = all;
}

// What a first step would otherwise wait for: scratch memory and a model in the caches; on a GPU
// kernels that are loaded, and algorithms that are chosen, when a whole step needs them.
static int warm_up(struct trainer *trainer, struct error *err)
{
    struct step_stats ignored;
    if (device_stream(trainer->model->device))
        return trainer_step(trainer, &ignored, err);
    const struct sequence_set *set = trainer->set;
    struct sequence_set few = {0};
    double loss;
    for (size_t s = 0; s < set->count && s < PADDED_PAIRS; s++)
        sequence_set_add(&few, set->ids + set->offsets[s],
                         (size_t)(set->offsets[s + 1] - set->offsets[s]), set->target_begin[s],
                         set->target_end[s], SIZE_MAX);
    const int rc = trainer_evaluate(trainer, &few, &loss, err);
    sequence_set_release(&few);
    return rc;
}

static struct trainer_options trainer_options_of(const struct training *training, int ranks)
{
    const struct bench_options *options = training->bench->options;
    const struct sequence_set *set = &training->set;
    struct error impossible; // the options' table knows the names
    struct state_form form = {0};
    (void)state_form_parse(options->dtype, options->moments, &form, &impossible);
    const size_t micro_batch = (size_t)options->micro_batch_tokens;
    return (struct trainer_options){
        .plan = {.seed = 1, .per_step = training->one_step * (size_t)ranks, .epochs = 1 << 20},
        .schedule = {.peak = 1e-5},
        .micro_batch_tokens = micro_batch > set->longest ? micro_batch : set->longest,
        .optimizer =
            {.form = form, .beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .weight_decay = 0.01},
        .zero = (enum zero_stage)options->zero,
        .grads = strcmp(options->grad_dtype, "bf16") == 0 ? DTYPE_BF16 : DTYPE_F32,
        .recompute = options->recompute,
        .clip_norm = 1};
}

// Rank 0's clock decides for all.
static int time_steps(struct trainer *trainer, double limit, struct reached *out, struct error *err)
{
    struct step_stats stats;
    bool more = true;
    if (warm_up(trainer, err))
        return -1;
    const bool first = group_rank(trainer->group) == 0;
    const double start = clock_seconds();
    while (more) {
        if (trainer_step(trainer, &stats, err))
            return -1;
        out->flops += trainer_flops(trainer->model, &stats);
        out->tokens += (double)stats.tokens;
        out->communication += stats.communication_seconds;
        out->exposed += stats.exposed_seconds;
        out->steps++;
        out->seconds = clock_seconds() - start;
        if (group_any(trainer->group, first && out->seconds < limit, &more, err))
            return -1;
    }
    return 0;
}

// What the trainer is about to take, said before it does.
static void report_memory(const struct bench *bench, const struct trainer_bytes *bytes)
{
    const struct {
        const char *what;
        size_t bytes;
    } parts[] = {{"  weights", bytes->weights},
                 {"  remainders of weights", bytes->remainder},
                 {"  moments", bytes->moments},
                 {"  gradients", bytes->gradients},
                 {"  activations", bytes->activations},
                 {"  workspace", bytes->workspace},
                 {"  before and after the steps", bytes->conversion}};
    bench_report(bench, "memory: planned", (double)trainer_bytes_total(*bytes) / 1e9, "GB", 0,
                 NULL);
    for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++)
        bench_report(bench, parts[i].what, (double)parts[i].bytes / 1e6, "MB", 0, NULL);
}

static int train_on(struct trial *trial, struct group *group, struct device *device,
                    struct error *err)
{
    const struct training *training = trial->training;
    const struct bench_options *options = training->bench->options;
    const struct trainer_options how = trainer_options_of(training, group_size(group));
    const struct device_memory before = device_memory_usage(device);
    struct model *model = NULL;
    struct trainer *trainer = NULL;
    int rc = model_create(device, &training->config, DTYPE_F32, &model, err);
    if (rc == 0) {
        const struct trainer_bytes bytes =
            trainer_bytes_needed(model, group_rank(group), group_size(group), &how);
        if (group_rank(group) == 0)
            report_memory(training->bench, &bytes);
        bench_fill_weights(model);
        trial->reached.planned_bytes = (double)trainer_bytes_total(bytes);
        rc = trainer_create(model, group, &training->set, &how, &trainer, err) ||
                     time_steps(trainer, options->seconds, &trial->reached, err) ||
                     (options->checkpoint && bench_checkpoint(trainer, options->checkpoint,
                                                              &trial->reached.checkpoint, err))
                 ? -1
                 : 0;
        trial->reached.taken_bytes = bench_memory_taken(device, before);
    }
    trainer_destroy(trainer);
    model_destroy(model);
    return rc;
}

// One rank of a trial, with its share of the threads.
static int run_trial(struct group *group, void *context, struct error *err)
{
    struct trial *trial = context;
    const int share = trial->training->threads / group_local_size(group);
    const struct device_options options = {.backend = trial->training->bench->options->backend,
                                           .threads = share > 0 ? share : 1};
    struct device *device;
    if (group_agree(group, device_create(&options, &device, err), err))
        return -1;
    const int rc = train_on(trial, group, device, err);
    device_destroy(device);
    return rc;
}

static int run_alone(struct trial *trial, struct error *err)
{
    struct group *group = NULL;
    const int rc = group_open_self(&group, err) || run_trial(group, trial, err) ? -1 : 0;
    group_close(group);
    return rc;
}

static double peak_of(const struct bench *bench)
{
    const bool dot = strcmp(bench->options->dtype, "bf16") == 0 && bench->limits.dot_flops > 0;
    return dot ? bench->limits.dot_flops : bench->limits.flops;
}

static void report_reached(const struct bench *bench, const struct reached *reached, int ranks,
                           double product_flops)
{
    const double tokens = reached->tokens / (double)reached->steps / ranks;
    char what[64];
    snprintf(what, sizeof(what), "training, %d rank%s, %.0f tokens a step", ranks,
             ranks > 1 ? "s" : "", tokens);
    bench_report(bench, what, reached->tokens / reached->seconds, "tokens/s",
                 reached->flops / reached->seconds / peak_of(bench),
                 peak_of(bench) == bench->limits.flops ? "multiply-add" : "dot product");
    bench_report(bench, "  operations", reached->flops / reached->seconds / 1e9, "GFLOP/s",
                 reached->flops / reached->seconds / product_flops, "best product");
    bench_report(bench, "  a step", reached->seconds / (double)reached->steps, "s", 0, NULL);
    bench_report_memory(bench, reached->planned_bytes, reached->taken_bytes);
    if (bench->options->checkpoint)
        bench_checkpoint_report(bench, &reached->checkpoint, reached->tokens / reached->seconds);
    if (ranks == 1)
        return;
    bench_report(bench, "  summing gradients, a step",
                 reached->communication / (double)reached->steps, "s",
                 reached->communication / reached->seconds, "the time");
    bench_report(bench, "  of it while nothing is computed",
                 reached->exposed / (double)reached->steps, "s",
                 reached->exposed / reached->seconds, "the time");
}

// The product of the widest layer, its weights packed: what a step could reach at best.
static int measure_product(const struct training *training, double *out, struct error *err)
{
    const struct bench *bench = training->bench;
    struct bench_linear shape = {.pass = BENCH_FORWARD_PACKED,
                                 .weight = strcmp(bench->options->dtype, "bf16") == 0 ? DTYPE_BF16
                                                                                      : DTYPE_F32,
                                 .rows = 512,
                                 .out_width = 2 * (size_t)training->config.ffn,
                                 .in_width = (size_t)training->config.hidden};
    *out = 0;
    const int rc =
        group_rank(bench->group) == 0 ? bench_linear(bench->device, &shape, out, err) : 0;
    if (group_agree(bench->group, rc, err))
        return -1;
    bench_report(bench, "limit: product of a layer, packed", *out / 1e9, "GFLOP/s",
                 *out / peak_of(bench), "the multiplier");
    return 0;
}

// mpirun's ranks, or those of --ranks.
static int run_ranks(struct trial *trial, struct error *err)
{
    struct group *group = trial->training->bench->group;
    return group_size(group) > 1
               ? run_trial(group, trial, err)
               : group_run_shm((int)trial->training->bench->options->ranks, run_trial, trial, err);
}

static int measure(struct bench *bench, const struct training *training, int ranks,
                   struct error *err)
{
    struct trial one = {.training = training}, several = one;
    double product_flops;
    if (measure_product(training, &product_flops, err))
        return -1;
    bench_close_device(bench);
    const int rc = group_rank(bench->group) == 0 ? run_alone(&one, err) : 0;
    if (group_agree(bench->group, rc, err))
        return -1;
    report_reached(bench, &one.reached, 1, product_flops);
    if (ranks == 1)
        return 0;
    if (run_ranks(&several, err))
        return -1;
    report_reached(bench, &several.reached, ranks, product_flops);
    const double alone = one.reached.tokens / one.reached.seconds;
    const double together = several.reached.tokens / several.reached.seconds;
    bench_report(bench, "  beside one rank", together / alone, "times", 0, NULL);
    return 0;
}

static int choose_shape(const struct bench *bench, struct model_config *out, struct error *err)
{
    const struct bench_options *options = bench->options;
    const bool small = !options->shape && bench->is_usual;
    const char *name = options->shape ? options->shape : small ? "tiny" : "qwen2.5-0.5b";
    if (model_config_shape(name, out, err))
        return -1;
    if (options->layers > 0)
        out->layers = options->layers;
    else if (!options->shape && !small)
        out->layers = USUAL_LAYERS;
    if (!options->json && group_rank(bench->group) == 0)
        printf("training %s, %lld layers, %s weights, random\n", name, (long long)out->layers,
               options->dtype);
    return 0;
}

int bench_train(struct bench *bench, struct error *err)
{
    struct training training = {.bench = bench, .threads = bench->device->threads};
    int rc = choose_shape(bench, &training.config, err);
    if (rc == 0 && bench->options->data.count > 0)
        rc = bench_pairs(bench->options, &training.set, err);
    else if (rc == 0)
        make_pairs(&training.config, &training.set);
    if (rc == 0) {
        const bool launched = group_size(bench->group) > 1;
        const int ranks = launched ? group_size(bench->group) : (int)bench->options->ranks;
        report_data(&training);
        repeat_pairs(&training, ranks);
        rc = measure(bench, &training, ranks, err);
    }
    sequence_set_release(&training.set);
    return rc;
}
