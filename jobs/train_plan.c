// SPDX-License-Identifier: Apache-2.0
#include "jobs/train_plan.h"

#include "base/clock.h"
#include "base/log.h"
#include "kernels/bench.h"
#include "worker/model/lora.h"

#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define GB 1e9
#define USUAL_SHARE_OF_PEAK 0.5 // for the first estimate of time

size_t process_resident_bytes(void)
{
    unsigned long long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file)
        return 0;
    if (fscanf(file, "%*u %llu", &pages) != 1)
        pages = 0;
    fclose(file);
    return (size_t)pages * (size_t)sysconf(_SC_PAGESIZE);
}

size_t process_peak_bytes(void)
{
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) == 0 ? (size_t)usage.ru_maxrss * 1024 : 0;
}

// Without swapping; SIZE_MAX when the system does not tell.
static size_t free_bytes(void)
{
    char line[128];
    unsigned long long kib = 0;
    FILE *file = fopen("/proc/meminfo", "r");
    bool found = false;
    while (file && !found && fgets(line, sizeof(line), file))
        found = sscanf(line, "MemAvailable: %llu", &kib) == 1;
    if (file)
        fclose(file);
    return found ? (size_t)kib * 1024 : SIZE_MAX;
}

static size_t needed_with(struct model *model, const struct group *group,
                          const struct train_plan *plan, const struct trainer_options *options)
{
    return plan->program_bytes + plan->answer_bytes +
           trainer_bytes_total(
               trainer_bytes_needed(model, group_rank(group), group_size(group), options));
}

static void apply_no_answers(struct trainer_options *options, struct train_plan *plan)
{
    (void)options;
    plan->answer_bytes = 0;
}

static void apply_recompute(struct trainer_options *options, struct train_plan *plan)
{
    (void)plan;
    options->recompute = true;
}

static void apply_micro_batch(struct trainer_options *options, struct train_plan *plan)
{
    (void)plan;
    options->micro_batch_tokens = (options->micro_batch_tokens + 3) / 4;
}

static void apply_zero(struct trainer_options *options, struct train_plan *plan)
{
    (void)plan;
    options->zero = ZERO_2;
}

static void apply_halves(struct trainer_options *options, struct train_plan *plan)
{
    (void)plan;
    options->optimizer.form.moments = MOMENTS_8BIT;
}

// Not where it would be refused.
static void apply_half_gradients(struct trainer_options *options, struct train_plan *plan)
{
    if (plan->half_gradients_allowed)
        options->grads = DTYPE_BF16;
}

// What costs least comes first.
static const struct remedy {
    const char *option;
    void (*apply)(struct trainer_options *options, struct train_plan *plan);
} remedies[] = {
    {"--eval-answers 0", apply_no_answers},
    {"--checkpoint-activations on", apply_recompute},
    {"a quarter of --micro-batch-tokens", apply_micro_batch},
    {"--zero 2", apply_zero},
    {"--moments 8bit", apply_halves},
    {"--grad-dtype bf16", apply_half_gradients},
};

enum { REMEDIES = sizeof(remedies) / sizeof(*remedies) };

// The first option that alone makes it fit, or the first few together, into `said`. Those that
// save nothing are left out.
static bool find_remedy(struct model *model, const struct group *group,
                        const struct train_plan *plan, const struct trainer_options *options,
                        struct strbuf *said, size_t *bytes)
{
    for (size_t i = 0; i < REMEDIES; i++) {
        struct trainer_options one = *options;
        struct train_plan with_one = *plan;
        remedies[i].apply(&one, &with_one);
        *bytes = needed_with(model, group, &with_one, &one);
        if (*bytes <= plan->available_bytes) {
            strbuf_adds(said, remedies[i].option);
            return true;
        }
    }
    struct trainer_options several = *options;
    struct train_plan with_several = *plan;
    for (size_t i = 0; i < REMEDIES; i++) {
        const size_t before = needed_with(model, group, &with_several, &several);
        remedies[i].apply(&several, &with_several);
        *bytes = needed_with(model, group, &with_several, &several);
        if (*bytes < before)
            strbuf_addf(said, "%s%s", said->length == 0 ? "" : " and ", remedies[i].option);
        if (*bytes <= plan->available_bytes)
            return true;
    }
    return false;
}

static int refuse(struct model *model, const struct group *group, const struct train_plan *plan,
                  const struct trainer_options *options, struct error *err)
{
    struct strbuf said = {0};
    size_t bytes = 0;
    const bool found = find_remedy(model, group, plan, options, &said, &bytes);
    if (said.length > 0)
        strbuf_addf(&said, " would %s (%.3f GB)", found ? "make it fit" : "not be enough",
                    (double)bytes / GB);
    error_set(err, "training needs %.3f GB per rank, %.3f GB more than there are; %s%s%s",
              (double)plan->total_bytes / GB,
              (double)(plan->total_bytes - plan->available_bytes) / GB,
              said.length > 0 ? said.bytes : "", said.length > 0 && !found ? ": " : "",
              found ? "" : "use more ranks or a smaller model");
    strbuf_release(&said);
    return -1;
}

static size_t state_bytes(struct model *model, const struct trainer_options *options)
{
    const struct layout *layout = model_trained_layout(model);
    const struct shards shards = shards_make(layout->elements, 0, 1);
    const struct optimizer_bytes bytes =
        optimizer_bytes_needed(layout, &shards, false, options->optimizer.form);
    return bytes.weights + bytes.remainder + bytes.moments;
}

// Of the products that weights of this type are read by.
static double measure_peak(const struct model *model, const struct group *group, enum dtype weights)
{
    struct bench_limits limits;
    struct error unknown; // a backend without such loops has no peak
    if (bench_limits(model->device, &limits, &unknown))
        return 0;
    const bool pairs = weights == DTYPE_BF16 && limits.dot_flops > 0;
    return (pairs ? limits.dot_flops : limits.flops) * group_size(group);
}

int train_plan_make(const struct train_plan_request *request, struct trainer_options *options,
                    struct train_plan *out, struct error *err)
{
    struct model *model = request->model;
    const struct group *group = request->group;
    const size_t resident = process_resident_bytes();
    const size_t adapters = model->lora ? model->lora->layout.elements * sizeof(float) : 0;
    const size_t weights = model->layout.elements * dtype_bytes(model->weights.dtype) + adapters;
    const size_t share = free_bytes() / (size_t)group_local_size(group);
    const size_t host = share < SIZE_MAX - resident ? share + resident : SIZE_MAX;
    const struct device_memory memory = device_memory_usage(model->device);
    const bool on_device = memory.total > 0;
    *out = (struct train_plan){.answer_bytes = request->answer_bytes,
                               .half_gradients_allowed = !model->lora && !options->exact_sums};
    if (!on_device)
        out->program_bytes = resident > weights ? resident - weights : 0;
    out->available_bytes = request->limit_bytes > 0 ? request->limit_bytes
                           : on_device              ? memory.free + weights
                                                    : host;
    options->recompute = request->recompute == RECOMPUTE_ON;
    if (request->recompute == RECOMPUTE_AUTO &&
        needed_with(model, group, out, options) > out->available_bytes)
        options->recompute = true;
    out->bytes = trainer_bytes_needed(model, group_rank(group), group_size(group), options);
    out->total_bytes = out->program_bytes + out->answer_bytes + trainer_bytes_total(out->bytes);
    out->checkpoint_bytes = state_bytes(model, options);
    out->copy_bytes = out->checkpoint_bytes / (size_t)group_size(group);
    // Copies of states are in the host's memory.
    out->behind = on_device ? share >= out->copy_bytes
                            : out->available_bytes >= out->total_bytes &&
                                  out->available_bytes - out->total_bytes >= out->copy_bytes;
    out->copied = out->behind && request->copies;
    out->total_bytes += out->copied && !on_device ? out->copy_bytes : 0;
    out->peak_flops = measure_peak(
        model, group, model->lora ? model->weights.dtype : options->optimizer.form.weights);
    return out->total_bytes > out->available_bytes ? refuse(model, group, out, options, err) : 0;
}

static double mean_step_flops(const struct trainer *trainer)
{
    const struct sequence_set *set = trainer->set;
    uint32_t targets = 0;
    for (size_t s = 0; s < set->count; s++)
        targets += set->target_end[s] - set->target_begin[s];
    const struct step_stats epoch = {
        .sequences = set->count, .tokens = set->offsets[set->count], .target_tokens = targets};
    return trainer_flops(trainer->model, &epoch) * (double)trainer->options.plan.epochs /
           (double)trainer->steps;
}

static void log_time(const struct train_plan *plan, const struct trainer *trainer)
{
    char text[32];
    const double flops = mean_step_flops(trainer) * (double)(trainer->steps - trainer->step);
    if (plan->peak_flops <= 0)
        return;
    clock_format_duration(flops / (plan->peak_flops * USUAL_SHARE_OF_PEAK), text, sizeof(text));
    log_info("%.3g FLOP to do, about %s at half the measured %.0f GFLOP/s", flops, text,
             plan->peak_flops / 1e9);
}

static void log_disk(const struct train_plan *plan, size_t kept, const char *directory)
{
    struct statvfs disk;
    const double needed = (double)plan->checkpoint_bytes * (double)(kept + 1);
    if (statvfs(directory, &disk) != 0)
        return;
    const double there = (double)disk.f_bavail * (double)disk.f_frsize;
    log_info("a checkpoint takes %.3f GB, %zu kept and one being written %.3f GB; %.1f GB are free",
             (double)plan->checkpoint_bytes / GB, kept, needed / GB, there / GB);
    if (!plan->behind)
        log_info("the run waits while it is written: there is no memory for a copy");
    if (needed > there)
        log_warn("the checkpoints will not fit: lower --keep, or free %.3f GB",
                 (needed - there) / GB);
}

void train_plan_parts(const struct trainer_bytes *bytes, bool recompute, struct strbuf *out)
{
    strbuf_addf(out,
                "weights %.3f GB, remainders %.3f, moments %.3f, gradients %.3f, activations "
                "%.3f%s, workspace %.3f (before the first and after the last step %.3f)",
                (double)bytes->weights / GB, (double)bytes->remainder / GB,
                (double)bytes->moments / GB, (double)bytes->gradients / GB,
                (double)bytes->activations / GB, recompute ? " (computed twice)" : "",
                (double)bytes->workspace / GB, (double)bytes->conversion / GB);
}

void train_plan_log(const struct train_plan *plan, const struct trainer *trainer, size_t kept,
                    const char *directory)
{
    struct strbuf parts = {0};
    train_plan_parts(&plan->bytes, trainer->options.recompute, &parts);
    log_info("memory per rank: %s, held-out answers %.3f, copy of a checkpoint %.3f, program and "
             "data %.3f: %.3f GB",
             parts.bytes, (double)plan->answer_bytes / GB,
             plan->copied ? (double)plan->copy_bytes / GB : 0.0, (double)plan->program_bytes / GB,
             (double)plan->total_bytes / GB);
    strbuf_release(&parts);
    log_disk(plan, kept, directory);
    log_time(plan, trainer);
}
