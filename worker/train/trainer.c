// SPDX-License-Identifier: Apache-2.0
#include "worker/train/trainer.h"

#include "base/mem.h"
#include "base/random.h"
#include "worker/model/lora.h"
#include "worker/train/identity.h"
#include "worker/train/step_sum.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { HUGE_PAGE_BYTES = 2 << 20 };

// What would otherwise fail in the middle of the run.
static int check_sequences(const struct model_config *config, const struct sequence_set *set,
                           size_t micro_batch_tokens, struct error *err)
{
    if (set->count == 0)
        return error_set(err, "no sequence to train on");
    if (set->longest > micro_batch_tokens)
        return error_set(err, "a sequence of %zu tokens does not fit a micro-batch of %zu tokens",
                         set->longest, micro_batch_tokens);
    if (set->longest > (uint64_t)config->max_positions)
        return error_set(err, "a sequence of %zu tokens, but the model has %" PRId64 " positions",
                         set->longest, config->max_positions);
    for (uint64_t i = 0; i < set->offsets[set->count]; i++) {
        if (set->ids[i] < 0 || set->ids[i] >= config->vocabulary)
            return error_set(err, "token %d is outside the model's vocabulary of %" PRId64,
                             set->ids[i], config->vocabulary);
    }
    return 0;
}

static size_t cuts(const struct trainer *trainer)
{
    return (size_t)(shards_padded_elements(&trainer->shards) / trainer->shards.cut);
}

static struct tensor sums_at(struct tensor sums, size_t element)
{
    sums.data = (char *)sums.data + element * dtype_bytes(sums.dtype);
    return sums;
}

// The sums that each unit of the optimizer reads.
static void point_at_sums(struct trainer *trainer)
{
    const struct shards *shards = &trainer->shards;
    const bool divided = trainer->options.zero != ZERO_0;
    const size_t units = shards->buckets * (divided ? 1 : (size_t)shards->ranks);
    trainer->sums = mem_calloc(units, sizeof(*trainer->sums));
    for (size_t u = 0; u < units; u++) {
        const size_t ranks = divided ? 1 : (size_t)shards->ranks;
        trainer->sums[u] =
            sums_at(reducer_sums(trainer->reducer, u / ranks), u % ranks * (size_t)shards->unit);
    }
}

static int make_reducer(struct trainer *trainer, struct error *err)
{
    return reducer_create(trainer->model->device, trainer->device_group, &trainer->shards,
                          trainer_sums(trainer->model, &trainer->options), &trainer->reducer, err);
}

// For a moment the optimizer has the weights twice, so that it comes before what is large; but
// gradients of which most goes back to the system are there for a moment only, and come first.
static int allocate(struct trainer *trainer, struct error *err)
{
    struct model *model = trainer->model;
    const struct trainer_options *options = &trainer->options;
    const bool partial = options->zero == ZERO_2;
    trainer->shards = shards_make(model_trained_layout(model)->elements, group_rank(trainer->group),
                                  group_size(trainer->group));
    if (lora_drops(model->lora))
        trainer->dropout_keys =
            mem_calloc(options->micro_batch_tokens, sizeof(*trainer->dropout_keys));
    trainer->host_squares = mem_calloc(cuts(trainer), sizeof(*trainer->host_squares));
    if ((partial && make_reducer(trainer, err)) ||
        optimizer_create(model, trainer->group, trainer->device_group, &trainer->shards,
                         options->zero != ZERO_0, &options->optimizer, &trainer->optimizer, err) ||
        (!partial && make_reducer(trainer, err)) ||
        device_alloc(model->device, (cuts(trainer) + 1) * sizeof(*trainer->squares),
                     (void **)&trainer->squares, err) ||
        (options->grads == DTYPE_BF16 &&
         device_alloc(model->device,
                      gradients_product_elements(&model->config) * sizeof(*trainer->product),
                      (void **)&trainer->product, err)) ||
        (options->recompute ? workspace_create_recomputing(model, options->micro_batch_tokens,
                                                           &trainer->workspace, err)
                            : workspace_create(model, options->micro_batch_tokens, true,
                                               &trainer->workspace, err)))
        return -1;
    point_at_sums(trainer);
    workspace_watch_gradients(trainer->workspace, reducer_advance, trainer->reducer);
    return 0;
}

static int prepare(struct trainer *trainer, struct error *err)
{
    struct trainer_options *options = &trainer->options;
    const struct sequence_set *set = trainer->set;
    if (check_sequences(&trainer->model->config, set, options->micro_batch_tokens, err))
        return -1;
    if (options->plan.per_step > set->count)
        options->plan.per_step = set->count;
    trainer->steps = plan_steps(&options->plan, set);
    options->schedule.total_steps = trainer->steps;
    options->schedule.warmup_steps =
        (size_t)ceil(options->warmup_fraction * (double)trainer->steps);
    return identity_compute(trainer->model, set, options, &trainer->identity, err) ||
                   allocate(trainer, err)
               ? -1
               : 0;
}

int trainer_create(struct model *model, struct group *group, const struct sequence_set *set,
                   const struct trainer_options *options, struct trainer **out, struct error *err)
{
    assert(model_trained_weights(model).dtype == DTYPE_F32);
    assert(options->plan.per_step > 0 && options->plan.epochs > 0);
    assert(options->grads == DTYPE_F32 || !model->lora);
    *out = NULL;
    struct trainer *trainer = mem_calloc(1, sizeof(*trainer));
    trainer->model = model;
    trainer->group = group;
    trainer->device_group = options->device_group ? options->device_group : group;
    trainer->set = set;
    trainer->options = *options;
    if (group_agree(group, prepare(trainer, err), err) ||
        identity_agree(group, trainer->identity, err) ||
        environment_gather(trainer, &trainer->environment, err)) {
        trainer_destroy(trainer);
        return -1;
    }
    *out = trainer;
    return 0;
}

void trainer_destroy(struct trainer *trainer)
{
    if (!trainer)
        return;
    struct device *device = trainer->model->device;
    workspace_destroy(trainer->workspace);
    packed_batch_release(&trainer->batch);
    step_layout_release(&trainer->layout);
    step_cursor_release(&trainer->cursor);
    optimizer_destroy(trainer->optimizer);
    reducer_destroy(trainer->reducer);
    device_free(device, trainer->squares);
    device_free(device, trainer->product);
    environment_release(&trainer->environment);
    free(trainer->rounded);
    free(trainer->dropout_keys);
    free(trainer->host_squares);
    free(trainer->sums);
    free(trainer->staging);
    free(trainer);
}

struct digest trainer_identity(const struct trainer *trainer)
{
    return trainer->identity;
}

void trainer_watch_states(struct trainer *trainer, double (*settle)(void *context), void *context)
{
    trainer->settle = settle;
    trainer->settle_context = context;
}

unsigned char *trainer_staging(struct trainer *trainer, size_t bytes)
{
    if (bytes <= trainer->staging_bytes)
        return trainer->staging;
    const size_t pages = (bytes + HUGE_PAGE_BYTES - 1) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
    free(trainer->staging);
    trainer->staging = mem_alloc_aligned(HUGE_PAGE_BYTES, pages);
    trainer->staging_bytes = pages;
    (void)madvise(trainer->staging, pages, MADV_HUGEPAGE); // advice: works without
    memset(trainer->staging, 0, pages);
    return trainer->staging;
}

static double settle_states(const struct trainer *trainer)
{
    return trainer->settle ? trainer->settle(trainer->settle_context) : 0;
}

// Gradients and activations go first: the master weights take their place.
int trainer_finish(struct trainer *trainer, struct error *err)
{
    settle_states(trainer);
    workspace_destroy(trainer->workspace);
    reducer_destroy(trainer->reducer);
    device_free(trainer->model->device, trainer->product);
    trainer->product = NULL;
    trainer->workspace = NULL;
    trainer->reducer = NULL;
    return optimizer_widen(trainer->optimizer, err);
}

static struct batch view_batch(const struct packed_batch *packed)
{
    return (struct batch){.ids = packed->ids,
                          .positions = packed->positions,
                          .targets = packed->targets,
                          .offsets = packed->offsets,
                          .tokens = packed->tokens,
                          .sequences = packed->sequences};
}

// A token's key says which step, sequence and position it is of, wherever it is computed. The same
// order as packed_batch_fill's.
static const uint64_t *dropout_keys(struct trainer *trainer, uint32_t bin)
{
    const struct step_layout *layout = &trainer->layout;
    const struct sequence_set *set = trainer->set;
    size_t at = 0;
    if (!trainer->dropout_keys)
        return NULL;
    for (size_t i = 0; i < layout->count; i++) {
        const uint32_t s = layout->sequences[i];
        const size_t length = (size_t)(set->offsets[s + 1] - set->offsets[s]);
        for (size_t t = 0; layout->bins[i] == bin && t < length; t++)
            trainer->dropout_keys[at++] = random_u64(trainer->model->lora->options.seed,
                                                     trainer->step, (uint64_t)s << 32 | t);
    }
    return trainer->dropout_keys;
}

// A draw for every micro-batch of the run: repeated, a step rounds alike.
static struct gradients bin_gradients(const struct trainer *trainer, uint32_t bin)
{
    const uint64_t rank = (uint64_t)group_rank(trainer->group);
    return (struct gradients){.sums = reducer_grads(trainer->reducer),
                              .vectors = reducer_vectors(trainer->reducer),
                              .product = trainer->product,
                              .draw = (int64_t)random_u64(trainer->step, rank, bin)};
}

// Forward and backward of one micro-batch of this rank.
static int compute_bin(struct trainer *trainer, uint32_t bin, float grad_scale, double *loss,
                       struct error *err)
{
    struct packed_batch *packed = &trainer->batch;
    packed_batch_fill(packed, trainer->set, &trainer->layout, bin);
    struct batch batch = view_batch(packed);
    batch.dropout_keys = dropout_keys(trainer, bin);
    const struct gradients gradients = bin_gradients(trainer, bin);
    return model_loss(trainer->model, trainer->workspace, &batch, &gradients, grad_scale, loss,
                      err);
}

// All micro-batches of this rank. Whatever fails here, all buckets of every round are summed, so
// that the other ranks are not left waiting.
static int accumulate(struct trainer *trainer, float grad_scale, struct step_sum *sum,
                      struct error *err)
{
    const struct step_layout *layout = &trainer->layout;
    struct reducer *reducer = trainer->reducer;
    const size_t rounds = trainer->options.zero == ZERO_2 ? layout->most_bins
                          : layout->bin_count > 0         ? layout->bin_count
                                                          : 1;
    int rc = 0;
    *sum = (struct step_sum){0};
    reducer_begin_step(reducer, layout->total_bins);
    for (size_t round = 0; round < rounds; round++) {
        struct error failure;
        double loss = 0;
        reducer_begin(reducer, round + 1 == rounds);
        if (rc == 0 && round < layout->bin_count)
            rc = compute_bin(trainer, (uint32_t)round, grad_scale, &loss, err) ||
                         step_sum_add_loss(sum, loss, err)
                     ? -1
                     : 0;
        if (rc == 0 && round < layout->bin_count)
            step_sum_add_bin(sum, layout, (uint32_t)round);
        if (device_sync(trainer->model->device, &failure) && rc == 0) {
            *err = failure;
            rc = -1;
        }
        reducer_advance(reducer, 0);
        if (reducer_wait(reducer, &failure) && rc == 0) {
            *err = failure;
            rc = -1;
        }
    }
    return rc;
}

// Of `range`, whose first sum belongs to cut `cut` of this rank.
static void square_sums(struct trainer *trainer, struct tensor sums, struct range range, size_t cut)
{
    struct device *device = trainer->model->device;
    const size_t step = (size_t)trainer->shards.cut, count = (size_t)range_count(range);
    for (size_t at = 0; at < count; at += step) {
        const size_t left = count - at;
        device->ops->sum_squares(device, trainer->squares + cut++, sums_at(sums, at),
                                 left < step ? left : step);
    }
}

// The sums of squares of this rank's unit of every bucket, or of all units, and of vectors, which
// every rank has.
static void square_buckets(struct trainer *trainer)
{
    const struct shards *shards = &trainer->shards;
    struct device *device = trainer->model->device;
    const size_t per_unit = (size_t)(shards->unit / shards->cut);
    const bool divided = trainer->options.zero != ZERO_0;
    for (size_t b = 0; b < shards->buckets; b++) {
        const size_t units = divided ? 1 : (size_t)shards->ranks;
        square_sums(trainer, reducer_sums(trainer->reducer, b),
                    divided ? shards_unit(shards, b, shards->rank) : shards_bucket(shards, b),
                    b * units * per_unit);
    }
    if (reducer_vectors(trainer->reducer))
        device->ops->sum_squares(device, trainer->squares + cuts(trainer),
                                 (struct tensor){reducer_vectors(trainer->reducer), DTYPE_F32},
                                 (size_t)model_trained_layout(trainer->model)->vector_elements);
}

// Added in the order of the cuts, whoever computed them.
static double add_squares(const struct trainer *trainer)
{
    const struct shards *shards = &trainer->shards;
    const size_t per_unit = (size_t)(shards->unit / shards->cut), count = cuts(trainer);
    const size_t ranks = (size_t)shards->ranks;
    double sum = 0;
    for (size_t cut = 0; cut < count; cut++) {
        const size_t unit = cut / per_unit, bucket = unit / ranks, rank = unit % ranks;
        const size_t divided = (rank * shards->buckets + bucket) * per_unit + cut % per_unit;
        sum += trainer->host_squares[trainer->options.zero == ZERO_0 ? cut : divided];
    }
    return sum;
}

static int copy_squares(struct trainer *trainer, double *cuts_out, size_t count, double *vectors,
                        struct error *err)
{
    struct device *device = trainer->model->device;
    const double *at_last = trainer->squares + cuts(trainer);
    return device_copy_out(device, cuts_out, trainer->squares, count * sizeof(*cuts_out), err) ||
                   (reducer_vectors(trainer->reducer) &&
                    device_copy_out(device, vectors, at_last, sizeof(*vectors), err))
               ? -1
               : 0;
}

// Collective with ZeRO-1 and 2.
static int gradient_norm(struct trainer *trainer, double *norm, struct error *err)
{
    const size_t ranks = (size_t)trainer->shards.ranks;
    const bool divided = trainer->options.zero != ZERO_0;
    const size_t own = divided ? cuts(trainer) / ranks : cuts(trainer);
    double *mine = trainer->host_squares + (divided ? (size_t)trainer->shards.rank * own : 0);
    double vectors = 0;
    square_buckets(trainer);
    if (group_agree(trainer->group, copy_squares(trainer, mine, own, &vectors, err), err))
        return -1;
    if (divided &&
        group_all_gather(trainer->group, trainer->host_squares, mine, own * sizeof(*mine), err))
        return -1;
    *norm = sqrt(add_squares(trainer) + vectors);
    return 0;
}

// Fallible work of one rank is agreed upon before the next collective, and before the weights
// change.
static int compute_gradients(struct trainer *trainer, const struct step_sum *planned,
                             struct step_stats *stats, struct error *err)
{
    struct group *group = trainer->group;
    const float grad_scale = 1.0f / (float)stats->target_tokens;
    struct step_sum sum;
    if (group_agree(group, accumulate(trainer, grad_scale, &sum, err), err) ||
        reducer_agree(trainer->reducer, group, err))
        return -1;
    if (step_sum_reduce(&sum, group, err) || step_sum_check(&sum, planned, err) ||
        gradient_norm(trainer, &stats->grad_norm, err))
        return -1;
    const struct reducer_times times = reducer_times(trainer->reducer);
    stats->loss = step_sum_loss(&sum, trainer->options.exact_sums) / (double)stats->target_tokens;
    stats->communication_seconds = times.busy_seconds;
    stats->exposed_seconds = times.exposed_seconds;
    return 0;
}

static struct digest extend_consumed(struct digest before, const uint32_t *sequences, size_t count)
{
    struct digest_builder builder;
    digest_begin(&builder);
    digest_update(&builder, before.bytes, sizeof(before.bytes));
    digest_update(&builder, sequences, count * sizeof(*sequences));
    return digest_end(&builder);
}

void trainer_plan_consumed(struct trainer *trainer, size_t steps, uint64_t *tokens,
                           struct digest *consumed)
{
    *tokens = 0;
    *consumed = (struct digest){{0}};
    for (size_t step = 0; step < steps; step++) {
        size_t count;
        const uint32_t *sequences = step_cursor_sequences(&trainer->cursor, &trainer->options.plan,
                                                          trainer->set, step, &count);
        *tokens += sequences_tokens(trainer->set, sequences, count);
        *consumed = extend_consumed(*consumed, sequences, count);
    }
}

// Lays the step out for this rank; *out says what all ranks together will do.
static void begin_step(struct trainer *trainer, struct step_stats *out, struct digest *consumed,
                       struct step_sum *planned)
{
    const struct sequence_set *set = trainer->set;
    size_t count;
    const uint32_t *sequences =
        step_cursor_sequences(&trainer->cursor, &trainer->options.plan, set, trainer->step, &count);
    *out = (struct step_stats){.step = trainer->step,
                               .learning_rate =
                                   schedule_rate(&trainer->options.schedule, trainer->step),
                               .sequences = count,
                               .tokens = sequences_tokens(set, sequences, count),
                               .target_tokens = sequences_target_tokens(set, sequences, count)};
    *consumed = extend_consumed(trainer->consumed, sequences, count);
    *planned = (struct step_sum){0};
    for (size_t i = 0; i < count; i++)
        step_sum_add_sequence(planned, sequences[i]);
    step_layout_make(&trainer->layout, set, sequences, count,
                     trainer->options.exact_sums ? DIVIDE_MICRO_BATCHES : DIVIDE_SEQUENCES,
                     group_rank(trainer->group), group_size(trainer->group),
                     trainer->options.micro_batch_tokens);
}

int trainer_step(struct trainer *trainer, struct step_stats *out, struct error *err)
{
    assert(trainer->step < trainer->steps);
    struct digest consumed;
    struct step_sum planned;
    group_set_step(trainer->group, trainer->step);
    begin_step(trainer, out, &consumed, &planned);
    if (compute_gradients(trainer, &planned, out, err))
        return error_prefix(err, "step %zu", trainer->step);
    // Every rank has the same sums, so that all take the same branch.
    if (!isfinite(out->loss) || !isfinite(out->grad_norm))
        return error_set(err,
                         "step %zu: loss %g, gradient norm %g: training diverged; lower --lr or "
                         "raise --warmup",
                         trainer->step, out->loss, out->grad_norm);
    const double clip = trainer->options.clip_norm;
    out->settle_seconds = settle_states(trainer);
    const struct optimizer_grads grads = {trainer->sums, reducer_vectors(trainer->reducer)};
    if (optimizer_step(trainer->optimizer, grads,
                       clip > 0 && out->grad_norm > clip ? clip / out->grad_norm : 1,
                       out->learning_rate, (int64_t)trainer->step + 1, err))
        return error_prefix(err, "step %zu", trainer->step);
    trainer->step++;
    trainer->tokens += out->tokens;
    trainer->consumed = consumed;
    trainer->score.known = false;
    return 0;
}

// This rank's part of the set.
static int evaluate_part(struct trainer *trainer, const struct sequence_set *set,
                         const struct step_layout *layout, struct step_sum *sum, struct error *err)
{
    struct packed_batch *packed = &trainer->batch;
    for (uint32_t bin = 0; bin < layout->bin_count; bin++) {
        double loss;
        packed_batch_fill(packed, set, layout, bin);
        const struct batch batch = view_batch(packed);
        if (model_loss(trainer->model, trainer->workspace, &batch, NULL, 0, &loss, err) ||
            step_sum_add_loss(sum, loss, err))
            return -1;
    }
    return 0;
}

int trainer_evaluate(struct trainer *trainer, const struct sequence_set *set, double *out,
                     struct error *err)
{
    const bool exact = trainer->options.exact_sums;
    struct step_layout layout = {0};
    struct step_sum sum = {0};
    uint32_t *all = mem_calloc(set->count, sizeof(*all));
    for (uint32_t s = 0; s < set->count; s++)
        all[s] = s;
    step_layout_make(&layout, set, all, set->count, exact ? DIVIDE_MICRO_BATCHES : DIVIDE_SEQUENCES,
                     group_rank(trainer->group), group_size(trainer->group),
                     trainer->options.micro_batch_tokens);
    int rc = evaluate_part(trainer, set, &layout, &sum, err);
    rc =
        group_agree(trainer->group, rc, err) || step_sum_reduce(&sum, trainer->group, err) ? -1 : 0;
    *out = step_sum_loss(&sum, exact) / (double)sequences_target_tokens(set, all, set->count);
    step_layout_release(&layout);
    free(all);
    return rc;
}
