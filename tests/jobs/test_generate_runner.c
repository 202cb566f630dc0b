// SPDX-License-Identifier: Apache-2.0
// The runner with a generator that gives one pair for a chunk and, for a group, one whose parents
// are all pairs of its members; other workers' segments appear when the test says so.
#include "base/mem.h"
#include "jobs/generate_runner.h"
#include "tests/datasets/corpus_fixture.h"
#include "tests/datasets/reflections_helper.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static const struct fixture_text texts[] = {{"Oak", "The oak fell."}, {"Elm", "The elm fell."}};
#define CAPACITY 4

struct copier {
    struct generator base; // first
    struct generator_task tasks[CAPACITY];
    size_t parents[CAPACITY]; // pairs of the members
    size_t count;
};

static struct digest text_digest(struct generator *generator, const struct corpus *corpus,
                                 size_t chunk)
{
    (void)generator;
    return corpus->chunks[chunk].digest;
}

static struct digest texts_digest(struct generator *generator, const struct corpus *corpus,
                                  const uint32_t *chunks, size_t count)
{
    (void)generator;
    assert_int_equal(count, 2);
    return corpus->chunks[chunks[1]].digest;
}

static int copier_submit(struct generator *generator, const struct generator_task *task,
                         struct error *err)
{
    struct copier *copier = (struct copier *)generator;
    size_t parents = 0;
    (void)err;
    for (size_t i = 0; i < task->member_count; i++) {
        assert_int_equal(task->members[i].chunk, i);
        for (size_t k = 0; k < task->members[i].pair_count; k++)
            assert_int_equal(task->members[i].pairs[k].question[0], 'W');
        parents += task->members[i].pair_count;
    }
    copier->parents[copier->count] = parents;
    copier->tasks[copier->count++] = *task;
    return 0;
}

static int copier_poll(struct generator *generator, struct generated *out, struct error *err)
{
    static const struct reflection_source source = {.begin = 0, .end = 3};
    struct copier *copier = (struct copier *)generator;
    (void)err;
    if (copier->count == 0)
        return 0;
    const struct digest id = copier->tasks[--copier->count].task_id;
    struct reflection *pair = mem_calloc(1, sizeof(*pair));
    *pair = (struct reflection){.record_id = reflection_record_id(id, STEP_DIRECT, 0),
                                .task_id = id,
                                .step = STEP_DIRECT,
                                .question = "What?",
                                .question_bytes = 5,
                                .answer = "That",
                                .answer_bytes = 4,
                                .sources = &source,
                                .source_count = 1,
                                .output_tokens = (uint32_t)copier->parents[copier->count]};
    *out =
        (struct generated){.task = {.task_id = id, .outcome = TASK_DONE, .pairs = 1, .reason = ""},
                           .pairs = pair,
                           .memory = pair};
    return 1;
}

static const struct generator_ops copier_ops = {.input_digest = text_digest,
                                                .group_input_digest = texts_digest,
                                                .submit = copier_submit,
                                                .poll = copier_poll};

static double now_seconds;

static double test_clock(void)
{
    return now_seconds;
}

struct bench {
    struct copier copier;
    struct corpus *corpus;
    struct task_plan plan; // tasks 0 and 1 of chunks, 2 of their group
    char *attempt;
    struct generate_runner runner;
    struct task_runner interface;
};

static void open_bench(struct bench *bench, const char *directory)
{
    static const uint32_t offsets[] = {0, 2}, chunks[] = {0, 1};
    struct error err;
    memset(bench, 0, sizeof(*bench));
    now_seconds = 1000;
    bench->copier.base =
        (struct generator){.ops = &copier_ops, .name = "copier", .capacity = CAPACITY};
    bench->corpus = corpus_from_texts(texts, 2);
    const struct task_plan_options how = {
        .part = {1, 1}, .groups = {offsets, chunks, 1}, .chunk_step = STEP_DIRECT};
    task_plan_create(bench->corpus, &bench->copier.base, &how, &bench->plan);
    assert_int_equal(bench->plan.count, 3);
    assert_int_equal(reflections_begin_attempt(fs_system(), directory, &bench->attempt, &err), 0);
    bench->runner =
        (struct generate_runner){.corpus = bench->corpus,
                                 .generator = &bench->copier.base,
                                 .plan = &bench->plan,
                                 .index = reflections_index_create(fs_system(), directory),
                                 .fs = fs_system(),
                                 .attempt = bench->attempt,
                                 .clock = test_clock};
    generate_runner_open(&bench->runner);
    bench->interface = generate_runner_interface(&bench->runner);
}

static void close_bench(struct bench *bench)
{
    generate_runner_close(&bench->runner);
    reflections_index_destroy(bench->runner.index);
    task_plan_release(&bench->plan);
    corpus_close(bench->corpus);
    free(bench->attempt);
}

static void submit(struct bench *bench, uint32_t task)
{
    struct error err;
    assert_int_equal(bench->interface.submit(bench->interface.state, task, &err), 0);
}

static int poll_once(struct bench *bench, struct task_result *out)
{
    struct error err;
    const int rc = bench->interface.poll(bench->interface.state, out, &err);
    if (rc < 0)
        fail_msg("%s", err.text);
    return rc;
}

static void commit(struct bench *bench)
{
    struct error err;
    assert_int_equal(bench->interface.commit(bench->interface.state, &err), 0);
}

// Does both chunks' tasks and commits them.
static void do_chunks(struct bench *bench)
{
    struct task_result result;
    for (uint32_t task = 0; task < 2; task++) {
        submit(bench, task);
        assert_int_equal(poll_once(bench, &result), 1);
        assert_int_equal(result.task, task);
        assert_false(result.failed);
    }
    commit(bench);
}

static void a_group_gets_the_pairs_of_its_chunks(void **state)
{
    struct bench bench;
    struct task_result result;
    struct indexed_task found;
    struct error err;
    open_bench(&bench, *state);
    do_chunks(&bench);
    submit(&bench, 2);
    assert_int_equal(poll_once(&bench, &result), 1);
    assert_int_equal(result.task, 2);
    commit(&bench);
    assert_int_equal(reflections_index_refresh(bench.runner.index, &err), 0);
    assert_true(reflections_index_find(bench.runner.index, bench.plan.tasks[2].id, &found));
    assert_int_equal(found.pairs[0].output_tokens, 2);
    close_bench(&bench);
}

static void a_group_waits_until_its_chunks_are_to_be_seen(void **state)
{
    struct bench bench;
    struct task_result result;
    open_bench(&bench, *state);
    submit(&bench, 2);
    assert_int_equal(poll_once(&bench, &result), 0);
    do_chunks(&bench);
    assert_int_equal(poll_once(&bench, &result), 0); // it does not look again at once
    now_seconds += GENERATE_REFRESH_SECONDS;
    assert_int_equal(poll_once(&bench, &result), 1);
    assert_int_equal(result.task, 2);
    assert_false(result.failed);
    close_bench(&bench);
}

static void a_group_whose_chunks_never_show_fails_alone(void **state)
{
    struct bench bench;
    struct task_result result;
    open_bench(&bench, *state);
    submit(&bench, 2);
    assert_int_equal(poll_once(&bench, &result), 0);
    now_seconds += GENERATE_MEMBER_SECONDS;
    assert_int_equal(poll_once(&bench, &result), 1);
    assert_int_equal(result.task, 2);
    assert_true(result.failed);
    assert_non_null(strstr(result.reason, "not to be seen"));
    submit(&bench, 0);
    assert_int_equal(poll_once(&bench, &result), 1);
    assert_int_equal(result.task, 0);
    close_bench(&bench);
}

static void a_chunk_that_was_set_aside_gives_no_pairs(void **state)
{
    struct bench bench;
    struct task_result result;
    struct error err;
    open_bench(&bench, *state);
    submit(&bench, 0);
    assert_int_equal(poll_once(&bench, &result), 1);
    commit(&bench);
    assert_int_equal(generate_runner_set_aside(&bench.runner, 1, "nobody could", &err), 0);
    submit(&bench, 2);
    assert_int_equal(poll_once(&bench, &result), 1);
    assert_int_equal(result.task, 2);
    assert_int_equal(result.pairs, 1);
    close_bench(&bench);
}

static void what_is_dropped_ends_without_being_stored(void **state)
{
    struct bench bench;
    struct task_result result;
    struct error err;
    open_bench(&bench, *state);
    submit(&bench, 0);
    submit(&bench, 2); // waits for its chunks
    bench.interface.drop(bench.interface.state, 0);
    bench.interface.drop(bench.interface.state, 2);
    for (uint32_t seen = 0; seen < 2; seen++) {
        now_seconds += GENERATE_REFRESH_SECONDS;
        assert_int_equal(poll_once(&bench, &result), 1);
        assert_true(result.dropped);
        assert_int_equal(result.task, seen == 0 ? 2 : 0);
    }
    commit(&bench);
    assert_int_equal(reflections_index_refresh(bench.runner.index, &err), 0);
    assert_int_equal(reflections_index_rows(bench.runner.index), 0);
    do_chunks(&bench);
    close_bench(&bench);
}

static void a_job_taken_for_dead_stores_nothing(void **state)
{
    struct bench bench;
    struct task_result result;
    struct error err;
    char *owner = fs_join(*state, "owner");
    open_bench(&bench, *state);
    assert_int_equal(fs_write_text(fs_system(), owner, "00000000000000000000\na\nx\n", 25, &err),
                     0);
    bench.runner.owner_path = owner;
    do_chunks(&bench); // it counts
    submit(&bench, 0);
    assert_int_equal(poll_once(&bench, &result), 1);
    assert_int_equal(fs_write_text(fs_system(), owner, "00000000000000000000\no\nx\n", 25, &err),
                     0);
    assert_int_equal(bench.interface.commit(bench.interface.state, &err), TASK_RUNNER_FENCED);
    assert_int_equal(generate_runner_set_aside(&bench.runner, 1, "nobody could", &err),
                     TASK_RUNNER_FENCED);
    commit(&bench); // nothing is left that would have to pass the fence
    assert_int_equal(reflections_index_refresh(bench.runner.index, &err), 0);
    assert_int_equal(reflections_index_rows(bench.runner.index), 2);
    free(owner);
    close_bench(&bench);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        WITH_SCRATCH(a_group_gets_the_pairs_of_its_chunks),
        WITH_SCRATCH(a_group_waits_until_its_chunks_are_to_be_seen),
        WITH_SCRATCH(a_group_whose_chunks_never_show_fails_alone),
        WITH_SCRATCH(a_chunk_that_was_set_aside_gives_no_pairs),
        WITH_SCRATCH(what_is_dropped_ends_without_being_stored),
        WITH_SCRATCH(a_job_taken_for_dead_stores_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
