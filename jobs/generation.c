// SPDX-License-Identifier: Apache-2.0
#include "jobs/generation.h"

#include "datasets/entity_groups.h"
#include "jobs/language_model.h"
#include "worker/reflect/cloze.h"
#include "worker/reflect/reflect.h"

#include <stdbool.h>
#include <string.h>

#define CLOZE_LEASE_SECONDS 600.0
#define MODEL_LEASE_SECONDS 7200.0 // a task waits behind hundreds of requests of others

int generation_check(const struct generate_options *options, struct error *err)
{
    struct corpus_part part;
    unsigned steps;
    if (corpus_part_parse(options->part, &part, err) ||
        reflect_steps_parse(options->steps, &steps, err) || language_model_check(options, err))
        return -1;
    return 0;
}

static struct digest join_digests(struct digest a, struct digest b)
{
    struct digest_builder builder;
    digest_begin(&builder);
    digest_field(&builder, a.bytes, sizeof(a.bytes));
    digest_field(&builder, b.bytes, sizeof(b.bytes));
    return digest_end(&builder);
}

static int create_reflector(const struct generate_options *options, int threads,
                            struct launcher *launcher, struct generation *out, struct error *err)
{
    const struct reflect_options reflect = {.fs = fs_system(),
                                            .prompts = options->prompts,
                                            .config = options->config,
                                            .steps = options->steps};
    struct lm *lm;
    if (language_model_open(options, threads, launcher, &lm, err) ||
        reflect_create(lm, &reflect, &out->generator, err))
        return -1;
    out->how.chunk_step = STEP_DIRECT;
    out->how.prompts = reflect_prompts_digest(out->generator);
    out->how.sampling = join_digests(reflect_config_digest_of(out->generator),
                                     language_model_limits_digest(options));
    return 0;
}

static int create_generator(const struct generate_options *options, int threads,
                            struct launcher *launcher, struct generation *out, struct error *err)
{
    enum generator_kind kind;
    const char *target;
    if (generator_kind_parse(options->generator, &kind, &target, err))
        return -1;
    if (kind != GENERATOR_CLOZE)
        return create_reflector(options, threads, launcher, out, err);
    struct cloze_options cloze = CLOZE_DEFAULTS;
    cloze.max_gaps_per_sentence = (uint32_t)options->max_gaps;
    out->generator = cloze_create(&cloze);
    out->how.chunk_step = STEP_CLOZE;
    return 0;
}

double generation_lease_seconds(const struct generate_options *options)
{
    const bool is_cloze = strcmp(options->generator, "cloze") == 0;
    if (options->lease_seconds > 0)
        return options->lease_seconds;
    return is_cloze ? CLOZE_LEASE_SECONDS : MODEL_LEASE_SECONDS;
}

// Steps were checked.
static bool has_step(const struct generate_options *options, enum reflection_step step)
{
    unsigned steps = 0;
    struct error ignored;
    (void)reflect_steps_parse(options->steps, &steps, &ignored);
    return steps & (1u << step);
}

// Which groups the first plan has.
static void choose_groups(struct generation *generation)
{
    const char *groups = generation->options->groups;
    const struct corpus *corpus = generation->corpus;
    if (!generation->generator->ops->group_input_digest ||
        !has_step(generation->options, STEP_CROSS))
        return;
    if (strcmp(groups, "corpus") == 0)
        generation->how.groups = (struct plan_groups){.offsets = corpus->group_offsets,
                                                      .chunks = corpus->group_chunks,
                                                      .count = corpus->group_count};
    generation->entities_follow = strcmp(groups, "entities") == 0;
}

int generation_open(const struct generate_options *options, int threads, struct launcher *launcher,
                    struct generation *out, struct error *err)
{
    *out = (struct generation){.options = options};
    if (generation_check(options, err) || corpus_part_parse(options->part, &out->how.part, err) ||
        corpus_open(options->corpus, &out->corpus, err) ||
        create_generator(options, threads, launcher, out, err)) {
        generation_close(out);
        return -1;
    }
    out->how.seed = (uint64_t)options->seed;
    choose_groups(out);
    task_plan_create(out->corpus, out->generator, &out->how, &out->plan);
    return 0;
}

void generation_close(struct generation *generation)
{
    task_plan_release(&generation->plan);
    generator_destroy(generation->generator);
    corpus_close(generation->corpus);
    *generation = (struct generation){0};
}

void generation_find_entities(const struct generation *generation,
                              const struct reflections_index *index, struct chunk_groups *out)
{
    const struct groups_options join = GROUPS_DEFAULTS;
    struct entity_mentions mentions = {0};
    for (size_t t = 0; t < generation->plan.chunk_tasks; t++) {
        const struct planned_task *task = &generation->plan.tasks[t];
        struct indexed_task found;
        if (reflections_index_find(index, task->id, &found))
            entity_mentions_add(&mentions, task->chunk, found.pairs, found.task->pairs);
    }
    groups_join(generation->corpus, mentions.items, mentions.count, &join, out);
    entity_mentions_release(&mentions);
}

void generation_add_groups(struct generation *generation, const struct chunk_groups *groups)
{
    struct task_plan_options how = generation->how;
    how.groups = (struct plan_groups){
        .offsets = groups->offsets, .chunks = groups->chunks, .count = groups->count};
    task_plan_release(&generation->plan);
    task_plan_create(generation->corpus, generation->generator, &how, &generation->plan);
    generation->entities_follow = false;
}
