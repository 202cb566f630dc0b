// SPDX-License-Identifier: Apache-2.0
#include "worker/train/state.h"

#include "base/mem.h"
#include "kernels/moment_code.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 64, SMALL_ELEMENTS = 4096 };

const char *moment_kind_name(enum moment_kind kind)
{
    return kind == MOMENTS_F32 ? "f32" : kind == MOMENTS_BF16 ? "bf16" : "8bit";
}

int state_form_parse(const char *weights, const char *moments, struct state_form *out,
                     struct error *err)
{
    for (int w = 0; w < 2; w++) {
        for (int m = MOMENTS_F32; m <= MOMENTS_8BIT; m++) {
            *out = (struct state_form){.weights = w ? DTYPE_BF16 : DTYPE_F32,
                                       .moments = (enum moment_kind)m};
            if (strcmp(weights, dtype_name(out->weights)) == 0 &&
                strcmp(moments, moment_kind_name(out->moments)) == 0)
                return 0;
        }
    }
    return error_set(err,
                     "weights in '%s' and moments in '%s': give f32 or bf16, and f32, bf16 or "
                     "8bit",
                     weights, moments);
}

static size_t take(size_t *used, size_t bytes)
{
    const size_t at = *used;
    *used += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return at;
}

static size_t moment_bytes(enum moment_kind moments)
{
    return moments == MOMENTS_F32 ? 4 : moments == MOMENTS_BF16 ? 2 : 1;
}

static enum moment_kind moments_of(const struct parameter *p, enum moment_kind wanted)
{
    if (!p->decays || p->count < SMALL_ELEMENTS)
        return MOMENTS_F32;
    return wanted == MOMENTS_8BIT && p->kind == PARAM_EMBEDDING ? MOMENTS_F32 : wanted;
}

static void place_run(struct state_run *run, size_t *used)
{
    const uint64_t count = range_count(run->range);
    const size_t bytes = (size_t)count * moment_bytes(run->moments);
    const size_t scales = moment_blocks(run->range.begin, (size_t)count) * sizeof(float);
    run->moment1 = take(used, bytes);
    run->moment2 = take(used, bytes);
    if (run->moments != MOMENTS_8BIT)
        return;
    run->scale1 = take(used, scales);
    run->scale2 = take(used, scales);
}

static struct range common_range(struct range a, struct range b)
{
    const uint64_t begin = a.begin > b.begin ? a.begin : b.begin;
    const uint64_t end = a.end < b.end ? a.end : b.end;
    return (struct range){begin, end > begin ? end : begin};
}

// Appends the parameter's part of the range, to the last run if that is of its kind.
static void add_parameter(struct state *state, const struct parameter *p, enum moment_kind wanted)
{
    const struct range part =
        common_range(state->range, (struct range){p->offset, p->offset + p->count});
    struct state_run *last = state->run_count ? &state->runs[state->run_count - 1] : NULL;
    const enum moment_kind moments = moments_of(p, wanted);
    if (range_count(part) == 0)
        return;
    if (last && last->decays == p->decays && last->moments == moments)
        last->range.end = part.end;
    else
        state->runs[state->run_count++] =
            (struct state_run){.range = part,
                               .decays = p->decays,
                               .vector = p->vector_offset + (part.begin - p->offset),
                               .moments = moments};
}

void state_plan(const struct layout *layout, struct state_form form, struct range range,
                struct state *out)
{
    *out = (struct state){.range = range, .weights = form.weights};
    out->runs = mem_calloc(layout->parameter_count, sizeof(*out->runs));
    for (size_t i = 0; i < layout->parameter_count; i++)
        add_parameter(out, &layout->parameters[i], form.moments);
    if (form.weights == DTYPE_BF16)
        take(&out->bytes, (size_t)range_count(range) * sizeof(int16_t));
    out->remainder_bytes = out->bytes;
    for (size_t i = 0; i < out->run_count; i++)
        place_run(&out->runs[i], &out->bytes);
}

void state_release(struct state *state)
{
    free(state->runs);
    *state = (struct state){0};
}

// Elements of both arrays, which begin at elements to_begin and from_begin of the model.
static void copy_elements(struct device *device, struct range common, size_t bytes,
                          unsigned char *to, uint64_t to_begin, const unsigned char *from,
                          uint64_t from_begin)
{
    device_copy_in(device, to + (common.begin - to_begin) * bytes,
                   from + (common.begin - from_begin) * bytes, range_count(common) * bytes);
}

// moments: where the block's bytes from remainder_bytes on are.
static void copy_run(struct device *device, const struct state_run *to, unsigned char *moments,
                     size_t remainder_bytes, const struct state_run *from,
                     const unsigned char *from_block)
{
    const struct range common = common_range(to->range, from->range);
    if (range_count(common) == 0)
        return;
    assert(to->moments == from->moments);
    const size_t bytes = moment_bytes(to->moments);
    const size_t to_at[] = {to->moment1, to->moment2, to->scale1, to->scale2};
    const size_t from_at[] = {from->moment1, from->moment2, from->scale1, from->scale2};
    for (int i = 0; i < 2; i++)
        copy_elements(device, common, bytes, moments + (to_at[i] - remainder_bytes),
                      to->range.begin, from_block + from_at[i], from->range.begin);
    const struct range blocks = {common.begin / MOMENT_BLOCK,
                                 (common.end + MOMENT_BLOCK - 1) / MOMENT_BLOCK};
    for (int i = 2; i < 4 && to->moments == MOMENTS_8BIT; i++)
        copy_elements(device, blocks, sizeof(float), moments + (to_at[i] - remainder_bytes),
                      to->range.begin / MOMENT_BLOCK, from_block + from_at[i],
                      from->range.begin / MOMENT_BLOCK);
}

void state_copy_in(struct device *device, const struct state *to, struct state_place place,
                   const struct state *from, const unsigned char *from_block)
{
    const struct range common = common_range(to->range, from->range);
    assert(to->weights == from->weights);
    if (to->weights == DTYPE_BF16)
        copy_elements(device, common, sizeof(int16_t), place.remainder, to->range.begin, from_block,
                      from->range.begin);
    for (size_t i = 0; i < to->run_count; i++) {
        for (size_t j = 0; j < from->run_count; j++)
            copy_run(device, &to->runs[i], place.moments, to->remainder_bytes, &from->runs[j],
                     from_block);
    }
}

int state_copy_out(struct device *device, const struct state *state, struct state_place place,
                   unsigned char *block, struct error *err)
{
    return device_copy_out(device, block, place.remainder, state->remainder_bytes, err) ||
                   device_copy_out(device, block + state->remainder_bytes, place.moments,
                                   state->bytes - state->remainder_bytes, err)
               ? -1
               : 0;
}

static void decode_master(const struct state *state, const unsigned char *block,
                          const void *weights, float *out)
{
    const size_t count = (size_t)range_count(state->range);
    if (state->weights == DTYPE_F32) {
        memcpy(out, weights, count * sizeof(*out));
        return;
    }
    const uint16_t *upper = weights;
    const int16_t *remainder = (const int16_t *)(const void *)block;
    for (size_t i = 0; i < count; i++) {
        const uint32_t bits = master_bits(upper[i], remainder[i]);
        memcpy(&out[i], &bits, sizeof(bits));
    }
}

static void decode_moment(const struct state_run *run, const unsigned char *block, bool second,
                          float *out)
{
    const unsigned char *values = block + (second ? run->moment2 : run->moment1);
    const size_t count = (size_t)range_count(run->range);
    if (run->moments != MOMENTS_8BIT) {
        convert_to_f32(out, values, run->moments == MOMENTS_F32 ? DTYPE_F32 : DTYPE_BF16, count);
        return;
    }
    const struct moment_code *code = second ? moment_code_second() : moment_code_first();
    const float *scales =
        (const float *)(const void *)(block + (second ? run->scale2 : run->scale1));
    const size_t before = (size_t)(run->range.begin % MOMENT_BLOCK);
    for (size_t i = 0; i < count; i++)
        out[i] = code->values[values[i]] * scales[(before + i) / MOMENT_BLOCK];
}

void state_decode(const struct state *state, const unsigned char *block, const void *weights,
                  enum state_part part, float *out)
{
    if (part == STATE_MASTER) {
        decode_master(state, block, weights, out);
        return;
    }
    for (size_t i = 0; i < state->run_count; i++)
        decode_moment(&state->runs[i], block, part == STATE_MOMENT2,
                      out + (state->runs[i].range.begin - state->range.begin));
}
