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
#include "jobs/compute.h"
#include "jobs/update_job.h"
#include "jobs/update_nights.h"
#include "jobs/verbs.h"

#include <stdlib.h>

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
    {"generate", OPTION_STRING, OPTION_AT(words[UPDATE_GENERATE]), "WORDS", "", 0, 0, NULL,
     "of memo generate", false},
    {"train", OPTION_STRING, OPTION_AT(words[UPDATE_TRAIN]), "WORDS", "", 0, 0, NULL,
     "of memo train", false},
    {"vector", OPTION_STRING, OPTION_AT(words[UPDATE_VECTOR]), "WORDS", "", 0, 0, NULL,
     "of memo vector", false},
    {"merge", OPTION_STRING, OPTION_AT(words[UPDATE_MERGE]), "WORDS", "", 0, 0, NULL,
     "of memo merge", false},
    {"known", OPTION_LIST, OPTION_AT(known), "FILE...", NULL, 0, 0, NULL,
     "corpora whose documents are known besides those of earlier rounds", false},
    {"vectors", OPTION_LIST, OPTION_AT(vectors), "FILE...", NULL, 0, 0, NULL,
     "task vectors that are merged besides those of the rounds", false},
    {"rollback", OPTION_FLAG, OPTION_AT(rollback), NULL, NULL, 0, 0, NULL,
     "take the newest round back: the memory is the one before it; again for one more", false},
    {"time-left", OPTION_NUMBER, OPTION_AT(time_left), "S", "0", 0, 1e9, NULL,
     "seconds until this job is ended from outside: it stops by itself in time (0: no limit)",
     false},
    {0},
};

static void build_ingest(const struct update *update, struct words *words)
{
    words_add(words, "ingest");
    update_add_path(update, words, "--out", "corpus.h5");
    update_add_path(update, words, "--report", "ingest.json");
    if (update->options->known.count > 0 || update->state.finished > 0)
        words_add(words, "--known");
    update_add_list(words, &update->options->known);
    update_add_files(update, words, update->state.finished, "corpus.h5");
    words_split(words, update->options->ingest);
    words_add(words, "--");
    update_add_list(words, update->paths);
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
    if (rc == 0 && *code != EXIT_DONE && *code != EXIT_STOPPED)
        rc = error_set(err, "memo ingest failed, as it says above");
    if (rc == 0 && *code == EXIT_DONE)
        rc = update_round_json(update, "ingest.json", &arena, &report, err) ||
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
    if (update_round_run(update, &pairs, code, err))
        return -1;
    if (*code == EXIT_STOPPED)
        log_info("round %zu stopped; the same command continues", update->round);
    return *code == EXIT_DONE ? update_round_finish(update, pairs, err) : 0;
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
    return update_round_write(update, err) || work_on_round(update, code, err) ? -1 : 0;
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
        update_print_stages(update);
    else
        log_info("nothing new: the memory is up to date");
    update->nothing_new = update->state.finished == before;
    update_print_history(&update->state);
    return EXIT_DONE;
}

static int roll_back(struct update *update, struct error *err)
{
    size_t round;
    if (update_state_roll_back(&update->state, &round, err))
        return EXIT_FAILED;
    if (round == 0) {
        error_set(err, "'%s' has no round that could be taken back", update->state.directory);
        return EXIT_FAILED;
    }
    log_info("round %zu is taken back: its documents stay known, and are merged no more; who "
             "wants it again removes '%s/rounds/%04zu/withdrawn'",
             round, update->state.directory, round);
    update_print_history(&update->state);
    return EXIT_DONE;
}

static const char *result_of(const struct update *update, int code)
{
    if (code == EXIT_STOPPED)
        return "stopped";
    if (code != EXIT_DONE)
        return "failed";
    return update->options->rollback ? "rolled back" : update->nothing_new ? "nothing new" : "done";
}

static int work(struct update *update, struct error *err)
{
    struct error ignored;
    char started[24];
    const double begin = clock_seconds();
    clock_format_utc(started);
    const int code =
        update->options->rollback ? roll_back(update, err) : update_memory(update, err);
    const struct update_night night = {.started = started,
                                       .seconds = clock_seconds() - begin,
                                       .result = result_of(update, code),
                                       .round = update->state.finished,
                                       .reason = code == EXIT_FAILED ? err->text : NULL};
    if (update_night_add(&update->state, &night, &ignored))
        log_warn("%s: this update is missing in the list of memo status", ignored.text);
    return code;
}

static int run_update(const void *parsed, const struct option_list *paths, struct error *err)
{
    struct update update = {.options = parsed, .paths = paths};
    if (paths->count == 0 && !update.options->rollback) {
        error_set(err, "no input: name files or directories of text");
        return EXIT_USAGE;
    }
    update.limit = time_limit_after(clock_seconds(), update.options->time_left);
    stop_requests_catch();
    const int rc =
        update_state_open(update.options->state, update.options->base, &update.state, err);
    int code = rc < 0 ? EXIT_FAILED : EXIT_STOPPED;
    if (rc == 0)
        code = work(&update, err);
    for (int s = 0; s < UPDATE_STAGES; s++)
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
        "  memo update --state memory/ --rollback\n"
        "  memo status memory/\n"
        "The newest model is STATE/memory. The same command continues what was stopped, and "
        "does nothing when nothing is new.\n",
    .options = update_option_table,
    .options_bytes = sizeof(struct update_options),
    .run = run_update,
};
