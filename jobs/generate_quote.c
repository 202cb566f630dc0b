// SPDX-License-Identifier: Apache-2.0
#include "jobs/generate_quote.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "jobs/cost_sources.h"
#include "jobs/language_model.h"
#include "worker/reflect/reflect.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ENGINE "engine:"
#define ASSUMED_GPU "h200" // memo plan --hardware has others

struct left {
    size_t tasks;
    size_t groups;
    struct cost_text text;
};

static struct left count_left(const struct generation *generation, const bool *restored)
{
    const struct task_plan *plan = &generation->plan;
    struct left left = {0};
    for (size_t t = 0; t < plan->count; t++) {
        const struct planned_task *task = &plan->tasks[t];
        if (restored[t])
            continue;
        left.tasks++;
        left.groups += task->member_count > 0;
        if (task->member_count == 0) {
            left.text.chunks++;
            left.text.tokens += generation->corpus->chunks[task->chunk].tokens;
        }
    }
    left.text.groups = generation->entities_follow ? -1 : (double)left.groups;
    return left;
}

static const char *short_number(double value, char out[32])
{
    static const char units[] = " kMGT";
    int unit = 0;
    for (; value >= 1000 && units[unit + 1]; unit++)
        value /= 1000;
    snprintf(out, 32, unit == 0 ? "%.0f" : "%.3g %c", value, units[unit]);
    return out;
}

// The published shape that a server's name of a model speaks of: "Qwen/Qwen2.5-32B-Instruct-AWQ" is
// qwen2.5-32b. Caller frees.
static char *shape_name(const char *served)
{
    const char *slash = strrchr(served, '/');
    char *name = mem_printf("%s", slash ? slash + 1 : served);
    for (char *c = name; *c; c++)
        *c = (char)tolower((unsigned char)*c);
    char *instruct = strstr(name, "-instruct");
    if (instruct)
        *instruct = '\0';
    return name;
}

static void say_cost(const struct generate_options *options, const struct cost_generation *cost,
                     bool cpu, double gpus)
{
    char wall[32];
    clock_format_duration(cost->gpu_hours / gpus * 3600, wall, sizeof(wall));
    if (cpu) {
        log_info("about %s on a machine like this one; memo plan lists what is assumed", wall);
        return;
    }
    log_info("about %.3g GPU-hours, %s on %g %s; memo plan lists what is assumed", cost->gpu_hours,
             wall, gpus, ASSUMED_GPU);
    if (options->max_gpu_hours > 0 && cost->gpu_hours > options->max_gpu_hours)
        log_warn("that is more than --max-gpu-hours %g, which will stop the run",
                 options->max_gpu_hours);
}

static void say_hours(const struct generate_options *options, const struct left *left,
                      unsigned steps, double gpus)
{
    const bool engine = strncmp(options->generator, ENGINE, strlen(ENGINE)) == 0;
    const bool cpu = engine && (!options->backend || strcmp(options->backend, "cuda") != 0);
    char *name =
        engine ? mem_printf("%s", options->generator + strlen(ENGINE)) : shape_name(options->model);
    struct cost_assumptions assume;
    struct cost_hardware hardware;
    struct cost_model model;
    struct cost_generation cost;
    struct error err;
    cost_assumptions_default(&assume);
    int rc = cost_model_read(name, &model, &err);
    if (rc != 0 && !engine)
        error_set(&err, "'%s' is not the name of a published shape; memo plan --model DIR quotes",
                  options->model);
    if (rc != 0 || cost_hardware_find(cpu ? "cpu" : ASSUMED_GPU, &hardware, &err) ||
        cost_generate(&left->text, &assume, &model, &hardware, steps, 0, 0, &cost, &err))
        log_info("no estimate of hours: %s", err.text);
    else
        say_cost(options, &cost, cpu, cpu ? 1 : gpus);
    free(name);
}

static void say_tokens(const struct left *left, unsigned steps)
{
    struct cost_assumptions assume;
    struct cost_generation cost;
    struct error err;
    char prompt[32], cached[32], output[32], pairs[32], bytes[32];
    cost_assumptions_default(&assume);
    if (cost_generate(&left->text, &assume, NULL, NULL, steps, 1, 1, &cost, &err))
        return;
    log_info("about %s prompt tokens (%s of them cached), %s output tokens, %s pairs, %sB",
             short_number(cost.all.prompt_tokens, prompt),
             short_number(cost.all.cached_tokens, cached),
             short_number(cost.all.output_tokens, output), short_number(cost.all.pairs, pairs),
             short_number(cost.disk_bytes, bytes));
}

void generate_quote_say(const struct generation *generation, const bool *restored, double gpus)
{
    const struct generate_options *options = generation->options;
    const struct left left = count_left(generation, restored);
    struct error err;
    unsigned steps;
    char tokens[32];
    log_info("to do: %zu of %zu tasks, %s tokens of text", left.tasks, generation->plan.count,
             short_number(left.text.tokens, tokens));
    if (left.tasks == 0 || strcmp(options->generator, "cloze") == 0 ||
        reflect_steps_parse(options->steps, &steps, &err))
        return;
    say_tokens(&left, steps);
    say_hours(options, &left, steps, gpus);
}
