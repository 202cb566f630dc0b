// SPDX-License-Identifier: Apache-2.0
// memo inspect: what reflections look like, in numbers and in a few samples.
#include "base/mem.h"
#include "base/random.h"
#include "datasets/reflections.h"
#include "jobs/verbs.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SAMPLE_STREAM 0x696e7370 // of the random numbers that choose samples

struct inspect_options {
    int64_t samples;
    int64_t seed;
};

#define OPTION_AT(field) offsetof(struct inspect_options, field)

static const struct option inspect_option_table[] = {
    {"samples", OPTION_INT, OPTION_AT(samples), "N", "5", 0, 1000000, NULL, "random pairs to show",
     false},
    {"seed", OPTION_INT, OPTION_AT(seed), "N", "1", 0, INT32_MAX, NULL, "of the random samples",
     false},
    {0},
};

static int compare_sizes(const void *a, const void *b)
{
    const size_t x = *(const size_t *)a, y = *(const size_t *)b;
    return (x > y) - (x < y);
}

// Sorts the values and prints what share of them lies below what.
static void print_quantiles(const char *what, size_t *values, size_t count)
{
    static const double shares[] = {0, 0.05, 0.5, 0.95, 1};
    if (count == 0)
        return;
    qsort(values, count, sizeof(*values), compare_sizes);
    printf("  %-16s", what);
    for (size_t i = 0; i < sizeof(shares) / sizeof(shares[0]); i++)
        printf("  %6zu", values[(size_t)(shares[i] * (double)(count - 1) + 0.5)]);
    printf("\n");
}

static void print_lengths(const struct reflection_set *set)
{
    const size_t most = set->pair_count > set->task_count ? set->pair_count : set->task_count;
    size_t *values = mem_calloc(most + 1, sizeof(*values));
    printf("\n  %-16s  %6s  %6s  %6s  %6s  %6s\n", "", "least", "5%", "median", "95%", "most");
    for (size_t i = 0; i < set->pair_count; i++)
        values[i] = set->pairs[i].question_bytes;
    print_quantiles("question bytes", values, set->pair_count);
    for (size_t i = 0; i < set->pair_count; i++)
        values[i] = set->pairs[i].answer_bytes;
    print_quantiles("answer bytes", values, set->pair_count);
    for (size_t t = 0; t < set->task_count; t++)
        values[t] = set->tasks[t].pairs;
    print_quantiles("pairs of a task", values, set->task_count);
    free(values);
}

static void print_counts(const struct reflection_set *set)
{
    size_t outcomes[3] = {0}, steps[REFLECTION_STEPS] = {0}, dropped = 0;
    uint64_t tokens = 0;
    double seconds = 0;
    for (size_t t = 0; t < set->task_count; t++) {
        outcomes[set->tasks[t].outcome]++;
        for (size_t i = 0; i < set->tasks[t].drop_count; i++)
            dropped += set->tasks[t].drops[i].pairs;
        tokens += reflection_task_tokens(&set->tasks[t]);
        seconds += set->tasks[t].seconds;
    }
    for (size_t i = 0; i < set->pair_count; i++)
        steps[set->pairs[i].step]++;
    printf("%zu segments, %zu duplicate executions that do not count\n", set->segment_count,
           set->duplicate_tasks);
    printf("%zu tasks: %zu done, %zu empty, %zu set aside; %" PRIu64 " tokens, %.1f s of work\n",
           set->task_count, outcomes[TASK_DONE], outcomes[TASK_EMPTY], outcomes[TASK_SET_ASIDE],
           tokens, seconds);
    printf("%zu pairs, %zu dropped\n", set->pair_count, dropped);
    for (int s = 0; s < REFLECTION_STEPS; s++) {
        if (steps[s] > 0)
            printf("  step %-8s  %8zu pairs\n", reflection_step_name((enum reflection_step)s),
                   steps[s]);
    }
}

static int compare_reasons(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void print_reasons(const struct reflection_set *set)
{
    const char **reasons = mem_calloc(set->task_count + 1, sizeof(*reasons));
    size_t count = 0;
    for (size_t t = 0; t < set->task_count; t++) {
        if (set->tasks[t].reason[0])
            reasons[count++] = set->tasks[t].reason;
    }
    qsort(reasons, count, sizeof(*reasons), compare_reasons);
    if (count > 0)
        printf("\nwhy pairs were dropped or tasks set aside\n");
    for (size_t i = 0, next; i < count; i = next) {
        for (next = i + 1; next < count && strcmp(reasons[i], reasons[next]) == 0;)
            next++;
        printf("  %8zu tasks: %s\n", next - i, reasons[i]);
    }
    free(reasons);
}

static void print_samples(const struct reflection_set *set, size_t samples, uint64_t seed)
{
    uint32_t *order = mem_calloc(set->pair_count + 1, sizeof(*order));
    random_permutation(seed, SAMPLE_STREAM, order, set->pair_count);
    for (size_t i = 0; i < samples && i < set->pair_count; i++) {
        const struct reflection *pair = &set->pairs[order[i]];
        printf("\nQ: %s\nA: %s\n", pair->question, pair->answer);
    }
    free(order);
}

static int run_inspect(const void *parsed, const struct option_list *directories, struct error *err)
{
    const struct inspect_options *options = parsed;
    struct reflection_set set;
    if (directories->count != 1) {
        error_set(err, "name one reflections directory, not %zu", directories->count);
        return EXIT_USAGE;
    }
    if (reflection_set_open(fs_system(), directories->items[0], &set, err))
        return EXIT_FAILED;
    print_counts(&set);
    print_lengths(&set);
    print_reasons(&set);
    print_samples(&set, (size_t)options->samples, (uint64_t)options->seed);
    reflection_set_close(&set);
    return EXIT_DONE;
}

const struct verb verb_inspect = {
    .name = "inspect",
    .summary = "show what reflections look like: counts, lengths, samples",
    .positional = "REFLECTIONS",
    .examples = "  memo inspect reflections/ --samples 20 --seed 7\n",
    .options = inspect_option_table,
    .options_bytes = sizeof(struct inspect_options),
    .run = run_inspect,
};
