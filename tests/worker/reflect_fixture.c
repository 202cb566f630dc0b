// SPDX-License-Identifier: Apache-2.0
#include "tests/worker/reflect_fixture.h"

#include "base/mem.h"
#include "tests/datasets/corpus_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SEED 7
#define GROUP_TASK 1000
#define MOST_POLLS 1000000

static const struct fixture_text texts[] = {
    {"The Flood", "Nan Corrigle met Gideon Stannick in 1801.\n\nLake Ummerel rose in 1802."},
    {"The Fell", "Brindle Fell slid in 1803.\n\nLady Lasp saw it in 1804."},
    {"The Bride", "The Salt Bride was told of in Little Morrow in 1805."},
};

struct corpus *reflect_fixture_corpus(void)
{
    return corpus_from_texts(texts, sizeof texts / sizeof *texts);
}

struct generator *reflect_fixture_create(struct fake_lm *fake, const char *steps)
{
    const struct reflect_options options = {.fs = fs_system(), .steps = steps};
    struct generator *generator = NULL;
    struct error err = {""};
    if (reflect_create(&fake->base, &options, &generator, &err)) {
        fail_msg("%s", err.text);
    }
    return generator;
}

struct digest reflect_fixture_task_id(size_t task)
{
    return digest_bytes(&task, sizeof task);
}

void reflect_fixture_submit(struct generator *generator, const struct corpus *corpus, size_t chunk)
{
    const struct generator_task task = {
        .task_id = reflect_fixture_task_id(chunk), .corpus = corpus, .chunk = chunk, .seed = SEED};
    struct error err = {""};
    assert_int_equal(generator_submit(generator, &task, &err), 0);
}

static void check(const struct generated *result)
{
    struct error err = {""};
    if (reflection_task_check(&result->task, result->pairs, result->task.pairs, &err)) {
        fail_msg("%s", err.text);
    }
}

struct generated reflect_fixture_wait(struct generator *generator)
{
    struct generated result = {0};
    struct error err = {""};
    int rc = 0;
    for (size_t polls = 0; rc == 0 && polls < MOST_POLLS; polls++) {
        rc = generator_poll(generator, &result, &err);
    }
    if (rc != 1) {
        fail_msg("no task was finished: %s", err.text);
    }
    check(&result);
    return result;
}

static size_t chunk_of(struct digest task_id, size_t count)
{
    for (size_t chunk = 0; chunk < count; chunk++) {
        if (digest_equal(task_id, reflect_fixture_task_id(chunk))) {
            return chunk;
        }
    }
    fail_msg("a result of no task");
    return 0;
}

void reflect_fixture_run(struct generator *generator, const struct corpus *corpus,
                         struct generated *results)
{
    size_t submitted = 0;
    for (size_t finished = 0; finished < corpus->chunk_count; finished++) {
        while (submitted < corpus->chunk_count && submitted - finished < generator->capacity) {
            reflect_fixture_submit(generator, corpus, submitted++);
        }
        const struct generated result = reflect_fixture_wait(generator);
        results[chunk_of(result.task.task_id, corpus->chunk_count)] = result;
    }
}

struct generated reflect_fixture_run_group(struct generator *generator, const struct corpus *corpus,
                                           const struct generated *results)
{
    struct generator_member *members = mem_calloc(corpus->chunk_count, sizeof *members);
    struct error err = {""};
    for (size_t i = 0; i < corpus->chunk_count; i++) {
        members[i] = (struct generator_member){i, results[i].pairs, results[i].task.pairs};
    }
    const struct generator_task task = {.task_id = reflect_fixture_task_id(GROUP_TASK),
                                        .corpus = corpus,
                                        .members = members,
                                        .member_count = corpus->chunk_count,
                                        .seed = SEED};
    assert_int_equal(generator_submit(generator, &task, &err), 0);
    memset(members, 0xAB, corpus->chunk_count * sizeof *members); // the caller's again
    free(members);
    return reflect_fixture_wait(generator);
}

static void describe_pair(const struct reflection *pair, struct strbuf *out)
{
    char id[DIGEST_TEXT_BYTES];
    digest_format(pair->record_id, id);
    strbuf_addf(out, "%s %s %u seed %016llx tokens %u+%u: %s -> %s", id,
                reflection_step_name(pair->step), pair->ordinal, (unsigned long long)pair->seed,
                pair->prompt_tokens, pair->output_tokens, pair->question, pair->answer);
    for (size_t i = 0; i < pair->source_count; i++) {
        digest_format(pair->sources[i].document, id);
        strbuf_addf(out, " from %.6s[%llu,%llu)", id, (unsigned long long)pair->sources[i].begin,
                    (unsigned long long)pair->sources[i].end);
    }
    for (size_t i = 0; i < pair->parent_count; i++) {
        digest_format(pair->parents[i], id);
        strbuf_addf(out, " of %.6s", id);
    }
    strbuf_addc(out, '\n');
}

char *reflect_fixture_describe(const struct generated *result)
{
    const struct reflection_task *task = &result->task;
    struct strbuf out = {0};
    strbuf_addf(&out, "outcome %d '%s'\n", (int)task->outcome, task->reason);
    for (uint32_t i = 0; i < task->pairs; i++) {
        describe_pair(&result->pairs[i], &out);
    }
    for (size_t i = 0; i < task->drop_count; i++) {
        strbuf_addf(&out, "dropped %s '%s' %u\n", reflection_step_name(task->drops[i].step),
                    task->drops[i].reason, task->drops[i].pairs);
    }
    for (size_t i = 0; i < task->usage_count; i++) {
        const struct reflection_usage *usage = &task->usage[i];
        strbuf_addf(&out, "used %s %u %llu %llu %llu\n", reflection_step_name(usage->step),
                    usage->requests, (unsigned long long)usage->prompt_tokens,
                    (unsigned long long)usage->cached_tokens,
                    (unsigned long long)usage->output_tokens);
    }
    return strbuf_detach(&out);
}
