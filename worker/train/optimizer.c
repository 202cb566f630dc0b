// SPDX-License-Identifier: Apache-2.0
#include "worker/train/optimizer.h"

#include "base/mem.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { PIECE_ELEMENTS = 1 << 16 };

// The next unit of this rank after `number`, or the first; false when there is none.
static bool next_unit(const struct shards *shards, bool divided, size_t *number, bool first,
                      struct range *range)
{
    const size_t ranks = (size_t)shards->ranks;
    *number = first ? (divided ? (size_t)shards->rank : 0) : *number + (divided ? ranks : 1);
    if (*number >= shards->buckets * ranks)
        return false;
    *range = shards_unit(shards, *number / ranks, (int)(*number % ranks));
    return range_count(*range) > 0;
}

static void plan_units(struct optimizer *o)
{
    struct range range;
    size_t number;
    o->units = mem_calloc(o->shards.buckets * (size_t)o->shards.ranks, sizeof(*o->units));
    for (bool more = next_unit(&o->shards, o->divided, &number, true, &range); more;
         more = next_unit(&o->shards, o->divided, &number, false, &range)) {
        struct optimizer_unit *unit = &o->units[o->unit_count++];
        unit->number = number;
        state_plan(model_trained_layout(o->model), o->options.form, range, &unit->state);
        o->remainder_bytes += unit->state.remainder_bytes;
        o->moment_bytes += unit->state.bytes - unit->state.remainder_bytes;
    }
}

struct optimizer_bytes optimizer_bytes_needed(const struct layout *layout,
                                              const struct shards *shards, bool divided,
                                              struct state_form form)
{
    struct optimizer_bytes bytes = {.weights = shards->elements * dtype_bytes(form.weights)};
    struct range range;
    size_t number;
    for (bool more = next_unit(shards, divided, &number, true, &range); more;
         more = next_unit(shards, divided, &number, false, &range)) {
        struct state state;
        state_plan(layout, form, range, &state);
        bytes.remainder += state.remainder_bytes;
        bytes.moments += state.bytes - state.remainder_bytes;
        state_release(&state);
    }
    const size_t bucket = shards->unit * (size_t)shards->ranks;
    if (divided && shards_padded_elements(shards) != shards->elements)
        bytes.exchange = bucket * dtype_bytes(form.weights);
    if (form.weights == DTYPE_BF16)
        bytes.conversion = (shards->elements + bucket) * sizeof(float) + bytes.weights +
                           bytes.remainder + bytes.exchange;
    return bytes;
}

// Cuts pieces of master weights in two halves; the remainders of own units go to their blocks.
static int split_piece(struct optimizer *o, struct tensor upper, struct range piece,
                       struct error *err)
{
    struct device *device = o->model->device;
    const size_t count = (size_t)range_count(piece);
    uint32_t bits[PIECE_ELEMENTS];
    uint16_t halves[PIECE_ELEMENTS];
    int16_t remainders[PIECE_ELEMENTS];
    if (device_copy_out(device, bits, (const float *)o->model->weights.data + piece.begin,
                        count * sizeof(float), err))
        return -1;
    for (size_t i = 0; i < count; i++) {
        halves[i] = master_upper(bits[i]);
        remainders[i] = master_remainder(bits[i]);
    }
    device_copy_in(device, (uint16_t *)upper.data + piece.begin, halves, count * sizeof(*halves));
    for (size_t u = 0; u < o->unit_count; u++) {
        const struct range unit = o->units[u].state.range;
        const uint64_t begin = piece.begin > unit.begin ? piece.begin : unit.begin;
        const uint64_t end = piece.end < unit.end ? piece.end : unit.end;
        if (begin < end)
            device_copy_in(device,
                           o->units[u].place.remainder + (begin - unit.begin) * sizeof(*remainders),
                           remainders + (begin - piece.begin), (end - begin) * sizeof(*remainders));
    }
    return 0;
}

static int narrow(struct optimizer *o, struct error *err)
{
    struct model *model = o->model;
    const uint64_t elements = model->layout.elements;
    struct tensor upper = {.dtype = DTYPE_BF16};
    if (device_alloc(model->device, elements * sizeof(uint16_t), &upper.data, err))
        return -1;
    for (uint64_t at = 0; at < elements; at += PIECE_ELEMENTS) {
        const uint64_t left = elements - at;
        const uint64_t end = at + (left < PIECE_ELEMENTS ? left : PIECE_ELEMENTS);
        if (split_piece(o, upper, (struct range){at, end}, err)) {
            device_free(model->device, upper.data);
            return -1;
        }
    }
    model_replace_weights(model, upper);
    return 0;
}

static int allocate_remainders(struct optimizer *o, struct error *err)
{
    size_t at = 0;
    if (device_alloc(o->model->device, o->remainder_bytes, (void **)&o->place.remainder, err))
        return -1;
    for (size_t u = 0; u < o->unit_count; u++) {
        o->units[u].place.remainder = o->place.remainder + at;
        at += o->units[u].state.remainder_bytes;
    }
    return 0;
}

static int allocate_moments(struct optimizer *o, struct error *err)
{
    struct device *device = o->model->device;
    size_t at = 0;
    if (device_alloc(device, o->moment_bytes, (void **)&o->place.moments, err))
        return -1;
    for (size_t u = 0; u < o->unit_count; u++) {
        o->units[u].place.moments = o->place.moments + at;
        at += o->units[u].state.bytes - o->units[u].state.remainder_bytes;
    }
    const size_t bucket = o->shards.unit * (uint64_t)o->shards.ranks;
    if (o->divided && shards_padded_elements(&o->shards) != o->shards.elements)
        return device_alloc(device, bucket * dtype_bytes(o->options.form.weights), &o->exchange,
                            err);
    return 0;
}

static bool is_plain(struct state_form form)
{
    return form.weights == DTYPE_F32 && form.moments == MOMENTS_F32;
}

int optimizer_create(struct model *model, struct group *group, struct group *device_group,
                     const struct shards *shards, bool divided,
                     const struct optimizer_options *options, struct optimizer **out,
                     struct error *err)
{
    assert(model_trained_weights(model).dtype == DTYPE_F32);
    assert(!model->lora || options->form.weights == DTYPE_F32);
    *out = NULL;
    if (!is_plain(options->form) && !model->device->ops->adamw_compact)
        return error_set(err, "backend '%s' keeps weights and moments in f32 only",
                         model->device->ops->name);
    struct optimizer *o = mem_calloc(1, sizeof(*o));
    o->model = model;
    o->group = group;
    o->device_group = device_group;
    o->options = *options;
    o->shards = *shards;
    o->divided = divided;
    plan_units(o);
    // Weights are there in float32 and in halves for a moment; the moments come afterwards.
    if (allocate_remainders(o, err) || (options->form.weights == DTYPE_BF16 && narrow(o, err)) ||
        allocate_moments(o, err)) {
        optimizer_destroy(o);
        return -1;
    }
    *out = o;
    return 0;
}

void optimizer_destroy(struct optimizer *optimizer)
{
    if (!optimizer)
        return;
    for (size_t u = 0; u < optimizer->unit_count; u++)
        state_release(&optimizer->units[u].state);
    device_free(optimizer->model->device, optimizer->place.remainder);
    device_free(optimizer->model->device, optimizer->place.moments);
    free(optimizer->units);
    device_free(optimizer->model->device, optimizer->exchange);
    free(optimizer);
}

static struct tensor element_at(struct tensor tensor, uint64_t element)
{
    tensor.data = (char *)tensor.data + element * dtype_bytes(tensor.dtype);
    return tensor;
}

static struct tensor weights_at(const struct optimizer *o, uint64_t element)
{
    return element_at(model_trained_weights(o->model), element);
}

// The gradients of a run, of which `unit` has those of its unit.
static struct tensor run_grads(const struct state_run *run, const float *vectors,
                               struct tensor unit, uint64_t before)
{
    if (vectors && !run->decays)
        return (struct tensor){(void *)(uintptr_t)(vectors + run->vector), DTYPE_F32};
    return element_at(unit, before);
}

// By their place in the block.
static void *moments_at(const struct optimizer_unit *unit, size_t bytes)
{
    return unit->place.moments + (bytes - unit->state.remainder_bytes);
}

static void step_run(struct optimizer *o, const struct optimizer_unit *unit,
                     const struct state_run *run, const float *vectors, struct adamw_compact step)
{
    struct device *device = o->model->device;
    const uint64_t before = run->range.begin - unit->state.range.begin;
    step.parameter = weights_at(o, run->range.begin);
    step.grad = run_grads(run, vectors, step.grad, before);
    step.moment1 = moments_at(unit, run->moment1);
    step.moment2 = moments_at(unit, run->moment2);
    step.count = (size_t)range_count(run->range);
    step.weight_decay = run->decays ? step.weight_decay : 0;
    if (step.parameter.dtype == DTYPE_F32 && run->moments == MOMENTS_F32 &&
        step.grad.dtype == DTYPE_F32) {
        device->ops->adamw(device, &(struct adamw){.parameter = step.parameter.data,
                                                   .moment1 = step.moment1,
                                                   .moment2 = step.moment2,
                                                   .grad = step.grad.data,
                                                   .count = step.count,
                                                   .grad_scale = step.grad_scale,
                                                   .learning_rate = step.learning_rate,
                                                   .beta1 = step.beta1,
                                                   .beta2 = step.beta2,
                                                   .epsilon = step.epsilon,
                                                   .weight_decay = step.weight_decay,
                                                   .step = step.step});
        return;
    }
    if (step.parameter.dtype == DTYPE_BF16)
        step.remainder = (int16_t *)(void *)unit->place.remainder + before;
    step.moments = run->moments;
    if (run->moments == MOMENTS_8BIT) {
        step.scale1 = moments_at(unit, run->scale1);
        step.scale2 = moments_at(unit, run->scale2);
    }
    step.first = run->range.begin;
    device->ops->adamw_compact(device, &step);
}

static void copy(struct device *device, void *out, const void *in, size_t bytes)
{
    if (device)
        device_copy(device, out, in, bytes);
    else
        memcpy(out, in, bytes);
}

// All ranks' parts of one array of the model, `bytes` an element, each having written its own unit
// of it. The last bucket has no room behind it. device: the one that has the array; NULL: the host.
static int exchange(struct optimizer *o, struct device *device, char *array, size_t bytes,
                    void *incomplete, struct error *err)
{
    const struct shards *shards = &o->shards;
    struct group *group = device ? o->device_group : o->group;
    const size_t unit_bytes = shards->unit * bytes;
    const size_t whole = unit_bytes * (size_t)shards->ranks;
    for (size_t b = 0; b < shards->buckets; b++) {
        const struct range bucket = shards_bucket(shards, b);
        const struct range own = shards_unit(shards, b, shards->rank);
        char *place = array + bucket.begin * bytes;
        const size_t place_bytes = range_count(bucket) * bytes;
        char *out = place_bytes < whole ? incomplete : place;
        char *in = out + (size_t)shards->rank * unit_bytes;
        if (out != place)
            copy(device, in, array + own.begin * bytes, range_count(own) * bytes);
        if (group_all_gather(group, out, in, unit_bytes, err))
            return -1;
        if (out != place)
            copy(device, place, out, place_bytes);
    }
    return 0;
}

int optimizer_step(struct optimizer *o, struct optimizer_grads grads, double grad_scale,
                   double rate, int64_t step, struct error *err)
{
    struct adamw_compact common = {
        .grad_scale = (float)grad_scale,
        .learning_rate = (float)rate,
        .beta1 = (float)o->options.beta1,
        .beta2 = (float)o->options.beta2,
        .epsilon = (float)o->options.epsilon,
        .weight_decay = (float)o->options.weight_decay,
        .step = step,
    };
    for (size_t u = 0; u < o->unit_count; u++) {
        common.grad = grads.units[u];
        for (size_t r = 0; r < o->units[u].state.run_count; r++)
            step_run(o, &o->units[u], &o->units[u].state.runs[r], grads.vectors, common);
    }
    if (device_sync(o->model->device, err))
        return -1;
    if (!o->divided || o->shards.ranks == 1)
        return 0;
    return exchange(o, o->model->device, weights_at(o, 0).data,
                    dtype_bytes(o->options.form.weights), o->exchange, err);
}

// Master weights need no moments, which may be gone.
static int copy_block_out(struct device *device, const struct optimizer_unit *unit,
                          enum state_part part, unsigned char *block, struct error *err)
{
    const struct state *state = &unit->state;
    return part == STATE_MASTER
               ? device_copy_out(device, block, unit->place.remainder, state->remainder_bytes, err)
               : state_copy_out(device, state, unit->place, block, err);
}

static int decode_unit(struct optimizer *o, const struct optimizer_unit *unit, enum state_part part,
                       float *out, struct error *err)
{
    struct device *device = o->model->device;
    const struct range range = unit->state.range;
    const size_t weight_bytes = range_count(range) * dtype_bytes(o->options.form.weights);
    unsigned char *block = mem_alloc(unit->state.bytes);
    void *weights = mem_alloc(weight_bytes);
    int rc =
        copy_block_out(device, unit, part, block, err) ||
                device_copy_out(device, weights, weights_at(o, range.begin).data, weight_bytes, err)
            ? -1
            : 0;
    if (rc == 0)
        state_decode(&unit->state, block, weights, part, out);
    free(block);
    free(weights);
    return rc;
}

int optimizer_gather(struct optimizer *o, enum state_part part, float *out, struct error *err)
{
    int rc = 0;
    for (size_t u = 0; rc == 0 && u < o->unit_count; u++)
        rc = decode_unit(o, &o->units[u], part, out + o->units[u].state.range.begin, err);
    if (!o->divided || o->shards.ranks == 1)
        return rc;
    if (group_agree(o->group, rc, err))
        return -1;
    float *incomplete = mem_alloc(o->shards.unit * (uint64_t)o->shards.ranks * sizeof(float));
    rc = exchange(o, NULL, (char *)out, sizeof(float), incomplete, err);
    free(incomplete);
    return rc;
}

static int widen_unit(struct optimizer *o, const struct optimizer_unit *unit, float *weights,
                      struct error *err)
{
    const struct range range = unit->state.range;
    float *host = mem_alloc(range_count(range) * sizeof(*host));
    const int rc = decode_unit(o, unit, STATE_MASTER, host, err);
    if (rc == 0)
        device_copy_in(o->model->device, weights + range.begin, host,
                       range_count(range) * sizeof(*host));
    free(host);
    return rc;
}

// The new weights, of which this rank knows its own units; the other ranks' come next.
static int widen_own(struct optimizer *o, struct tensor *weights, void **incomplete,
                     struct error *err)
{
    struct model *model = o->model;
    const size_t bucket = o->shards.unit * (size_t)o->shards.ranks;
    int rc =
        device_alloc(model->device, model->layout.elements * sizeof(float), &weights->data, err) ||
                device_alloc(model->device, bucket * sizeof(float), incomplete, err)
            ? -1
            : 0;
    for (size_t u = 0; rc == 0 && u < o->unit_count; u++)
        rc = widen_unit(o, &o->units[u], weights->data, err);
    return rc == 0 ? device_sync(model->device, err) : -1;
}

int optimizer_widen(struct optimizer *o, struct error *err)
{
    struct device *device = o->model->device;
    struct tensor weights = {.dtype = DTYPE_F32};
    void *incomplete = NULL;
    if (o->options.form.weights == DTYPE_F32)
        return 0;
    device_free(device, o->place.moments); // they make room for the weights
    o->place.moments = NULL;
    int rc = group_agree(o->group, widen_own(o, &weights, &incomplete, err), err);
    if (rc == 0 && o->divided && o->shards.ranks > 1)
        rc = exchange(o, device, weights.data, sizeof(float), incomplete, err) ||
                     device_sync(device, err)
                 ? -1
                 : 0;
    device_free(device, incomplete);
    if (rc == 0)
        model_replace_weights(o->model, weights);
    else
        device_free(device, weights.data);
    return rc;
}
