// SPDX-License-Identifier: Apache-2.0
// A quote for people, and as JSON: format "memo quote 1", text, assumptions, generation, training.
#include "base/clock.h"
#include "base/json.h"
#include "jobs/plan.h"

#include <stdio.h>

static void print_count(double value)
{
    if (value >= 1e9)
        printf("  %8.2f G", value / 1e9);
    else if (value >= 1e6)
        printf("  %8.2f M", value / 1e6);
    else
        printf("  %8.0f  ", value);
}

static void print_step(const char *name, const struct cost_step *step)
{
    printf("  %-5s", name);
    print_count(step->requests);
    print_count(step->prompt_tokens);
    print_count(step->cached_tokens);
    print_count(step->output_tokens);
    print_count(step->pairs);
    printf("\n");
}

static void print_hours(const char *what, double gpu_hours, double gpus, double stated)
{
    char wall[32];
    clock_format_duration(gpu_hours / gpus * 3600, wall, sizeof(wall));
    printf("%s: %.4g GPU-hours, %s on %.0f at once", what, gpu_hours, wall, gpus);
    if (stated > 0)
        printf(" (the paper's authors state about %.0f)", stated);
    printf("\n");
}

static void print_generation(const struct quote *quote)
{
    const struct cost_generation *g = &quote->generation;
    const struct plan_options *options = quote->options;
    printf("text: %.0f chunks, %.4g M tokens\n", quote->text.chunks, quote->text.tokens / 1e6);
    printf("generation with %s on %s: %.0f tasks\n\n", options->model, quote->hardware.name,
           g->tasks);
    printf("  step   requests    prompt tokens  of it cached  output tokens  pairs\n");
    for (int s = STEP_DIRECT; s < REFLECTION_STEPS; s++) {
        if (g->steps[s].requests > 0)
            print_step(reflection_step_name((enum reflection_step)s), &g->steps[s]);
    }
    print_step("all", &g->all);
    printf("\n");
    if (quote->measured)
        printf("hours and pairs: those of '%s', in proportion to the text\n", options->measured);
    else
        printf("of one GPU: %.0f prompt tokens/s, %.0f output tokens/s%s\n", g->prefill_rate,
               g->decode_rate, options->rate_in > 0 && options->rate_out > 0 ? ", as given" : "");
    if (g->batch > 0)
        printf(
            "memory of one GPU: weights %.1f GB, and %.0f sequences of %.0f tokens at %.3g MB each\n",
            quote->generator.weight_bytes / 1e9, g->batch, g->context,
            g->context * quote->generator.kv_bytes / 1e6);
    print_hours("generation", g->gpu_hours, options->gpus,
                options->example ? CASE_GENERATION_HOURS : 0);
    printf("reflections: %.0f pairs, %.2f GB on disk\n", g->all.pairs, g->disk_bytes / 1e9);
}

static void print_training(const struct quote *quote)
{
    const struct cost_training *t = &quote->training;
    const struct plan_options *options = quote->options;
    const double needed = t->memory_bytes + t->activation_bytes;
    printf("\ntraining of %s (%.2f G parameters): %.3g epochs, %.4g M tokens, %.3g FLOP\n",
           options->memory_model, quote->memory.parameters / 1e9, options->epochs, t->tokens / 1e6,
           t->flops);
    printf(
        "memory of one GPU: %.1f GB of states (--zero %d, --moments %s, --grad-dtype %s) "
        "and %.1f GB of activations%s\n",
        t->memory_bytes / 1e9, (int)options->zero, options->moments, options->grad_dtype,
        t->activation_bytes / 1e9,
        needed > quote->hardware.memory_bytes
            ? ": DOES NOT FIT; more --gpus, --zero 2, --moments 8bit or --grad-dtype bf16 need less"
            : "");
    print_hours("training", t->gpu_hours, options->gpus,
                options->example ? CASE_TRAINING_HOURS : 0);
    printf("checkpoints and model: %.1f GB on disk\n", t->disk_bytes / 1e9);
}

static void print_assumptions(const struct quote *quote)
{
    const struct cost_hardware *h = &quote->hardware;
    printf(
        "\nassumed (--assume NAME=X replaces; --measured and --rate-in, --rate-out are better):\n");
    printf("  %-16s %8s  %.0f TFLOP/s, %.2f TB/s, %.1f GB: %s\n", "hardware", h->name,
           h->flops / 1e12, h->bandwidth / 1e12, h->memory_bytes / 1e9, h->source);
    if (quote->options->example)
        printf(
            "  %-16s %8.4g  M words: 355 stories of 62,528 words, the test part of NarrativeQA\n",
            "text", quote->text.words / 1e6);
    struct cost_assumptions values = quote->assume;
    for (size_t i = 0; i < cost_assumption_count; i++)
        printf("  %-16s %8.4g  %s\n", cost_assumption_rows[i].name,
               *cost_assumption_value(&cost_assumption_rows[i], &values),
               cost_assumption_rows[i].meaning);
}

void quote_print(const struct quote *quote)
{
    print_generation(quote);
    print_training(quote);
    print_assumptions(quote);
}

static void add_number(struct json_writer *w, const char *key, double value)
{
    json_key(w, key);
    json_number(w, value);
}

static void add_step(struct json_writer *w, const char *key, const struct cost_step *step)
{
    json_key(w, key);
    json_begin_object(w);
    add_number(w, "requests", step->requests);
    add_number(w, "prompt_tokens", step->prompt_tokens);
    add_number(w, "cached_tokens", step->cached_tokens);
    add_number(w, "output_tokens", step->output_tokens);
    add_number(w, "pairs", step->pairs);
    json_end_object(w);
}

static void add_generation(struct json_writer *w, const struct quote *quote)
{
    const struct cost_generation *g = &quote->generation;
    json_key(w, "generation");
    json_begin_object(w);
    json_key(w, "model");
    json_text(w, quote->options->model);
    add_number(w, "tasks", g->tasks);
    json_key(w, "steps");
    json_begin_object(w);
    for (int s = STEP_DIRECT; s < REFLECTION_STEPS; s++) {
        if (g->steps[s].requests > 0)
            add_step(w, reflection_step_name((enum reflection_step)s), &g->steps[s]);
    }
    json_end_object(w);
    add_step(w, "all", &g->all);
    add_number(w, "prompt_tokens_per_second", g->prefill_rate);
    add_number(w, "output_tokens_per_second", g->decode_rate);
    add_number(w, "weight_bytes", quote->generator.weight_bytes);
    add_number(w, "sequences", g->batch);
    add_number(w, "gpu_hours", g->gpu_hours);
    add_number(w, "wall_hours", g->gpu_hours / quote->options->gpus);
    add_number(w, "disk_bytes", g->disk_bytes);
    json_key(w, "measured");
    json_bool(w, quote->measured);
    json_end_object(w);
}

static void add_training(struct json_writer *w, const struct quote *quote)
{
    const struct cost_training *t = &quote->training;
    json_key(w, "training");
    json_begin_object(w);
    json_key(w, "model");
    json_text(w, quote->options->memory_model);
    add_number(w, "parameters", quote->memory.parameters);
    add_number(w, "pairs", t->pairs);
    add_number(w, "tokens", t->tokens);
    add_number(w, "flops", t->flops);
    add_number(w, "state_bytes", t->memory_bytes);
    add_number(w, "activation_bytes", t->activation_bytes);
    add_number(w, "gpu_hours", t->gpu_hours);
    add_number(w, "wall_hours", t->gpu_hours / quote->options->gpus);
    add_number(w, "disk_bytes", t->disk_bytes);
    json_end_object(w);
}

void quote_write_json(const struct quote *quote, struct strbuf *out)
{
    struct json_writer w = {.out = out};
    struct cost_assumptions values = quote->assume;
    json_begin_object(&w);
    json_key(&w, "format");
    json_text(&w, "memo quote 1");
    json_key(&w, "hardware");
    json_text(&w, quote->hardware.name);
    add_number(&w, "gpus", quote->options->gpus);
    json_key(&w, "text");
    json_begin_object(&w);
    add_number(&w, "chunks", quote->text.chunks);
    add_number(&w, "tokens", quote->text.tokens);
    json_end_object(&w);
    add_generation(&w, quote);
    add_training(&w, quote);
    json_key(&w, "assumptions");
    json_begin_object(&w);
    for (size_t i = 0; i < cost_assumption_count; i++)
        add_number(&w, cost_assumption_rows[i].name,
                   *cost_assumption_value(&cost_assumption_rows[i], &values));
    json_end_object(&w);
    json_end_object(&w);
    strbuf_addc(out, '\n');
}
