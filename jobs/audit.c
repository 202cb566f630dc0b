// SPDX-License-Identifier: Apache-2.0
// memo audit: proves from corpus and segments that every planned task is there exactly once.
#include "base/json.h"
#include "base/mem.h"
#include "datasets/reflections_index.h"
#include "datasets/reflections_tools.h"
#include "jobs/generation.h"
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

// The options that `memo generate` left in the run directory, and what follows from them.
struct audited {
    struct generate_options options;
    struct option_list positional;
    const char *stored_corpus;
    struct generation generation;
    struct reflection_set set;
};

static int read_options(const char *directory, struct audited *out, struct error *err)
{
    char *file = mem_printf("%s/run/options.json", directory);
    char *arguments[] = {"--options", file};
    int rc = 0;
    if (!fs_exists(fs_system(), file))
        rc = error_set(err, "'%s' is not there: is '%s' an output of memo generate?", file,
                       directory);
    else if (options_parse(&verb_generate, 2, arguments, &out->options, &out->positional, err) !=
             OPTIONS_OK)
        rc = error_prefix(err, "'%s' is no output of memo generate", directory);
    free(file);
    return rc;
}

// Groups by surfaced names are known when every chunk's task is there.
static void add_entity_groups(struct audited *audited)
{
    struct generation *generation = &audited->generation;
    const struct reflections_index *index = reflection_set_index(&audited->set);
    struct chunk_groups groups;
    struct indexed_task found;
    for (size_t t = 0; t < generation->plan.count; t++) {
        if (!reflections_index_find(index, generation->plan.tasks[t].id, &found))
            return;
    }
    generation_find_entities(generation, index, &groups);
    generation_add_groups(generation, &groups);
    chunk_groups_release(&groups);
}

static int open_audited(const char *directory, const char *corpus, struct audited *out,
                        struct error *err)
{
    *out = (struct audited){0};
    if (read_options(directory, out, err))
        return -1;
    out->stored_corpus = out->options.corpus;
    out->options.corpus = corpus ? corpus : out->stored_corpus;
    if (generation_open(&out->options, 0, NULL, &out->generation, err) ||
        reflection_set_open(fs_system(), directory, &out->set, err))
        return -1;
    if (out->generation.entities_follow)
        add_entity_groups(out);
    return 0;
}

static void close_audited(struct audited *audited)
{
    if (audited->set.memory)
        reflection_set_close(&audited->set);
    generation_close(&audited->generation);
    if (audited->stored_corpus) {
        audited->options.corpus = audited->stored_corpus;
        options_release(&verb_generate, &audited->options, &audited->positional);
    }
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
    while (!digest_equal(plan->tasks[t].id, id))
        t++;
    const struct planned_task *task = &plan->tasks[t];
    digest_format(id, text);
    if (task->member_count == 0) {
        printf("missing %s: chunk %u, of document '%s'\n", text, task->chunk,
               corpus->documents[corpus->chunks[task->chunk].document].id);
        return;
    }
    printf("missing %s: group of the chunks", text);
    for (size_t i = 0; i < task->member_count; i++)
        printf(" %u", plan->tasks[task->members[i]].chunk);
    printf("\n");
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
    if (audit->lost_parents > 0)
        printf("%zu parents of pairs are not there: a repeated execution made others\n",
               audit->lost_parents);
    if (generation->entities_follow)
        printf("groups by surfaced names are not known before every chunk is done\n");
    print_set_aside(set);
    for (size_t i = 0; i < audit->missing_count && i < MAX_LISTED; i++)
        print_missing(generation, audit->missing[i]);
    if (audit->missing_count > MAX_LISTED)
        printf("missing ... and %zu more\n", audit->missing_count - MAX_LISTED);
    print_digests("not planned", audit->unknown, audit->unknown_count);
}

static void print_json(const struct task_plan *plan, const struct reflections_audit *audit,
                       const struct reflection_set *set)
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
        {"lost_parents", audit->lost_parents},
        {"chunk_tasks", plan->chunk_tasks},
        {"group_tasks", plan->count - plan->chunk_tasks},
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
    struct digest *planned = mem_calloc(plan->count + 1, sizeof(*planned));
    for (size_t t = 0; t < plan->count; t++)
        planned[t] = plan->tasks[t].id;
    qsort(planned, plan->count, sizeof(*planned), compare_digests);
    reflections_audit(planned, plan->count, set, out);
    free(planned);
}

static int judge(const struct reflections_audit *audit, const char *directory, struct error *err)
{
    if (audit->missing_count > 0)
        return error_set(
            err, "%zu of %zu planned tasks are missing in '%s': run its memo generate again",
            audit->missing_count, audit->planned, directory);
    if (audit->unknown_count > 0)
        return error_set(err,
                         "%zu tasks in '%s' belong to no plan: they were made with another corpus, "
                         "generator, part or seed",
                         audit->unknown_count, directory);
    return 0;
}

static int audit_directory(const struct audit_options *options, const char *directory,
                           struct error *err)
{
    struct audited audited;
    struct reflections_audit audit;
    int rc = open_audited(directory, options->corpus, &audited, err);
    if (rc == 0) {
        hold_against_plan(&audited.generation.plan, &audited.set, &audit);
        if (options->json)
            print_json(&audited.generation.plan, &audit, &audited.set);
        else
            print_lines(&audited.generation, &audit, &audited.set);
        rc = judge(&audit, directory, err);
        reflections_audit_release(&audit);
    }
    close_audited(&audited);
    return rc == 0 ? EXIT_DONE : EXIT_FAILED;
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
