// SPDX-License-Identifier: Apache-2.0
#include "jobs/update_job.h"

#include "base/clock.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/mem.h"
#include "jobs/verbs.h"

#include <stdlib.h>
#include <string.h>

const struct update_stage update_stages[UPDATE_STAGES] = {
    {"generate", "reflections", true},
    {"train", "model", true},
    {"vector", "vector.safetensors", false},
    {"merge", "merged", false},
};

int update_round_write(const struct update *update, struct error *err)
{
    struct strbuf text = {0};
    struct json_writer w = {.out = &text};
    char started[24];
    clock_format_utc(started);
    json_begin_object(&w);
    json_key(&w, "started");
    json_text(&w, started);
    for (int s = 0; s < UPDATE_STAGES; s++) {
        json_key(&w, update_stages[s].verb);
        json_text_repaired(&w, update->options->words[s]);
    }
    json_end_object(&w);
    strbuf_addc(&text, '\n');
    char *path = update_state_path(&update->state, update->round, "round.json");
    const int rc = fs_write_text(fs_system(), path, text.bytes, text.length, err);
    free(path);
    strbuf_release(&text);
    return rc;
}

int update_round_json(const struct update *update, const char *name, struct arena *arena,
                      const struct json **out, struct error *err)
{
    struct strbuf text = {0};
    char *path = update_state_path(&update->state, update->round, name);
    int rc = fs_read(fs_system(), path, &text, err) ||
                     json_parse(arena, text.bytes, text.length, out, err)
                 ? error_prefix(err, "'%s'", path)
                 : 0;
    free(path);
    strbuf_release(&text);
    return rc;
}

static int read_round(struct update *update, struct error *err)
{
    struct arena arena = {0};
    const struct json *root;
    int rc = update_round_json(update, "round.json", &arena, &root, err);
    for (int s = 0; rc == 0 && s < UPDATE_STAGES; s++) {
        const char *words = "";
        rc = json_get_string(root, update_stages[s].verb, &words, err);
        if (rc == 0 && strcmp(words, update->options->words[s]) != 0)
            log_warn("round %zu began with --%s '%s' and ends with it", update->round,
                     update_stages[s].verb, words);
        free(update->words[s]);
        update->words[s] = mem_strdup(words);
    }
    arena_release(&arena);
    return rc;
}

// --- stages ---

static void add_pair(struct words *words, const char *option, const char *value)
{
    words_add(words, option);
    words_add(words, value);
}

void update_add_path(const struct update *update, struct words *words, const char *option,
                     const char *name)
{
    char *path = update_state_path(&update->state, update->round, name);
    add_pair(words, option, path);
    free(path);
}

// Of rounds that had a pair to learn. What was rolled back is merged no more, and stays known.
void update_add_files(const struct update *update, struct words *words, size_t rounds,
                      const char *name)
{
    const bool is_vector = strcmp(name, update_stages[UPDATE_VECTOR].output) == 0;
    for (size_t n = 1; n <= rounds; n++) {
        char *path = update_state_path(&update->state, n, name);
        if (fs_exists(fs_system(), path) &&
            !(is_vector && update_state_is_withdrawn(&update->state, n)))
            words_add(words, path);
        free(path);
    }
}

void update_add_list(struct words *words, const struct option_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        words_add(words, list->items[i]);
}

static void build_command(const struct update *update, int stage, struct words *words)
{
    words_add(words, update_stages[stage].verb);
    if (stage != UPDATE_GENERATE)
        add_pair(words, "--base", update->state.base);
    switch (stage) {
    case UPDATE_GENERATE:
        update_add_path(update, words, "--corpus", "corpus.h5");
        break;
    case UPDATE_TRAIN:
        update_add_path(update, words, "--data", update_stages[UPDATE_GENERATE].output);
        break;
    case UPDATE_VECTOR:
        update_add_path(update, words, "--tuned", update_stages[UPDATE_TRAIN].output);
        break;
    default:
        words_add(words, "--vectors");
        update_add_list(words, &update->options->vectors);
        update_add_files(update, words, update->round, update_stages[UPDATE_VECTOR].output);
    }
    update_add_path(update, words, "--out", update_stages[stage].output);
    words_split(words, update->words[stage]);
}

static struct digest digest_inputs(const struct words *command, struct digest before)
{
    struct digest_builder builder;
    digest_begin(&builder);
    digest_field(&builder, &before, sizeof(before));
    for (size_t i = 0; i < command->count; i++)
        digest_field_text(&builder, command->items[i]);
    return digest_end(&builder);
}

// Generate and train know how long they need to stop; what has no checkpoint is short, and starts
// anew.
static int run_in_time(const struct update *update, int stage, struct words *command, int *code,
                       struct error *err)
{
    struct words launch = {0};
    const double left = update->limit.end_seconds - clock_seconds();
    *code = EXIT_STOPPED;
    if (time_limit_is_near(&update->limit, clock_seconds())) {
        log_warn("%.0f s are left: stopping before %s", left, update_stages[stage].verb);
        return 0;
    }
    if (update_stages[stage].all_ranks)
        words_split(&launch, update->options->launch);
    if (update_stages[stage].all_ranks && update->limit.end_seconds > 0) {
        char *option = mem_printf("--time-left=%.0f", left);
        words_add(command, option);
        free(option);
    }
    log_info("round %zu: %s", update->round, update_stages[stage].verb);
    const int rc = stage_run(&launch, command, code, err);
    words_release(&launch);
    return rc;
}

// Runs a stage unless it is done; *content goes in as what the stage before made and out as what
// this one did.
static int run_stage(struct update *update, int stage, struct digest *content, int *code,
                     struct error *err)
{
    struct words command = {0};
    const double start = clock_seconds();
    char *name = mem_printf("%s.done", update_stages[stage].verb);
    char *mark = update_state_path(&update->state, update->round, name);
    char *output = update_state_path(&update->state, update->round, update_stages[stage].output);
    int rc = 0;
    build_command(update, stage, &command);
    const struct digest inputs = digest_inputs(&command, *content);
    *code = EXIT_DONE;
    if (stage_is_done(mark, inputs, output, content)) {
        log_info("round %zu: %s was done before", update->round, update_stages[stage].verb);
    } else {
        rc = run_in_time(update, stage, &command, code, err);
        if (rc == 0 && *code == EXIT_DONE)
            rc = stage_mark(mark, inputs, output, clock_seconds() - start, content, err);
        else if (rc == 0 && *code != EXIT_STOPPED)
            rc = error_set(err, "round %zu: memo %s failed, as it says above", update->round,
                           update_stages[stage].verb);
    }
    free(name);
    free(mark);
    free(output);
    words_release(&command);
    return rc;
}

static int read_pairs(const struct update *update, int64_t *pairs, struct error *err)
{
    struct arena arena = {0};
    const struct json *summary;
    *pairs = 0;
    const int rc =
        update_round_json(update, "reflections/run/summary.json", &arena, &summary, err) ||
                json_get_int(summary, "pairs", 0, INT64_MAX, pairs, err)
            ? -1
            : 0;
    arena_release(&arena);
    return rc;
}

int update_round_run(struct update *update, int64_t *pairs, int *code, struct error *err)
{
    char *corpus = update_state_path(&update->state, update->round, "corpus.h5");
    struct digest content;
    int rc = read_round(update, err) || stage_digest(corpus, &content, err) ? -1 : 0;
    free(corpus);
    if (rc == 0)
        rc = run_stage(update, UPDATE_GENERATE, &content, code, err);
    if (rc == 0 && *code == EXIT_DONE)
        rc = read_pairs(update, pairs, err);
    for (int s = UPDATE_TRAIN; rc == 0 && *code == EXIT_DONE && *pairs > 0 && s < UPDATE_STAGES;
         s++)
        rc = run_stage(update, s, &content, code, err);
    return rc;
}
