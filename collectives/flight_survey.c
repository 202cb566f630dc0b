// SPDX-License-Identifier: Apache-2.0
// Reads the flight records of a job's ranks and finds who is missing. Per transport: the call with
// the highest number that a rank is still inside is the one that cannot complete; a rank is missing
// in it when its own record ends before it, says another call of that number, or is not there.
#include "collectives/flight.h"

#include "base/json.h"
#include "base/mem.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    RANKS_LIMIT = 1 << 16, // of a file that says more is not believed
    TRANSPORTS_LIMIT = 4,  // in one job: control and gradients
};

struct survey_call {
    const char *transport; // in the arena
    const char *call;
    int64_t number;
    int64_t bytes;
    int64_t step; // -1: none
    double enter;
    double leave; // 0: inside
};

// One rank's record. Its last calls of each transport are the only ones that tell anything.
struct survey_rank {
    bool there;
    struct survey_call last[TRANSPORTS_LIMIT];
    size_t last_count;
};

struct survey {
    struct arena arena;
    int ranks;
    double written; // latest
    struct survey_rank *records;
};

static int parse_call(const struct json *object, struct survey_call *out, struct error *err)
{
    *out = (struct survey_call){.transport = "?", .call = "?", .step = -1};
    return json_get_string(object, "transport", &out->transport, err) ||
                   json_get_string(object, "call", &out->call, err) ||
                   json_get_int(object, "number", 0, INT64_MAX, &out->number, err) ||
                   json_get_int(object, "bytes", 0, INT64_MAX, &out->bytes, err) ||
                   json_get_int(object, "step", 0, INT64_MAX, &out->step, err) ||
                   json_get_number(object, "enter", &out->enter, err) ||
                   json_get_number(object, "leave", &out->leave, err)
               ? -1
               : 0;
}

static void keep_last(struct survey_rank *rank, const struct survey_call *call)
{
    size_t i = 0;
    while (i < rank->last_count && strcmp(rank->last[i].transport, call->transport) != 0) {
        i++;
    }
    if (i == TRANSPORTS_LIMIT) {
        return;
    }
    if (i == rank->last_count) {
        rank->last[rank->last_count++] = *call;
    } else if (call->number >= rank->last[i].number) {
        rank->last[i] = *call;
    }
}

static int parse_calls(const struct json *root, struct survey_rank *rank, struct error *err)
{
    const struct json *calls = json_get(root, "calls");
    if (!calls || calls->type != JSON_ARRAY) {
        return error_set(err, "no list of 'calls'");
    }
    for (size_t i = 0; i < calls->length; i++) {
        struct survey_call call;
        if (parse_call(&calls->items[i], &call, err) != 0) {
            return error_prefix(err, "call %zu", i);
        }
        keep_last(rank, &call);
    }
    return 0;
}

static void survey_grow(struct survey *survey, int ranks)
{
    if (ranks <= survey->ranks) {
        return;
    }
    survey->records = mem_realloc(survey->records, (size_t)ranks * sizeof(*survey->records));
    memset(survey->records + survey->ranks, 0,
           (size_t)(ranks - survey->ranks) * sizeof(*survey->records));
    survey->ranks = ranks;
}

static int parse_record(struct survey *survey, const struct strbuf *text, struct error *err)
{
    const struct json *root;
    int64_t format = 0, rank = -1, ranks = 0;
    double written = 0;
    if (json_parse(&survey->arena, text->bytes, text->length, &root, err) ||
        json_get_int(root, "format", 0, INT32_MAX, &format, err)) {
        return -1;
    }
    if (format != 1) {
        return error_set(err, "format %" PRId64 ", but this memo reads format 1", format);
    }
    if (json_get_int(root, "ranks", 1, RANKS_LIMIT, &ranks, err) ||
        json_get_int(root, "rank", 0, RANKS_LIMIT, &rank, err) ||
        json_get_number(root, "written", &written, err)) {
        return -1;
    }
    if (rank < 0 || rank >= ranks) {
        return error_set(err, "rank %" PRId64 " of %" PRId64, rank, ranks);
    }
    survey_grow(survey, (int)ranks);
    survey->records[rank].there = true;
    survey->written = written > survey->written ? written : survey->written;
    return parse_calls(root, &survey->records[rank], err);
}

static bool is_record(const char *name)
{
    int rank = 0, end = 0;
    return sscanf(name, "rank-%d.json%n", &rank, &end) == 1 && end > 0 && name[end] == '\0';
}

static int read_records(struct survey *survey, struct fs *fs, const char *directory,
                        struct error *err)
{
    struct fs_names names;
    int rc = fs_list(fs, directory, &names, err);
    if (rc != 0) {
        return -1;
    }
    for (size_t i = 0; rc == 0 && i < names.count; i++) {
        if (!is_record(names.names[i])) {
            continue;
        }
        struct strbuf text = {0};
        char *path = fs_join(directory, names.names[i]);
        rc = fs_read(fs, path, &text, err);
        if (rc == 0 && parse_record(survey, &text, err) != 0) {
            rc = error_prefix(err, "flight record '%s'", path);
        }
        free(path);
        strbuf_release(&text);
    }
    fs_names_release(&names);
    return rc;
}

static const struct survey_call *last_of(const struct survey_rank *rank, const char *transport)
{
    for (size_t i = 0; rank->there && i < rank->last_count; i++) {
        if (strcmp(rank->last[i].transport, transport) == 0) {
            return &rank->last[i];
        }
    }
    return NULL;
}

// The call in which somebody waits and that comes last, over all transports but those done before.
static const struct survey_call *find_stuck(const struct survey *survey,
                                            const struct survey_call *const *done,
                                            size_t done_count)
{
    const struct survey_call *stuck = NULL;
    for (int r = 0; r < survey->ranks; r++) {
        const struct survey_rank *rank = &survey->records[r];
        for (size_t i = 0; rank->there && i < rank->last_count; i++) {
            const struct survey_call *call = &rank->last[i];
            bool known = call->leave != 0;
            for (size_t d = 0; d < done_count; d++) {
                known = known || strcmp(done[d]->transport, call->transport) == 0;
            }
            if (!known && (!stuck || (strcmp(stuck->transport, call->transport) == 0 &&
                                      call->number > stuck->number))) {
                stuck = call;
            }
        }
    }
    return stuck;
}

static bool is_inside(const struct survey_call *call, const struct survey_call *stuck)
{
    return call != NULL && call->number >= stuck->number && strcmp(call->call, stuck->call) == 0;
}

static void add_waiting(const struct survey *survey, const struct survey_call *stuck,
                        struct strbuf *out)
{
    int count = 0, first = -1;
    for (int r = 0; r < survey->ranks; r++) {
        if (is_inside(last_of(&survey->records[r], stuck->transport), stuck)) {
            first = count++ == 0 ? r : first;
        }
    }
    if (count == 1) {
        strbuf_addf(out, "rank %d waits", first);
        return;
    }
    for (int r = first, n = 0; r < survey->ranks; r++) {
        if (is_inside(last_of(&survey->records[r], stuck->transport), stuck)) {
            strbuf_addf(out, "%s%d", n++ == 0 ? "ranks " : ", ", r);
        }
    }
    strbuf_adds(out, " wait");
}

static void add_call(const struct survey_call *call, struct strbuf *out)
{
    strbuf_addf(out, "%s number %" PRId64, call->call, call->number);
    if (call->step >= 0) {
        strbuf_addf(out, " at step %" PRId64, call->step);
    }
}

static void add_missing(const struct survey *survey, int r, const struct survey_call *stuck,
                        struct strbuf *out)
{
    const struct survey_rank *rank = &survey->records[r];
    const struct survey_call *last = last_of(rank, stuck->transport);
    if (out->length > 0) {
        strbuf_addc(out, '\n');
    }
    strbuf_addf(out, "rank %d has not entered ", r);
    add_call(stuck, out);
    strbuf_addf(out, " (%s, %" PRId64 " bytes), in which ", stuck->transport, stuck->bytes);
    add_waiting(survey, stuck, out);
    if (!rank->there) {
        strbuf_adds(out,
                    "; it left no record: it hangs, was stopped or killed, or its host is gone");
    } else if (!last) {
        strbuf_adds(out, "; it made no such call before");
    } else {
        strbuf_adds(out, last->leave == 0 ? "; it is in " : "; its last was ");
        add_call(last, out);
    }
}

static int find_missing(const struct survey *survey, struct strbuf *out)
{
    const struct survey_call *done[TRANSPORTS_LIMIT];
    size_t done_count = 0;
    int missing = 0;
    const struct survey_call *stuck;
    while (done_count < TRANSPORTS_LIMIT && (stuck = find_stuck(survey, done, done_count))) {
        for (int r = 0; r < survey->ranks; r++) {
            if (!is_inside(last_of(&survey->records[r], stuck->transport), stuck)) {
                add_missing(survey, r, stuck, out);
                missing++;
            }
        }
        done[done_count++] = stuck;
    }
    return missing;
}

int flight_survey(struct fs *fs, const char *directory, struct strbuf *out, struct error *err)
{
    struct survey survey = {0};
    if (!fs_exists(fs, directory)) {
        return 0;
    }
    int rc = read_records(&survey, fs, directory, err);
    if (rc == 0) {
        rc = find_missing(&survey, out);
    }
    arena_release(&survey.arena);
    free(survey.records);
    return rc;
}

int flight_clear(struct fs *fs, const char *directory, struct error *err)
{
    struct fs_names names;
    int rc = fs_list(fs, directory, &names, err);
    if (rc != 0) {
        return -1;
    }
    for (size_t i = 0; rc == 0 && i < names.count; i++) {
        if (!is_record(names.names[i])) {
            continue;
        }
        char *path = fs_join(directory, names.names[i]);
        const int failed = fs->ops->remove(fs->state, path);
        if (failed < 0) {
            rc = error_set_errno(err, -failed, "cannot remove '%s'", path);
        }
        free(path);
    }
    fs_names_release(&names);
    return rc;
}
