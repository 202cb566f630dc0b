// SPDX-License-Identifier: Apache-2.0
// memo update: what is new since the last time becomes part of the memory.
//
// A round is the chain of the plain verbs on the new documents alone:
//
//     ingest --known -> generate -> train -> vector -> merge with the vectors of all rounds before
//
// Each stage is a process of its own and leaves a mark (jobs/stage.h) once its output stands; the
// same command continues a round that was stopped or killed, with the options that it began with,
// and then looks for what is new since. Nothing new is a good end.
#include "base/clock.h"
#include "base/fs.h"
#include "base/log.h"
#include "base/mem.h"
#include "jobs/compute.h"
#include "jobs/stage.h"
#include "jobs/update_state.h"
#include "jobs/verbs.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GENERATE, TRAIN, VECTOR, MERGE, STAGES }; // those behind ingest

static const struct {
    const char *verb;
    const char *output; // in the round's directory
    bool all_ranks;     // behind --launch
} stages[STAGES] = {
    {"generate", "reflections", true},
    {"train", "model", true},
    {"vector", "vector.safetensors", false},
    {"merge", "merged", false},
};

struct update_options {
    const char *state;
    const char *base;
    const char *launch;
    const char *ingest;
    const char *words[STAGES];
    struct option_list known;
    struct option_list vectors;
};

#define OPTION_AT(field) offsetof(struct update_options, field)

static const struct option update_option_table[] = {
    {"state", OPTION_STRING, OPTION_AT(state), "DIR", NULL, 0, 0, NULL,
     "what is kept between updates: known documents, task vectors, models, history", true},
    {"base", OPTION_STRING, OPTION_AT(base), "DIR", NULL, 0, 0, NULL,
     "model directory that every training begins with; needed for a new state", false},
    {"launch", OPTION_STRING, OPTION_AT(launch), "WORDS", "", 0, 0, NULL,
     "what starts generate and train on several ranks, as 'mpirun -np 8'", false},
    {"ingest", OPTION_STRING, OPTION_AT(ingest), "WORDS", "", 0, 0, NULL,
     "further options of memo ingest, as --ingest='--chunk-tokens 1000'", false},
    {"generate", OPTION_STRING, OPTION_AT(words[GENERATE]), "WORDS", "", 0, 0, NULL,
     "of memo generate", false},
    {"train", OPTION_STRING, OPTION_AT(words[TRAIN]), "WORDS", "", 0, 0, NULL, "of memo train",
     false},
    {"vector", OPTION_STRING, OPTION_AT(words[VECTOR]), "WORDS", "", 0, 0, NULL, "of memo vector",
     false},
    {"merge", OPTION_STRING, OPTION_AT(words[MERGE]), "WORDS", "", 0, 0, NULL, "of memo merge",
     false},
    {"known", OPTION_LIST, OPTION_AT(known), "FILE...", NULL, 0, 0, NULL,
     "corpora whose documents are known besides those of earlier rounds", false},
    {"vectors", OPTION_LIST, OPTION_AT(vectors), "FILE...", NULL, 0, 0, NULL,
     "task vectors that are merged besides those of the rounds", false},
    {0},
};

struct update {
    const struct update_options *options;
    const struct option_list *paths;
    struct update_state state;
    size_t round;         // under work
    char *words[STAGES];  // of this round
    double began_seconds; // this command's work on the round
};

// --- the round's own file: what its stages are called with ---

static int write_round(const struct update *update, struct error *err)
{
    struct strbuf text = {0};
    struct json_writer w = {.out = &text};
    char started[24];
    clock_format_utc(started);
    json_begin_object(&w);
    json_key(&w, "started");
    json_text(&w, started);
    for (int s = 0; s < STAGES; s++) {
        json_key(&w, stages[s].verb);
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

static int read_json(const struct update *update, const char *name, struct arena *arena,
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
    int rc = read_json(update, "round.json", &arena, &root, err);
    for (int s = 0; rc == 0 && s < STAGES; s++) {
        const char *words = "";
        rc = json_get_string(root, stages[s].verb, &words, err);
        if (rc == 0 && strcmp(words, update->options->words[s]) != 0)
            log_warn("round %zu began with --%s '%s' and ends with it", update->round,
                     stages[s].verb, words);
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

static void add_path(const struct update *update, struct words *words, const char *option,
                     const char *name)
{
    char *path = update_state_path(&update->state, update->round, name);
    add_pair(words, option, path);
    free(path);
}

// Of rounds that had a pair to learn.
static void add_files_of_rounds(const struct update *update, struct words *words, size_t rounds,
                                const char *name)
{
    for (size_t n = 1; n <= rounds; n++) {
        char *path = update_state_path(&update->state, n, name);
        if (fs_exists(fs_system(), path))
            words_add(words, path);
        free(path);
    }
}

static void add_list(struct words *words, const struct option_list *list)
{
    for (size_t i = 0; i < list->count; i++)
        words_add(words, list->items[i]);
}

static void build_command(const struct update *update, int stage, struct words *words)
{
    words_add(words, stages[stage].verb);
    if (stage != GENERATE)
        add_pair(words, "--base", update->state.base);
    switch (stage) {
    case GENERATE:
        add_path(update, words, "--corpus", "corpus.h5");
        break;
    case TRAIN:
        add_path(update, words, "--data", stages[GENERATE].output);
        break;
    case VECTOR:
        add_path(update, words, "--tuned", stages[TRAIN].output);
        break;
    default:
        words_add(words, "--vectors");
        add_list(words, &update->options->vectors);
        add_files_of_rounds(update, words, update->round, stages[VECTOR].output);
    }
    add_path(update, words, "--out", stages[stage].output);
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

// Runs a stage unless it is done; *content goes in as what the stage before made and out as what
// this one did.
static int run_stage(struct update *update, int stage, struct digest *content, int *code,
                     struct error *err)
{
    struct words command = {0}, launch = {0};
    const double start = clock_seconds();
    char *name = mem_printf("%s.done", stages[stage].verb);
    char *mark = update_state_path(&update->state, update->round, name);
    char *output = update_state_path(&update->state, update->round, stages[stage].output);
    int rc = 0;
    build_command(update, stage, &command);
    const struct digest inputs = digest_inputs(&command, *content);
    *code = EXIT_DONE;
    if (stage_is_done(mark, inputs, output, content)) {
        log_info("round %zu: %s was done before", update->round, stages[stage].verb);
    } else {
        if (stages[stage].all_ranks)
            words_split(&launch, update->options->launch);
        log_info("round %zu: %s", update->round, stages[stage].verb);
        rc = stage_run(&launch, &command, code, err);
        if (rc == 0 && *code == EXIT_DONE)
            rc = stage_mark(mark, inputs, output, clock_seconds() - start, content, err);
        else if (rc == 0 && *code != EXIT_STOPPED)
            rc = error_set(err, "round %zu: memo %s failed, as it says above", update->round,
                           stages[stage].verb);
    }
    free(name);
    free(mark);
    free(output);
    words_release(&command);
    words_release(&launch);
    return rc;
}

static int read_pairs(const struct update *update, int64_t *pairs, struct error *err)
{
    struct arena arena = {0};
    const struct json *summary;
    *pairs = 0;
    const int rc = read_json(update, "reflections/run/summary.json", &arena, &summary, err) ||
                           json_get_int(summary, "pairs", 0, INT64_MAX, pairs, err)
                       ? -1
                       : 0;
    arena_release(&arena);
    return rc;
}

// Whatever the round's documents say: without a pair there is nothing to train on.
static int run_stages(struct update *update, int64_t *pairs, int *code, struct error *err)
{
    char *corpus = update_state_path(&update->state, update->round, "corpus.h5");
    struct digest content;
    int rc = stage_digest(corpus, &content, err);
    free(corpus);
    if (rc == 0)
        rc = run_stage(update, GENERATE, &content, code, err);
    if (rc == 0 && *code == EXIT_DONE)
        rc = read_pairs(update, pairs, err);
    for (int s = TRAIN; rc == 0 && *code == EXIT_DONE && *pairs > 0 && s < STAGES; s++)
        rc = run_stage(update, s, &content, code, err);
    return rc;
}

// --- history ---

static double read_loss(const struct update *update)
{
    struct arena arena = {0};
    const struct json *summary;
    double loss = 0;
    if (read_json(update, "model/run/summary.json", &arena, &summary, NULL) == 0)
        (void)json_get_number(summary, "last_loss", &loss, NULL);
    arena_release(&arena);
    return loss;
}

static int describe_round(const struct update *update, int64_t pairs, struct strbuf *out,
                          struct error *err)
{
    struct strbuf report = {0};
    struct json_writer w = {.out = out};
    char ended[24];
    char *path = update_state_path(&update->state, update->round, "ingest.json");
    const int rc = fs_read(fs_system(), path, &report, err);
    free(path);
    clock_format_utc(ended);
    if (rc == 0) {
        json_begin_object(&w);
        json_key(&w, "round");
        json_int(&w, (int64_t)update->round);
        json_key(&w, "ended");
        json_text(&w, ended);
        json_key(&w, "seconds");
        json_number(&w, clock_seconds() - update->began_seconds);
        json_key(&w, "pairs");
        json_int(&w, pairs);
        json_key(&w, "loss");
        json_number(&w, read_loss(update));
        json_key(&w, "ingest");
        json_raw(&w, report.bytes, strcspn(report.bytes, "\n"));
        json_end_object(&w);
    }
    strbuf_release(&report);
    return rc;
}

static int finish_round(struct update *update, int64_t pairs, struct error *err)
{
    struct strbuf line = {0};
    int rc = describe_round(update, pairs, &line, err);
    if (rc == 0 && pairs > 0)
        rc = update_state_point(&update->state, update->round, stages[MERGE].output, err);
    if (rc == 0)
        rc = update_state_finish_round(&update->state, &line, err);
    strbuf_release(&line);
    return rc;
}

static int64_t integer_of(const struct json *object, const char *key)
{
    int64_t value = 0;
    (void)json_get_int(object, key, 0, INT64_MAX, &value, NULL);
    return value;
}

static size_t length_of(const struct json *object, const char *key)
{
    const struct json *list = json_get(object, key);
    return list && list->type == JSON_ARRAY ? list->length : 0;
}

static void print_history(const struct update_state *state)
{
    printf(
        "round  ended                 documents  changed  vanished     pairs    loss      time\n");
    for (size_t n = 0; n < state->finished; n++) {
        const struct json *line = state->history[n], *ingest = json_get(line, "ingest");
        const char *ended = "?";
        double loss = 0, seconds = 0;
        char duration[32];
        (void)json_get_string(line, "ended", &ended, NULL);
        (void)json_get_number(line, "loss", &loss, NULL);
        (void)json_get_number(line, "seconds", &seconds, NULL);
        clock_format_duration(seconds, duration, sizeof(duration));
        printf("%5zu  %-20s  %9" PRId64 "  %7zu  %8zu  %8" PRId64 "  %6.4f  %8s\n", n + 1, ended,
               integer_of(ingest, "documents"), length_of(ingest, "changed"),
               length_of(ingest, "vanished"), integer_of(line, "pairs"), loss, duration);
    }
}

// The stages of the round that ended last, as memo status shows them.
static void print_stages(const struct update *update)
{
    struct words command = {0}, none = {0};
    int code;
    words_add(&command, "status");
    const char *outputs[] = {"corpus.h5", stages[GENERATE].output, stages[TRAIN].output,
                             stages[VECTOR].output, stages[MERGE].output};
    for (size_t i = 0; i < sizeof(outputs) / sizeof(outputs[0]); i++) {
        char *path = update_state_path(&update->state, update->state.finished, outputs[i]);
        if (fs_exists(fs_system(), path))
            words_add(&command, path);
        free(path);
    }
    (void)stage_run(&none, &command, &code, NULL); // a table, no result
    words_release(&command);
}

// --- rounds ---

static void build_ingest(const struct update *update, struct words *words)
{
    words_add(words, "ingest");
    add_path(update, words, "--out", "corpus.h5");
    add_path(update, words, "--report", "ingest.json");
    if (update->options->known.count > 0 || update->state.finished > 0)
        words_add(words, "--known");
    add_list(words, &update->options->known);
    add_files_of_rounds(update, words, update->state.finished, "corpus.h5");
    words_split(words, update->options->ingest);
    words_add(words, "--");
    add_list(words, update->paths);
}

static int make_round_directory(const struct update *update, struct error *err)
{
    char *path = update_state_path(&update->state, update->round, ".");
    const int rc = fs_make_directories(fs_system(), path, err);
    free(path);
    return rc;
}

// *documents: how many are new.
static int look_for_new(const struct update *update, int64_t *documents, int *code,
                        struct error *err)
{
    struct words command = {0}, none = {0};
    struct arena arena = {0};
    const struct json *report;
    *documents = 0;
    build_ingest(update, &command);
    int rc = make_round_directory(update, err) || stage_run(&none, &command, code, err) ? -1 : 0;
    if (rc == 0 && *code == EXIT_FAILED)
        rc = error_set(err, "memo ingest failed, as it says above");
    if (rc == 0 && *code == EXIT_DONE)
        rc = read_json(update, "ingest.json", &arena, &report, err) ||
                     json_get_int(report, "documents", 0, INT64_MAX, documents, err)
                 ? -1
                 : 0;
    arena_release(&arena);
    words_release(&command);
    return rc;
}

static int work_on_round(struct update *update, int *code, struct error *err)
{
    int64_t pairs = 0;
    if (read_round(update, err) || run_stages(update, &pairs, code, err))
        return -1;
    if (*code == EXIT_STOPPED)
        log_info("round %zu stopped; the same command continues", update->round);
    return *code == EXIT_DONE ? finish_round(update, pairs, err) : 0;
}

static void begin_round(struct update *update)
{
    update->round = update->state.finished + 1;
    update->began_seconds = clock_seconds();
}

static int finish_open_round(struct update *update, int *code, struct error *err)
{
    begin_round(update);
    char *path = update_state_path(&update->state, update->round, "round.json");
    const bool open = fs_exists(fs_system(), path);
    free(path);
    if (!open)
        return 0;
    log_info("round %zu was begun earlier and is continued", update->round);
    return work_on_round(update, code, err);
}

static int begin_new_round(struct update *update, int *code, struct error *err)
{
    int64_t documents;
    begin_round(update);
    if (look_for_new(update, &documents, code, err))
        return -1;
    if (*code != EXIT_DONE || documents == 0)
        return 0;
    return write_round(update, err) || work_on_round(update, code, err) ? -1 : 0;
}

static int update_memory(struct update *update, struct error *err)
{
    int code = EXIT_DONE;
    const size_t before = update->state.finished;
    if (finish_open_round(update, &code, err) ||
        (code == EXIT_DONE && begin_new_round(update, &code, err)))
        return EXIT_FAILED;
    if (code != EXIT_DONE)
        return code;
    if (update->state.finished > before)
        print_stages(update);
    else
        log_info("nothing new: the memory is up to date");
    print_history(&update->state);
    return EXIT_DONE;
}

static int run_update(const void *parsed, const struct option_list *paths, struct error *err)
{
    struct update update = {.options = parsed, .paths = paths};
    if (paths->count == 0) {
        error_set(err, "no input: name files or directories of text");
        return EXIT_USAGE;
    }
    stop_requests_catch();
    const int rc =
        update_state_open(update.options->state, update.options->base, &update.state, err);
    int code = rc < 0 ? EXIT_FAILED : EXIT_STOPPED;
    if (rc == 0)
        code = update_memory(&update, err);
    for (int s = 0; s < STAGES; s++)
        free(update.words[s]);
    update_state_close(&update.state);
    return code;
}

const struct verb verb_update = {
    .name = "update",
    .summary = "make what is new part of the memory: the whole chain, each night",
    .positional = "PATH...",
    .examples =
        "  memo update --state memory/ --base models/base texts/\n"
        "  memo update --state memory/ --launch 'mpirun -np 8' --train='--lr 1e-4' texts/\n"
        "The newest model is STATE/memory. The same command continues what was stopped, and "
        "does nothing when nothing is new.\n",
    .options = update_option_table,
    .options_bytes = sizeof(struct update_options),
    .run = run_update,
};
