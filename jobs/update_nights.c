// SPDX-License-Identifier: Apache-2.0
#include "jobs/update_nights.h"

#include "base/clock.h"
#include "base/fs.h"
#include "base/mem.h"
#include "jobs/update_job.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NIGHTS_SHOWN 7
#define LINK_BYTES 4096

static char *runs_path(const char *directory)
{
    return fs_join(directory, "runs.jsonl");
}

int update_night_add(const struct update_state *state, const struct update_night *night,
                     struct error *err)
{
    struct strbuf text = {0};
    struct json_writer w = {.out = &text};
    char *path = runs_path(state->directory);
    char ended[24];
    int rc = fs_exists(fs_system(), path) ? fs_read(fs_system(), path, &text, err) : 0;
    clock_format_utc(ended);
    json_begin_object(&w);
    json_key(&w, "started");
    json_text(&w, night->started);
    json_key(&w, "ended");
    json_text(&w, ended);
    json_key(&w, "seconds");
    json_number(&w, night->seconds);
    json_key(&w, "result");
    json_text(&w, night->result);
    json_key(&w, "round");
    json_int(&w, (int64_t)night->round);
    if (night->reason) {
        json_key(&w, "reason");
        json_text_repaired(&w, night->reason);
    }
    json_end_object(&w);
    strbuf_addc(&text, '\n');
    if (rc == 0)
        rc = fs_write_text(fs_system(), path, text.bytes, text.length, err);
    strbuf_release(&text);
    free(path);
    return rc;
}

bool update_nights_are_in(const char *directory)
{
    char *state = fs_join(directory, "state.json"), *lock = fs_join(directory, "lock");
    const bool found = fs_exists(fs_system(), state) && fs_exists(fs_system(), lock);
    free(state);
    free(lock);
    return found;
}

// Of the last lines at most NIGHTS_SHOWN, in place; text is changed. How many.
static size_t last_lines(struct strbuf *text, char *lines[NIGHTS_SHOWN])
{
    size_t count = 0;
    char *line = text->length > 0 ? text->bytes : NULL;
    for (char *end; line && *line; line = end ? end + 1 : NULL) {
        end = strchr(line, '\n');
        if (end)
            *end = '\0';
        if (count == NIGHTS_SHOWN)
            memmove(lines, lines + 1, (--count) * sizeof(*lines));
        lines[count++] = line;
    }
    return count;
}

static int print_night(struct arena *arena, const char *line, struct error *err)
{
    const struct json *night;
    const char *started = "?", *result = "?", *reason = NULL;
    double seconds = 0;
    int64_t round = 0;
    char duration[32];
    if (json_parse(arena, line, strlen(line), &night, err) ||
        json_get_string(night, "started", &started, err) ||
        json_get_string(night, "result", &result, err) ||
        json_get_string(night, "reason", &reason, err) ||
        json_get_number(night, "seconds", &seconds, err) ||
        json_get_int(night, "round", 0, INT64_MAX, &round, err))
        return -1;
    clock_format_duration(seconds, duration, sizeof(duration));
    printf("%-20s  %-11s  %5lld  %8s%s%s\n", started, result, (long long)round, duration,
           reason ? "  " : "", reason ? reason : "");
    return 0;
}

static int print_nights(const char *directory, bool json, struct error *err)
{
    struct strbuf text = {0};
    struct arena arena = {0};
    char *lines[NIGHTS_SHOWN], *path = runs_path(directory);
    int rc = fs_exists(fs_system(), path) ? fs_read(fs_system(), path, &text, err) : 0;
    const size_t count = rc == 0 ? last_lines(&text, lines) : 0;
    if (json && rc == 0)
        printf(",\"last\":%s", count > 0 ? lines[count - 1] : "null");
    else if (count > 0)
        printf("started               result       round      time\n");
    for (size_t i = 0; i < count && rc == 0 && !json; i++)
        rc = print_night(&arena, lines[i], err) ? error_prefix(err, "'%s'", path) : 0;
    arena_release(&arena);
    strbuf_release(&text);
    free(path);
    return rc;
}

// Caller frees; "-" when there is none.
static char *read_memory(const char *directory)
{
    char target[LINK_BYTES], *link = fs_join(directory, "memory");
    const ssize_t length = readlink(link, target, sizeof(target) - 1);
    free(link);
    return length > 0 ? mem_printf("%.*s", (int)length, target) : mem_strdup("-");
}

static size_t find_open_round(const struct update_state *state)
{
    char *path = update_state_path(state, state->finished + 1, "round.json");
    const bool open = fs_exists(fs_system(), path);
    free(path);
    return open ? state->finished + 1 : 0;
}

static int print_state(const struct update_state *state, bool runs, bool json, size_t open,
                       struct error *err)
{
    char *memory = read_memory(state->directory);
    struct strbuf text = {0};
    struct json_writer w = {.out = &text};
    if (json) {
        json_text_repaired(&w, state->directory);
        printf("{\"verb\":\"update\",\"output\":%s", text.bytes);
        strbuf_reset(&text);
        w = (struct json_writer){.out = &text};
        json_text_repaired(&w, memory);
        printf(",\"memory\":%s,\"rounds\":%zu,\"open_round\":%zu,\"running\":%s", text.bytes,
               state->finished, open, runs ? "true" : "false");
    }
    int rc = print_nights(state->directory, json, err);
    if (json) {
        printf("}\n");
    } else if (rc == 0) {
        if (state->finished > 0)
            update_print_history(state);
        printf("the memory is %s%s\n", memory, runs ? "; an update runs now" : "");
        if (open > 0)
            printf("round %zu is begun and not finished%s\n", open,
                   runs ? "" : "; the same memo update continues it");
    }
    strbuf_release(&text);
    free(memory);
    return rc;
}

int update_nights_print(const char *directory, bool json, size_t *open, struct error *err)
{
    struct update_state state;
    bool runs = false;
    int rc = update_state_look(directory, &state, &runs, err);
    *open = rc == 0 ? find_open_round(&state) : 0;
    if (rc == 0)
        rc = print_state(&state, runs, json, *open, err);
    update_state_close(&state);
    return rc;
}
