// SPDX-License-Identifier: Apache-2.0
// memo inspect: what reflections look like, in numbers and in a few samples.
#include "base/json.h"
#include "base/mem.h"
#include "base/random.h"
#include "datasets/reflections_summary.h"
#include "datasets/reflections_tools.h"
#include "jobs/verbs.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SAMPLE_STREAM 0x696e7370 // of the random numbers that choose samples

struct inspect_options {
    int64_t samples;
    int64_t seed;
    bool json;
};

#define OPTION_AT(field) offsetof(struct inspect_options, field)

static const struct option inspect_option_table[] = {
    {"samples", OPTION_INT, OPTION_AT(samples), "N", "5", 0, 1000000, NULL, "random pairs to show",
     false},
    {"seed", OPTION_INT, OPTION_AT(seed), "N", "1", 0, INT32_MAX, NULL, "of the random samples",
     false},
    {"json", OPTION_FLAG, OPTION_AT(json), NULL, NULL, 0, 0, NULL, "one object instead of tables",
     false},
    {0},
};

static double share(uint64_t part, uint64_t whole)
{
    return whole > 0 ? (double)part / (double)whole : 0;
}

static double tokens_per_pair(const struct step_summary *all)
{
    return share(all->prompt_tokens + all->output_tokens, all->pairs);
}

static void print_step(const char *name, const struct step_summary *step)
{
    printf("  %-6s %10" PRIu64 " %10" PRIu64 " %10" PRIu64 " %14" PRIu64 " %7.1f%% %13" PRIu64 "\n",
           name, step->pairs, step->dropped, step->requests, step->prompt_tokens,
           100 * share(step->cached_tokens, step->prompt_tokens), step->output_tokens);
}

static void print_counts(const struct reflection_set *set,
                         const struct reflections_summary *summary)
{
    const size_t *outcomes = summary->outcomes;
    printf("%zu segments, %zu duplicate executions that do not count\n", set->segment_count,
           set->duplicate_tasks);
    printf("%zu tasks: %zu done, %zu empty, %zu set aside; %.1f s of work\n", set->task_count,
           outcomes[TASK_DONE], outcomes[TASK_EMPTY], outcomes[TASK_SET_ASIDE], summary->seconds);
    printf("%zu pairs, %" PRIu64 " dropped; %.1f tokens for each pair, %.1f%% of the prompts' not "
           "computed again\n\n",
           set->pair_count, summary->all.dropped, tokens_per_pair(&summary->all),
           100 * share(summary->all.cached_tokens, summary->all.prompt_tokens));
    printf("  %-6s %10s %10s %10s %14s %8s %13s\n", "step", "pairs", "dropped", "requests",
           "prompt tokens", "reused", "output tokens");
    for (int s = 0; s < REFLECTION_STEPS; s++) {
        const struct step_summary *step = &summary->steps[s];
        if (step->pairs + step->dropped + step->requests + step->prompt_tokens > 0)
            print_step(reflection_step_name((enum reflection_step)s), step);
    }
    print_step("all", &summary->all);
}

static void print_quantiles(const char *what, const struct length_summary *lengths)
{
    printf("  %-16s", what);
    for (size_t i = 0; i < SUMMARY_QUANTILES; i++)
        printf("  %6zu", lengths->quantiles[i]);
    printf("\n");
}

static void print_lengths(const struct reflections_summary *summary)
{
    printf("\n  %-16s", "");
    for (size_t i = 0; i < SUMMARY_QUANTILES; i++)
        printf("  %6s", summary_quantile_names[i]);
    printf("\n");
    print_quantiles("question bytes", &summary->question_bytes);
    print_quantiles("answer bytes", &summary->answer_bytes);
    print_quantiles("pairs of a task", &summary->task_pairs);
}

static void print_reasons(const struct reflections_summary *summary)
{
    if (summary->drop_count > 0)
        printf("\nwhy pairs were dropped\n");
    for (size_t i = 0; i < summary->drop_count; i++) {
        const struct drop_summary *drop = &summary->drops[i];
        printf("  step %-6s %10" PRIu64 " pairs: %s\n", reflection_step_name(drop->step),
               drop->pairs, drop->reason);
    }
    if (summary->aside_count > 0)
        printf("\nwhy tasks were set aside\n");
    for (size_t i = 0; i < summary->aside_count; i++)
        printf("  %8" PRIu64 " tasks: %s\n", summary->asides[i].tasks, summary->asides[i].reason);
}

static void print_samples(const struct reflection_set *set, const uint32_t *order, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        const struct reflection *pair = &set->pairs[order[i]];
        printf("\nstep %s\nQ: %s\nA: %s\n", reflection_step_name(pair->step), pair->question,
               pair->answer);
    }
}

static void json_figure(struct json_writer *w, const char *key, uint64_t value)
{
    json_key(w, key);
    json_int(w, (int64_t)value);
}

static void json_step(struct json_writer *w, const char *name, const struct step_summary *step)
{
    json_begin_object(w);
    json_key(w, "step");
    json_text(w, name);
    json_figure(w, "pairs", step->pairs);
    json_figure(w, "dropped", step->dropped);
    json_figure(w, "requests", step->requests);
    json_figure(w, "prompt_tokens", step->prompt_tokens);
    json_figure(w, "cached_tokens", step->cached_tokens);
    json_figure(w, "output_tokens", step->output_tokens);
    json_end_object(w);
}

static void json_steps(struct json_writer *w, const struct reflections_summary *summary)
{
    json_key(w, "steps");
    json_begin_array(w);
    for (int s = 0; s < REFLECTION_STEPS; s++)
        json_step(w, reflection_step_name((enum reflection_step)s), &summary->steps[s]);
    json_end_array(w);
    json_key(w, "all");
    json_step(w, "all", &summary->all);
}

static void json_reasons(struct json_writer *w, const struct reflections_summary *summary)
{
    json_key(w, "drops");
    json_begin_array(w);
    for (size_t i = 0; i < summary->drop_count; i++) {
        json_begin_object(w);
        json_key(w, "step");
        json_text(w, reflection_step_name(summary->drops[i].step));
        json_key(w, "reason");
        json_text(w, summary->drops[i].reason);
        json_figure(w, "pairs", summary->drops[i].pairs);
        json_end_object(w);
    }
    json_end_array(w);
    json_key(w, "asides");
    json_begin_array(w);
    for (size_t i = 0; i < summary->aside_count; i++) {
        json_begin_object(w);
        json_key(w, "reason");
        json_text(w, summary->asides[i].reason);
        json_figure(w, "tasks", summary->asides[i].tasks);
        json_end_object(w);
    }
    json_end_array(w);
}

static void json_lengths(struct json_writer *w, const char *what,
                         const struct length_summary *lengths)
{
    json_key(w, what);
    json_begin_object(w);
    for (size_t i = 0; i < SUMMARY_QUANTILES; i++)
        json_figure(w, summary_quantile_names[i], lengths->quantiles[i]);
    json_end_object(w);
}

static void json_samples(struct json_writer *w, const struct reflection_set *set,
                         const uint32_t *order, size_t count)
{
    json_key(w, "samples");
    json_begin_array(w);
    for (size_t i = 0; i < count; i++)
        reflection_write_json(&set->pairs[order[i]], w);
    json_end_array(w);
}

static void print_json(const struct reflection_set *set, const struct reflections_summary *summary,
                       const uint32_t *order, size_t samples)
{
    struct strbuf text = {0};
    struct json_writer w = {.out = &text};
    json_begin_object(&w);
    json_figure(&w, "segments", set->segment_count);
    json_figure(&w, "repeated", set->duplicate_tasks);
    json_figure(&w, "tasks", set->task_count);
    json_figure(&w, "done", summary->outcomes[TASK_DONE]);
    json_figure(&w, "empty", summary->outcomes[TASK_EMPTY]);
    json_figure(&w, "set_aside", summary->outcomes[TASK_SET_ASIDE]);
    json_key(&w, "seconds");
    json_number(&w, summary->seconds);
    json_key(&w, "tokens_per_pair");
    json_number(&w, tokens_per_pair(&summary->all));
    json_key(&w, "prefix_reuse");
    json_number(&w, share(summary->all.cached_tokens, summary->all.prompt_tokens));
    json_steps(&w, summary);
    json_reasons(&w, summary);
    json_lengths(&w, "question_bytes", &summary->question_bytes);
    json_lengths(&w, "answer_bytes", &summary->answer_bytes);
    json_lengths(&w, "task_pairs", &summary->task_pairs);
    json_samples(&w, set, order, samples);
    json_end_object(&w);
    printf("%s\n", text.bytes);
    strbuf_release(&text);
}

static void inspect(const struct inspect_options *options, const struct reflection_set *set)
{
    struct reflections_summary summary;
    uint32_t *order = mem_calloc(set->pair_count + 1, sizeof(*order));
    const size_t wanted = (size_t)options->samples;
    const size_t samples = wanted < set->pair_count ? wanted : set->pair_count;
    random_permutation((uint64_t)options->seed, SAMPLE_STREAM, order, set->pair_count);
    reflections_summarize(set, &summary);
    if (options->json) {
        print_json(set, &summary, order, samples);
    } else {
        print_counts(set, &summary);
        print_lengths(&summary);
        print_reasons(&summary);
        print_samples(set, order, samples);
    }
    reflections_summary_release(&summary);
    free(order);
}

static int run_inspect(const void *parsed, const struct option_list *directories, struct error *err)
{
    struct reflection_set set;
    if (directories->count != 1) {
        error_set(err, "name one reflections directory, not %zu", directories->count);
        return EXIT_USAGE;
    }
    if (reflection_set_open(fs_system(), directories->items[0], &set, err))
        return EXIT_FAILED;
    inspect(parsed, &set);
    reflection_set_close(&set);
    return EXIT_DONE;
}

const struct verb verb_inspect = {
    .name = "inspect",
    .summary = "show what reflections look like: counts, costs, lengths, samples",
    .positional = "REFLECTIONS",
    .examples = "  memo inspect reflections/ --samples 20 --seed 7\n",
    .options = inspect_option_table,
    .options_bytes = sizeof(struct inspect_options),
    .run = run_inspect,
};
