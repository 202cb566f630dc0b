// SPDX-License-Identifier: Apache-2.0
#include "jobs/cost_model.h"

#include "worker/model/layout.h"

#include <math.h>

#define VERDICT_TOKENS 10.0
#define NAME_TOKENS 8.0
#define CONSOLIDATE_BATCH 60.0 // of the built-in steps.json, as are the next three
#define ENTITY_BATCH 40.0
#define LOOKUP_PAIRS 8.0 // that hold a name
#define CROSS_BATCH 20.0
#define WEIGHT_BYTES 2.0 // bf16; so are gradients, keys and values
#define REMAINDER_BYTES 2.0

const struct cost_hardware cost_hardware_rows[] = {
    {"h200", 150.8e9, 780e12, 4.3e12, "measured: bf16 products 770-800 TFLOP/s, copies 4.3 TB/s"},
    {"h100", 85.0e9, 700e12, 3.0e12,
     "data sheet (SXM): 989 TFLOP/s, 3.35 TB/s, less what the H200 "
     "loses of its own"},
    {"a100", 85.0e9, 270e12, 1.8e12,
     "data sheet (80 GB SXM): 312 TFLOP/s, 2.0 TB/s, less likewise"},
};
const size_t cost_hardware_count = sizeof(cost_hardware_rows) / sizeof(cost_hardware_rows[0]);

#define ROW(field, fallback, meaning)                                                              \
    {                                                                                              \
#field, offsetof(struct cost_assumptions, field), fallback, meaning                        \
    }
const struct cost_assumption cost_assumption_rows[] = {
    ROW(tokens_per_word, 1.33, "tokens of a word of English"),
    ROW(direct, 8,
        "step 1a: pairs per 1,000 tokens of text (the paper names some 640 k pairs of a corpus)"),
    ROW(indirect, 4, "step 1b: likewise"),
    ROW(composite, 3, "step 2: likewise"),
    ROW(pair, 60, "tokens of a pair as JSON"),
    ROW(composite_tokens, 120, "tokens of a composite or cross-document pair"),
    ROW(instruction, 500, "tokens of a step's instruction"),
    ROW(failing, 0.25, "step 3: share of the pairs that is rewritten and judged again"),
    ROW(kept, 0.95, "step 3: share of the pairs that is kept"),
    ROW(names, 0.25, "step 4: names per verified pair"),
    ROW(lookups, 0.7, "step 4: pairs per name"),
    ROW(anchors, 64, "step 5: pairs of a group that are compared"),
    ROW(batches, 8, "step 5: batches of 20 pairs that each is compared with"),
    ROW(cross, 0.2, "step 5: pairs per comparison"),
    ROW(group_chunks, 6, "chunks of a group (a corpus says it itself)"),
    ROW(grouped, 0.7, "share of the chunks that is in a group (likewise)"),
    ROW(prefill_share, 0.5, "of the hardware's FLOP/s, while prompts are read"),
    ROW(decode_share, 0.4, "of the hardware's bandwidth, while answers are written"),
    ROW(memory_share, 0.9, "of the hardware's memory, for weights, keys and values"),
    ROW(busy, 0.9, "share of the wall time in which a GPU works (starts, stragglers)"),
    ROW(trained, 120, "tokens of a pair with its chat template"),
    ROW(mfu, 0.4, "share of the hardware's FLOP/s that training reaches"),
    ROW(stored, 600, "bytes of a pair on disk"),
};
const size_t cost_assumption_count = sizeof(cost_assumption_rows) / sizeof(cost_assumption_rows[0]);

double *cost_assumption_value(const struct cost_assumption *row, struct cost_assumptions *values)
{
    return (double *)((char *)values + row->offset);
}

void cost_assumptions_default(struct cost_assumptions *out)
{
    for (size_t i = 0; i < cost_assumption_count; i++)
        *cost_assumption_value(&cost_assumption_rows[i], out) = cost_assumption_rows[i].fallback;
}

void cost_model_shape(const struct model_config *config, struct cost_model *out)
{
    struct layout layout;
    double attention_layers = 0;
    layout_create(config, &layout);
    for (int64_t l = 0; l < config->layers; l++)
        attention_layers += config->layer_kinds[l] != LAYER_CONV;
    *out = (struct cost_model){.parameters = (double)layout.elements,
                               .weight_bytes = WEIGHT_BYTES * (double)layout.elements,
                               .kv_bytes = WEIGHT_BYTES * 2 * attention_layers *
                                           (double)config->kv_heads * (double)config->head_width,
                               .activation_bytes =
                                   WEIGHT_BYTES * (double)config->layers * (double)config->hidden};
    layout_release(&layout);
}

// What the steps of one chunk take; pairs that are verified are in steps[STEP_VERIFY].pairs.
static void chunk_steps(double tokens, const struct cost_assumptions *a, struct cost_step *steps)
{
    const double direct = a->direct * tokens / 1000, indirect = a->indirect * tokens / 1000;
    const double composite = a->composite * tokens / 1000;
    const double facts = direct + indirect, judged = facts + composite;
    const double failing = a->failing * judged, verified = a->kept * judged;
    const double mean = (facts * a->pair + composite * a->composite_tokens) / fmax(judged, 1e-9);
    const double merges = ceil(facts / CONSOLIDATE_BATCH), lists = ceil(verified / ENTITY_BATCH);
    const double names = a->names * verified;
    const double judgements = judged + failing;
    steps[STEP_DIRECT] =
        (struct cost_step){1, a->instruction + tokens, 0, direct * a->pair, direct};
    steps[STEP_INDIRECT] =
        (struct cost_step){1, a->instruction + tokens, tokens, indirect * a->pair, indirect};
    steps[STEP_CONSOLIDATE] = (struct cost_step){merges, merges * a->instruction + facts * a->pair,
                                                 0, composite * a->composite_tokens, composite};
    steps[STEP_VERIFY] = (struct cost_step){
        judgements + failing,
        judgements * (a->instruction + mean) + failing * (a->instruction + tokens + mean),
        judgements * a->instruction + failing * (a->instruction + tokens),
        judgements * VERDICT_TOKENS + failing * mean, verified};
    steps[STEP_ENTITY] = (struct cost_step){
        lists + names,
        lists * a->instruction + verified * mean + names * (a->instruction + LOOKUP_PAIRS * mean),
        names * a->instruction, names * NAME_TOKENS + names * a->lookups * a->pair,
        names * a->lookups};
}

static struct cost_step group_step(double verified, double chunks, const struct cost_assumptions *a)
{
    const double anchors = fmin(a->anchors, verified);
    const double others = verified * (chunks - 1) / fmax(chunks, 1);
    const double batches = fmin(a->batches, ceil(others / CROSS_BATCH));
    const double requests = anchors * batches;
    const double list = a->instruction + CROSS_BATCH * a->pair;
    return (struct cost_step){requests, requests * (list + a->pair),
                              fmax(requests - chunks * batches, 0) * list,
                              requests * a->cross * a->composite_tokens, requests * a->cross};
}

static void add_scaled(struct cost_step *sum, const struct cost_step *step, double times)
{
    sum->requests += times * step->requests;
    sum->prompt_tokens += times * step->prompt_tokens;
    sum->cached_tokens += times * step->cached_tokens;
    sum->output_tokens += times * step->output_tokens;
    sum->pairs += times * step->pairs;
}

static void count_steps(const struct cost_text *text, const struct cost_assumptions *a,
                        unsigned chosen, struct cost_generation *out)
{
    struct cost_step chunk[REFLECTION_STEPS] = {{0}};
    const bool crosses = chosen & (1u << STEP_CROSS);
    const double groups =
        text->groups >= 0 ? text->groups : text->chunks * a->grouped / a->group_chunks;
    chunk_steps(text->tokens / fmax(text->chunks, 1), a, chunk);
    for (int s = STEP_DIRECT; s < STEP_CROSS; s++) {
        if (chosen & (1u << s))
            add_scaled(&out->steps[s], &chunk[s], text->chunks);
    }
    const struct cost_step group =
        group_step(chunk[STEP_VERIFY].pairs * a->group_chunks, a->group_chunks, a);
    if (crosses)
        add_scaled(&out->steps[STEP_CROSS], &group, groups);
    out->tasks = text->chunks + (crosses ? groups : 0);
    for (int s = STEP_DIRECT; s < REFLECTION_STEPS; s++)
        add_scaled(&out->all, &out->steps[s], 1);
    // what step 3 kept are the pairs of the steps before it
    const double verified = out->steps[STEP_VERIFY].pairs;
    out->all.pairs =
        out->steps[STEP_ENTITY].pairs + out->steps[STEP_CROSS].pairs +
        (verified > 0 ? verified
                      : out->steps[STEP_DIRECT].pairs + out->steps[STEP_INDIRECT].pairs +
                            out->steps[STEP_CONSOLIDATE].pairs);
}

static int find_rates(const struct cost_assumptions *a, const struct cost_model *model,
                      const struct cost_hardware *hardware, struct cost_generation *out,
                      struct error *err)
{
    const double requests = fmax(out->all.requests, 1);
    const double room = a->memory_share * hardware->memory_bytes - model->weight_bytes;
    const double flops = a->prefill_share * hardware->flops;
    out->context = (out->all.prompt_tokens + out->all.output_tokens / 2) / requests;
    out->batch = floor(room / (model->kv_bytes * out->context));
    if (room <= 0 || out->batch < 1)
        return error_set(err,
                         "%.1f GB of weights and a sequence of %.0f tokens do not fit in %.0f%% of "
                         "the %.1f GB of one '%s': name hardware with more memory or a smaller "
                         "model",
                         model->weight_bytes / 1e9, out->context, 100 * a->memory_share,
                         hardware->memory_bytes / 1e9, hardware->name);
    const double read = (model->weight_bytes + out->batch * out->context * model->kv_bytes) /
                        (a->decode_share * hardware->bandwidth);
    const double computed = out->batch * 2 * model->parameters / flops;
    out->prefill_rate = flops / (2 * model->parameters);
    out->decode_rate = out->batch / fmax(read, computed);
    return 0;
}

int cost_generate(const struct cost_text *text, const struct cost_assumptions *a,
                  const struct cost_model *model, const struct cost_hardware *hardware,
                  unsigned steps, double rate_in, double rate_out, struct cost_generation *out,
                  struct error *err)
{
    *out = (struct cost_generation){0};
    count_steps(text, a, steps, out);
    out->disk_bytes = out->all.pairs * a->stored;
    if ((rate_in <= 0 || rate_out <= 0) && find_rates(a, model, hardware, out, err))
        return -1;
    out->prefill_rate = rate_in > 0 ? rate_in : out->prefill_rate;
    out->decode_rate = rate_out > 0 ? rate_out : out->decode_rate;
    const double read = out->all.prompt_tokens - out->all.cached_tokens;
    out->gpu_hours =
        (read / out->prefill_rate + out->all.output_tokens / out->decode_rate) / a->busy / 3600;
    return 0;
}

// Of a parameter: weights and gradients on every rank, remainders and moments divided by ZeRO-1,
// gradients too by ZeRO-2.
static double bytes_per_parameter(const struct cost_training_options *options)
{
    const double states = REMAINDER_BYTES + options->moment_bytes;
    const double gradients = WEIGHT_BYTES;
    return WEIGHT_BYTES + (options->zero >= 2 ? gradients / options->gpus : gradients) +
           (options->zero >= 1 ? states / options->gpus : states);
}

void cost_train(const struct cost_training_options *options, const struct cost_assumptions *a,
                const struct cost_model *model, const struct cost_hardware *hardware,
                struct cost_training *out)
{
    const double state_bytes = WEIGHT_BYTES + REMAINDER_BYTES + options->moment_bytes;
    *out = (struct cost_training){.pairs = options->pairs,
                                  .tokens = options->pairs * a->trained * options->epochs};
    out->flops = 6 * model->parameters * out->tokens;
    out->gpu_hours = out->flops / (a->mfu * hardware->flops) / 3600;
    out->memory_bytes = model->parameters * bytes_per_parameter(options);
    out->activation_bytes = model->activation_bytes * options->micro_tokens;
    out->disk_bytes = model->parameters * (state_bytes * (options->checkpoints + 1) + WEIGHT_BYTES);
}
