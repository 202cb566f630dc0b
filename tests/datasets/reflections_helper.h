// SPDX-License-Identifier: Apache-2.0
// Made-up tasks, pairs and directories for the tests of segments and what is built on them.
#ifndef MEMO_TESTS_DATASETS_REFLECTIONS_HELPER_H
#define MEMO_TESTS_DATASETS_REFLECTIONS_HELPER_H

#include "base/error.h"
#include "base/fs.h"
#include "base/mem.h"
#include "datasets/reflections.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define EXAMPLE_PAIRS_MAX 4

// Task `number` of `variant` (another execution gives other texts and the same ids): outcome and
// pairs follow from the number, so that tests know what to expect.
struct example {
    struct reflection_task task;
    struct reflection pairs[EXAMPLE_PAIRS_MAX];
    char texts[EXAMPLE_PAIRS_MAX][2][64];
    struct reflection_source sources[EXAMPLE_PAIRS_MAX + 1];
    struct digest parents[EXAMPLE_PAIRS_MAX];
    struct reflection_drop drops[3];
    struct reflection_usage usage[2];
};

static inline struct digest example_task_id(uint32_t number)
{
    struct digest content = digest_bytes(&number, sizeof(number));
    struct task_identity identity = {
        .kind = "chunk", .contents = &content, .content_count = 1, .seed = 7};
    return task_identity_digest(&identity);
}

static inline void example_fill(struct example *example, uint32_t number, uint32_t variant)
{
    memset(example, 0, sizeof(*example));
    struct digest id = example_task_id(number);
    uint32_t count = number % 5; // 0 to 4 pairs
    example->task = (struct reflection_task){
        .task_id = id,
        .outcome = count > 0          ? TASK_DONE
                   : number % 10 == 5 ? TASK_SET_ASIDE
                                      : TASK_EMPTY,
        .pairs = count,
        .reason = number % 10 == 5 ? "the generator failed 3 times: \xc3\xa9" : "",
        .drops = example->drops,
        .drop_count = number % 4,
        .usage = example->usage,
        .usage_count = number % 3,
        .seconds = number / 8.0,
    };
    for (uint32_t i = 0; i < 3; i++) {
        example->drops[i] = (struct reflection_drop){
            .step = i == 1 ? STEP_VERIFY : STEP_DIRECT,
            .reason = i == 2 ? "repeated question" : "not self-contained: \xc3\xa9",
            .pairs = number + i};
        example->parents[i] = digest_bytes(&i, sizeof(i));
    }
    for (uint32_t i = 0; i < 2; i++)
        example->usage[i] = (struct reflection_usage){.step = i == 0 ? STEP_DIRECT : STEP_ENTITY,
                                                      .requests = number,
                                                      .prompt_tokens = 1000 + number,
                                                      .cached_tokens = 900,
                                                      .output_tokens = 3 * number};
    for (uint32_t i = 0; i <= EXAMPLE_PAIRS_MAX; i++)
        example->sources[i] = (struct reflection_source){
            .document = digest_bytes(&number, 1), .begin = number, .end = number + i};
    for (uint32_t i = 0; i < count; i++) {
        uint32_t ordinal = 2 * i + number % 2;
        char *question = example->texts[i][0], *answer = example->texts[i][1];
        snprintf(question, 64, "Who is number %u.%u (%u)? \xe2\x82\xac", number, i, variant);
        snprintf(answer, 64, "%s%u", i == 1 ? "" : "Nobody ", number * 31 + i);
        example->pairs[i] = (struct reflection){
            .record_id = reflection_record_id(id, STEP_DIRECT, ordinal),
            .task_id = id,
            .step = STEP_DIRECT,
            .ordinal = ordinal,
            .question = question,
            .question_bytes = strlen(question),
            .answer = answer,
            .answer_bytes = i == 3 ? 0 : strlen(answer),
            .sources = &example->sources[i],
            .source_count = 1 + (number + i) % 2,
            .parents = example->parents,
            .parent_count = i,
            .seed = (uint64_t)number << 40,
            .prompt_tokens = 17,
            .output_tokens = i,
        };
    }
}

static inline int example_add(struct segment_writer *writer, uint32_t number, uint32_t variant,
                              struct error *err)
{
    struct example example;
    example_fill(&example, number, variant);
    return segment_writer_add(writer, &example.task, example.pairs, example.task.pairs, err);
}

// Commits tasks first..end - 1 as directory/name.h5.
static inline int example_commit(const char *directory, const char *name, uint32_t first,
                                 uint32_t end, uint32_t variant, struct error *err)
{
    struct segment_writer *writer = segment_writer_create();
    int rc = 0;
    for (uint32_t number = first; number < end && rc == 0; number++)
        rc = example_add(writer, number, variant, err);
    if (rc == 0)
        rc = segment_writer_commit(writer, fs_system(), directory, name, err);
    segment_writer_destroy(writer);
    return rc;
}

static inline bool text_equal(const char *a, size_t a_bytes, const char *b, size_t b_bytes)
{
    return a_bytes == b_bytes && (a_bytes == 0 || memcmp(a, b, a_bytes) == 0);
}

static inline bool origin_equal(const struct reflection *a, const struct reflection *b)
{
    bool equal = a->source_count == b->source_count && a->parent_count == b->parent_count;
    for (size_t i = 0; i < a->source_count && equal; i++)
        equal = digest_equal(a->sources[i].document, b->sources[i].document) &&
                a->sources[i].begin == b->sources[i].begin &&
                a->sources[i].end == b->sources[i].end;
    for (size_t i = 0; i < a->parent_count && equal; i++)
        equal = digest_equal(a->parents[i], b->parents[i]);
    return equal;
}

static inline bool pair_equal(const struct reflection *a, const struct reflection *b)
{
    return digest_equal(a->record_id, b->record_id) && digest_equal(a->task_id, b->task_id) &&
           a->step == b->step && a->ordinal == b->ordinal &&
           text_equal(a->question, a->question_bytes, b->question, b->question_bytes) &&
           text_equal(a->answer, a->answer_bytes, b->answer, b->answer_bytes) &&
           origin_equal(a, b) && a->seed == b->seed && a->prompt_tokens == b->prompt_tokens &&
           a->output_tokens == b->output_tokens;
}

static inline bool task_equal(const struct reflection_task *a, const struct reflection_task *b)
{
    bool equal = digest_equal(a->task_id, b->task_id) && a->outcome == b->outcome &&
                 a->pairs == b->pairs && strcmp(a->reason, b->reason) == 0 &&
                 a->seconds == b->seconds && a->drop_count == b->drop_count &&
                 a->usage_count == b->usage_count;
    for (size_t i = 0; i < a->drop_count && equal; i++)
        equal = a->drops[i].step == b->drops[i].step && a->drops[i].pairs == b->drops[i].pairs &&
                strcmp(a->drops[i].reason, b->drops[i].reason) == 0;
    for (size_t i = 0; i < a->usage_count && equal; i++)
        equal = a->usage[i].step == b->usage[i].step &&
                a->usage[i].requests == b->usage[i].requests &&
                a->usage[i].prompt_tokens == b->usage[i].prompt_tokens &&
                a->usage[i].cached_tokens == b->usage[i].cached_tokens &&
                a->usage[i].output_tokens == b->usage[i].output_tokens;
    return equal;
}

// True when task and pairs are those of example `number`.
static inline bool is_example(const struct reflection_task *task, const struct reflection *pairs,
                              uint32_t number, uint32_t variant)
{
    struct example example;
    example_fill(&example, number, variant);
    bool equal = task_equal(task, &example.task);
    for (uint32_t i = 0; i < task->pairs && equal; i++)
        equal = pair_equal(&pairs[i], &example.pairs[i]);
    return equal;
}

static inline int make_scratch(void **state)
{
    char *directory = mem_strdup("/tmp/memo-reflections-XXXXXX");
    *state = directory;
    return mkdtemp(directory) ? 0 : -1;
}

static inline void remove_tree(const char *path)
{
    struct fs_names names;
    struct error err;
    if (unlink(path) == 0 || fs_list(fs_system(), path, &names, &err) != 0)
        return;
    for (size_t i = 0; i < names.count; i++) {
        char *inside = fs_join(path, names.names[i]);
        remove_tree(inside);
        free(inside);
    }
    fs_names_release(&names);
    rmdir(path);
}

static inline int remove_scratch(void **state)
{
    remove_tree(*state);
    free(*state);
    return 0;
}

static inline size_t count_names(const char *directory)
{
    struct fs_names names;
    struct error err;
    if (fs_list(fs_system(), directory, &names, &err) != 0)
        return SIZE_MAX;
    size_t count = names.count;
    fs_names_release(&names);
    return count;
}

#define WITH_SCRATCH(test) cmocka_unit_test_setup_teardown(test, make_scratch, remove_scratch)

#endif
