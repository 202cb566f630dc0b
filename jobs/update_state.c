// SPDX-License-Identifier: Apache-2.0
#include "jobs/update_state.h"

#include "base/fs.h"
#include "base/log.h"
#include "base/mem.h"
#include "jobs/compute.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#define LOCK_LOOK_MS 200

char *update_state_path(const struct update_state *state, size_t number, const char *name)
{
    return mem_printf("%s/rounds/%04zu/%s", state->directory, number, name);
}

// Not closed on exec: see update_state_open.
static int take_lock(struct update_state *state, struct error *err)
{
    char *path = fs_join(state->directory, "lock");
    bool said = false;
    int rc = 0;
    state->lock_fd = open(path, O_RDWR | O_CREAT, 0666);
    if (state->lock_fd < 0)
        rc = error_set_errno(err, errno, "cannot open '%s'", path);
    while (rc == 0 && flock(state->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        if (errno != EWOULDBLOCK && errno != EINTR) {
            rc = error_set_errno(err, errno, "cannot lock '%s'", path);
            break;
        }
        if (!said)
            log_info("another update works on '%s'; waiting for it", state->directory);
        said = true;
        if (stop_requested())
            rc = UPDATE_STATE_STOPPED;
        nanosleep(&(struct timespec){.tv_nsec = LOCK_LOOK_MS * 1000000L}, NULL);
    }
    free(path);
    return rc;
}

static int read_base(const char *path, char **out, struct error *err)
{
    struct strbuf text = {0};
    struct arena arena = {0};
    const struct json *root;
    const char *base = NULL;
    int rc = fs_read(fs_system(), path, &text, err) ||
                     json_parse(&arena, text.bytes, text.length, &root, err) ||
                     json_get_string(root, "base", &base, err)
                 ? -1
                 : 0;
    if (rc == 0 && !base)
        rc = error_set(err, "no base is named");
    if (rc == 0)
        *out = mem_strdup(base);
    arena_release(&arena);
    strbuf_release(&text);
    return rc ? error_prefix(err, "'%s'", path) : 0;
}

// Task vectors are differences from one base: it stays for good.
static int keep_base(const char *path, const char *base, struct error *err)
{
    struct strbuf text = {0};
    struct json_writer w = {.out = &text};
    json_begin_object(&w);
    json_key(&w, "base");
    json_text_repaired(&w, base);
    json_end_object(&w);
    strbuf_addc(&text, '\n');
    const int rc = fs_write_text(fs_system(), path, text.bytes, text.length, err);
    strbuf_release(&text);
    return rc;
}

static int settle_base(struct update_state *state, const char *base, struct error *err)
{
    char *path = fs_join(state->directory, "state.json");
    int rc = 0;
    if (fs_exists(fs_system(), path)) {
        rc = read_base(path, &state->base, err);
        if (rc == 0 && base && strcmp(base, state->base) != 0)
            rc =
                error_set(err,
                          "'%s' began with the base '%s', not '%s': its task vectors fit no other; "
                          "use another --state",
                          state->directory, state->base, base);
    } else if (!base) {
        rc = error_set(err, "'%s' is a new state: name its base model with --base",
                       state->directory);
    } else {
        state->base = mem_strdup(base);
        rc = keep_base(path, base, err);
    }
    free(path);
    return rc;
}

static int parse_history(struct update_state *state, const struct strbuf *text, struct error *err)
{
    size_t capacity = 0, at = 0;
    while (at < text->length) {
        const char *line = text->bytes + at;
        const char *end = memchr(line, '\n', text->length - at);
        const size_t length = end ? (size_t)(end - line) : text->length - at;
        state->history =
            mem_grow(state->history, &capacity, state->finished + 1, sizeof(*state->history));
        if (json_parse(&state->memory, line, length, &state->history[state->finished], err))
            return error_prefix(err, "line %zu", state->finished + 1);
        state->finished++;
        at += length + 1;
    }
    return 0;
}

static int read_history(struct update_state *state, struct error *err)
{
    struct strbuf text = {0};
    char *path = fs_join(state->directory, "history.jsonl");
    int rc = 0;
    if (fs_exists(fs_system(), path) &&
        (fs_read(fs_system(), path, &text, err) || parse_history(state, &text, err)))
        rc = error_prefix(err, "'%s'", path);
    strbuf_release(&text);
    free(path);
    return rc;
}

int update_state_open(const char *directory, const char *base, struct update_state *out,
                      struct error *err)
{
    *out = (struct update_state){.directory = mem_strdup(directory), .lock_fd = -1};
    if (fs_make_directories(fs_system(), directory, err))
        return -1;
    const int rc = take_lock(out, err);
    if (rc != 0)
        return rc;
    return settle_base(out, base, err) || read_history(out, err) ? -1 : 0;
}

int update_state_look(const char *directory, struct update_state *out, bool *runs,
                      struct error *err)
{
    *out = (struct update_state){.directory = mem_strdup(directory), .lock_fd = -1};
    char *path = fs_join(directory, "lock");
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    *runs = fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    if (fd >= 0)
        close(fd);
    free(path);
    return read_history(out, err);
}

bool update_state_is_withdrawn(const struct update_state *state, size_t number)
{
    char *path = update_state_path(state, number, "withdrawn");
    const bool withdrawn = fs_exists(fs_system(), path);
    free(path);
    return withdrawn;
}

// The newest round up to `number` whose model counts, 0: none.
static size_t newest_model(const struct update_state *state, size_t number)
{
    for (; number > 0; number--) {
        char *path = update_state_path(state, number, "merged");
        const bool has_model = fs_exists(fs_system(), path);
        free(path);
        if (has_model && !update_state_is_withdrawn(state, number))
            break;
    }
    return number;
}

// The link changes first: killed before the mark stands, the same command does both again.
int update_state_roll_back(const struct update_state *state, size_t *round, struct error *err)
{
    *round = newest_model(state, state->finished);
    if (*round == 0)
        return 0;
    const size_t before = newest_model(state, *round - 1);
    char *mark = update_state_path(state, *round, "withdrawn");
    char *base = before > 0 ? NULL : realpath(state->base, NULL);
    int rc = update_state_point(state, before,
                                before > 0 ? "merged"
                                : base     ? base
                                           : state->base,
                                err);
    if (rc == 0)
        rc = fs_write_text(fs_system(), mark, "", 0, err);
    free(base);
    free(mark);
    return rc;
}

static void forget_history(struct update_state *state)
{
    free(state->history);
    arena_release(&state->memory);
    state->history = NULL;
    state->finished = 0;
}

void update_state_close(struct update_state *state)
{
    if (state->lock_fd >= 0)
        close(state->lock_fd);
    forget_history(state);
    free(state->base);
    free(state->directory);
}

int update_state_finish_round(struct update_state *state, const struct strbuf *object,
                              struct error *err)
{
    struct strbuf text = {0};
    char *path = fs_join(state->directory, "history.jsonl");
    int rc = fs_exists(fs_system(), path) ? fs_read(fs_system(), path, &text, err) : 0;
    strbuf_add(&text, object->bytes, object->length);
    strbuf_addc(&text, '\n');
    if (rc == 0)
        rc = fs_write_text(fs_system(), path, text.bytes, text.length, err);
    strbuf_release(&text);
    free(path);
    if (rc)
        return -1;
    forget_history(state);
    return read_history(state, err);
}

int update_state_point(const struct update_state *state, size_t number, const char *name,
                       struct error *err)
{
    char *target = number > 0 ? mem_printf("rounds/%04zu/%s", number, name) : mem_strdup(name);
    char *link = fs_join(state->directory, "memory");
    char *fresh = fs_join(state->directory, "memory.new");
    int rc = 0;
    (void)unlink(fresh);
    if (symlink(target, fresh) != 0 || rename(fresh, link) != 0)
        rc = error_set_errno(err, errno, "cannot let '%s' point to '%s'", link, target);
    free(fresh);
    free(link);
    free(target);
    return rc;
}
