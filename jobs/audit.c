// SPDX-License-Identifier: Apache-2.0
// memo audit: proves from corpus and segments that every planned task is there exactly once.
#include "base/json.h"
#include "base/mem.h"
#include "datasets/reflections_tools.h"
#include "jobs/generate.h"
#include "jobs/verbs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_LISTED 10 // tasks of one kind on the terminal

struct audit_options {
    const char *corpus;
    bool json;
};

#define OPTION_AT(field) offsetof(struct audit_options, field)

static const struct option audit_option_table[] = {
    {"corpus", OPTION_STRING, OPTION_AT(corpus), "FILE", NULL, 0, 0, NULL,
     "the corpus, when it is no longer where memo generate found it", false},
    {"json", OPTION_FLAG, OPTION_AT(json), NULL, NULL, 0, 0, NULL, "one object instead of lines",
     false},
    {0},
};

// Builds the plan that `memo generate` had, from the options it left in the run directory.
static int open_generation(const char *directory, const char *corpus, struct generation *out,
                           struct error *err)
{
    struct generate_options options;
    struct option_list positional;
    char *file = mem_printf("%s/run/options.json", directory);
    char *arguments[] = {"--options", file};
    int rc = 0;
    if (!fs_exists(fs_system(), file))
        rc = error_set(err, "'%s' is not there: is '%s' an output of memo generate?", file,
                       directory);
    else if (options_parse(&verb_generate, 2, arguments, &options, &positional, err) != OPTIONS_OK)
        rc = error_prefix(err, "'%s' is no output of memo generate", directory);
    if (rc == 0) {
        const char *stored = options.corpus;
        options.corpus = corpus ? corpus : stored;
        rc = generation_open(&options, out, err);
        options.corpus = stored;
        options_release(&verb_generate, &options, &positional);
    }
    free(file);
    return rc;
}

static int compare_digests(const void *a, const void *b)
{
    return digest_compare(*(const struct digest *)a, *(const struct digest *)b);
}

// A task of the plan, with the place of its text.
static void print_missing(const struct generation *generation, struct digest id)
{
    const struct task_plan *plan = &generation->plan;
    const struct corpus *corpus = generation->corpus;
    char text[DIGEST_TEXT_BYTES];
    size_t t = 0;
    while (t < plan->count && !digest_equal(plan->ids[t], id))
        t++;
    digest_format(id, text);
    if (t < plan->count)
        printf("missing %s: chunk %u, of document '%s'\n", text, plan->chunks[t],
               corpus->documents[corpus->chunks[plan->chunks[t]].document].id);
}

static void print_digests(const char *what, const struct digest *digests, size_t count)
{
    char text[DIGEST_TEXT_BYTES];
    for (size_t i = 0; i < count && i < MAX_LISTED; i++) {
        digest_format(digests[i], text);
        printf("%s %s\n", what, text);
    }
    if (count > MAX_LISTED)
        printf("%s ... and %zu more\n", what, count - MAX_LISTED);
}

static void print_set_aside(const struct reflection_set *set)
{
    char text[DIGEST_TEXT_BYTES];
    for (size_t t = 0; t < set->task_count; t++) {
        if (set->tasks[t].outcome != TASK_SET_ASIDE)
            continue;
        digest_format(set->tasks[t].task_id, text);
        printf("set aside %s: %s\n", text, set->tasks[t].reason);
    }
}

static void print_lines(const struct generation *generation, const struct reflections_audit *audit,
                        const struct reflection_set *set)
{
    printf("%zu planned tasks: %zu done, %zu empty, %zu set aside, %zu missing; %zu pairs in %zu "
           "segments\n",
           audit->planned, audit->done, audit->empty, audit->set_aside, audit->missing_count,
           set->pair_count, set->segment_count);
    if (set->duplicate_tasks > 0)
        printf("%zu repeated executions do not count\n", set->duplicate_tasks);
    print_set_aside(set);
    for (size_t i = 0; i < audit->missing_count && i < MAX_LISTED; i++)
        print_missing(generation, audit->missing[i]);
    if (audit->missing_count > MAX_LISTED)
        printf("missing ... and %zu more\n", audit->missing_count - MAX_LISTED);
    print_digests("not planned", audit->unknown, audit->unknown_count);
}

static void print_json(const struct reflections_audit *audit, const struct reflection_set *set)
{
    const struct {
        const char *key;
        size_t value;
    } figures[] = {
        {"planned", audit->planned},
        {"done", audit->done},
        {"empty", audit->empty},
        {"set_aside", audit->set_aside},
        {"missing", audit->missing_count},
        {"not_planned", audit->unknown_count},
        {"repeated", set->duplicate_tasks},
        {"pairs", set->pair_count},
        {"segments", set->segment_count},
    };
    struct strbuf line = {0};
    struct json_writer w = {.out = &line};
    json_begin_object(&w);
    for (size_t i = 0; i < sizeof(figures) / sizeof(figures[0]); i++) {
        json_key(&w, figures[i].key);
        json_int(&w, (int64_t)figures[i].value);
    }
    json_end_object(&w);
    printf("%s\n", line.bytes);
    strbuf_release(&line);
}

// The plan is in corpus order; the audit takes ids in their own.
static void hold_against_plan(const struct task_plan *plan, const struct reflection_set *set,
                              struct reflections_audit *out)
{
    struct digest *planned = mem_dup(plan->ids, plan->count * sizeof(*planned));
    qsort(planned, plan->count, sizeof(*planned), compare_digests);
    reflections_audit(planned, plan->count, set, out);
    free(planned);
}

static int audit_directory(const struct audit_options *options, const char *directory,
                           struct error *err)
{
    struct generation generation;
    struct reflection_set set;
    struct reflections_audit audit;
    if (open_generation(directory, options->corpus, &generation, err))
        return EXIT_FAILED;
    if (reflection_set_open(fs_system(), directory, &set, err)) {
        generation_close(&generation);
        return EXIT_FAILED;
    }
    hold_against_plan(&generation.plan, &set, &audit);
    if (options->json)
        print_json(&audit, &set);
    else
        print_lines(&generation, &audit, &set);
    int code = EXIT_DONE;
    if (audit.missing_count > 0) {
        error_set(err, "%zu of %zu planned tasks are missing in '%s': run its memo generate again",
                  audit.missing_count, audit.planned, directory);
        code = EXIT_FAILED;
    } else if (audit.unknown_count > 0) {
        error_set(err,
                  "%zu tasks in '%s' belong to no plan: they were made with another corpus, "
                  "generator, part or seed",
                  audit.unknown_count, directory);
        code = EXIT_FAILED;
    }
    reflections_audit_release(&audit);
    reflection_set_close(&set);
    generation_close(&generation);
    return code;
}

static int run_audit(const void *parsed, const struct option_list *directories, struct error *err)
{
    if (directories->count == 0) {
        error_set(err, "name the reflections directories to audit");
        return EXIT_USAGE;
    }
    for (size_t i = 0; i < directories->count; i++) {
        const int code = audit_directory(parsed, directories->items[i], err);
        if (code != EXIT_DONE)
            return code;
    }
    return EXIT_DONE;
}

const struct verb verb_audit = {
    .name = "audit",
    .summary = "prove that every planned task is there exactly once",
    .positional = "REFLECTIONS...",
    .examples = "  memo audit reflections/\n",
    .options = audit_option_table,
    .options_bytes = sizeof(struct audit_options),
    .run = run_audit,
};
