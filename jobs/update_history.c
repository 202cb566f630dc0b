// SPDX-License-Identifier: Apache-2.0
#include "jobs/update_job.h"

#include "base/clock.h"
#include "base/fs.h"
#include "base/mem.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static double read_loss(const struct update *update)
{
    struct arena arena = {0};
    const struct json *summary;
    double loss = 0;
    if (update_round_json(update, "model/run/summary.json", &arena, &summary, NULL) == 0)
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

int update_round_finish(struct update *update, int64_t pairs, struct error *err)
{
    struct strbuf line = {0};
    int rc = describe_round(update, pairs, &line, err);
    if (rc == 0 && pairs > 0)
        rc = update_state_point(&update->state, update->round, update_stages[UPDATE_MERGE].output,
                                err);
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

void update_print_history(const struct update_state *state)
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
        printf("%5zu  %-20s  %9" PRId64 "  %7zu  %8zu  %8" PRId64 "  %6.4f  %8s%s\n", n + 1, ended,
               integer_of(ingest, "documents"), length_of(ingest, "changed"),
               length_of(ingest, "vanished"), integer_of(line, "pairs"), loss, duration,
               update_state_is_withdrawn(state, n + 1) ? "  rolled back" : "");
    }
}

// The stages of the round that ended last, as memo status shows them.
void update_print_stages(const struct update *update)
{
    struct words command = {0}, none = {0};
    int code;
    words_add(&command, "status");
    const char *outputs[] = {
        "corpus.h5", update_stages[UPDATE_GENERATE].output, update_stages[UPDATE_TRAIN].output,
        update_stages[UPDATE_VECTOR].output, update_stages[UPDATE_MERGE].output};
    for (size_t i = 0; i < sizeof(outputs) / sizeof(outputs[0]); i++) {
        char *path = update_state_path(&update->state, update->state.finished, outputs[i]);
        if (fs_exists(fs_system(), path))
            words_add(&command, path);
        free(path);
    }
    (void)stage_run(&none, &command, &code, NULL); // a table, no result
    words_release(&command);
}
