// SPDX-License-Identifier: Apache-2.0
#include "jobs/stage.h"

#include "base/fs.h"
#include "base/json.h"
#include "base/mem.h"
#include "jobs/compute.h"
#include "jobs/verbs.h"

#include <ctype.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define LOOK_MS 50 // between two looks at a child and at stop requests
#define EXEC_FAILED 127

// --- words ---

void words_add(struct words *words, const char *word)
{
    words->items =
        mem_grow(words->items, &words->capacity, words->count + 2, sizeof(*words->items));
    words->items[words->count++] = mem_strdup(word);
    words->items[words->count] = NULL;
}

void words_split(struct words *words, const char *text)
{
    while (*text) {
        while (isspace((unsigned char)*text))
            text++;
        size_t length = 0;
        while (text[length] && !isspace((unsigned char)text[length]))
            length++;
        if (length == 0)
            return;
        char *word = mem_printf("%.*s", (int)length, text);
        words_add(words, word);
        free(word);
        text += length;
    }
}

void words_release(struct words *words)
{
    for (size_t i = 0; i < words->count; i++)
        free(words->items[i]);
    free(words->items);
    *words = (struct words){0};
}

// --- processes ---

static char *own_path(void)
{
    char path[4096];
    const ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 1);
    if (length < 0)
        return mem_strdup("memo");
    path[length] = '\0';
    return mem_strdup(path);
}

// In the child. It ends when this process does, however that ends.
static void become(char **command, pid_t parent)
{
    const int stops[] = {SIGTERM, SIGINT, SIGUSR2};
    for (size_t i = 0; i < sizeof(stops) / sizeof(stops[0]); i++)
        signal(stops[i], SIG_DFL);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() == parent)
        execvp(command[0], command);
    _exit(EXEC_FAILED);
}

// Passes a stop request on once; returns what waitpid says of the child.
static int wait_for(pid_t child, bool *stopped)
{
    int status = 0;
    *stopped = false;
    while (waitpid(child, &status, WNOHANG) == 0) {
        if (stop_requested() && !*stopped) {
            kill(child, SIGUSR2);
            *stopped = true;
        }
        nanosleep(&(struct timespec){.tv_nsec = LOOK_MS * 1000000L}, NULL);
    }
    return status;
}

static int judge(int status, const char *program, int *code, struct error *err)
{
    *code = EXIT_FAILED;
    if (WIFSIGNALED(status))
        return error_set(err, "'%s' was ended by signal %d", program, WTERMSIG(status));
    if (WEXITSTATUS(status) == EXEC_FAILED)
        return error_set(err, "'%s' cannot be started", program);
    *code = WEXITSTATUS(status);
    return 0;
}

int stage_run(const struct words *launch, const struct words *command, int *code, struct error *err)
{
    struct words all = {0};
    char *memo = own_path();
    for (size_t i = 0; i < launch->count; i++)
        words_add(&all, launch->items[i]);
    words_add(&all, memo);
    for (size_t i = 0; i < command->count; i++)
        words_add(&all, command->items[i]);
    const pid_t parent = getpid();
    const pid_t child = fork();
    int rc = 0;
    bool stopped = false;
    *code = EXIT_FAILED;
    if (child == 0)
        become(all.items, parent);
    if (child < 0)
        rc = error_set_errno(err, errno, "cannot start a process");
    else
        rc = judge(wait_for(child, &stopped), all.items[0], code, err);
    if (stopped && *code != EXIT_DONE) {
        *code = EXIT_STOPPED;
        rc = 0;
    }
    free(memo);
    words_release(&all);
    return rc;
}

// --- content ---

static int digest_file(const char *path, struct digest *out, struct error *err)
{
    struct fs_map map;
    if (fs_map_open(path, &map, err))
        return -1;
    *out = digest_bytes(map.bytes, map.length);
    fs_map_close(&map);
    return 0;
}

static int is_directory(const char *path, bool *out, struct error *err)
{
    struct fs *fs = fs_system();
    struct fs_info info;
    const int rc = fs->ops->stat(fs->state, path, &info);
    *out = rc == 0 && info.is_directory;
    return rc ? error_set_errno(err, -rc, "cannot look at '%s'", path) : 0;
}

static int add_tree(struct digest_builder *builder, const char *path, bool top, struct error *err);

static int add_entry(struct digest_builder *builder, const char *path, const char *name,
                     struct error *err)
{
    struct digest content;
    bool directory;
    if (is_directory(path, &directory, err))
        return -1;
    if (directory)
        return add_tree(builder, path, false, err);
    if (digest_file(path, &content, err))
        return -1;
    digest_field_text(builder, name);
    digest_field(builder, &content, sizeof(content));
    return 0;
}

static int add_tree(struct digest_builder *builder, const char *path, bool top, struct error *err)
{
    struct fs_names names;
    int rc = fs_list(fs_system(), path, &names, err);
    if (rc)
        return -1;
    for (size_t i = 0; rc == 0 && i < names.count; i++) {
        if (top && strcmp(names.names[i], "run") == 0)
            continue;
        char *entry = fs_join(path, names.names[i]);
        rc = add_entry(builder, entry, names.names[i], err);
        free(entry);
    }
    fs_names_release(&names);
    return rc;
}

int stage_digest(const char *path, struct digest *out, struct error *err)
{
    struct digest_builder builder;
    bool directory;
    if (is_directory(path, &directory, err))
        return -1;
    if (!directory)
        return digest_file(path, out, err);
    digest_begin(&builder);
    const int rc = add_tree(&builder, path, true, err);
    *out = digest_end(&builder);
    return rc;
}

// --- marks ---

static bool read_digest(const struct json *mark, const char *key, struct digest *out)
{
    const char *text = "";
    return json_get_string(mark, key, &text, NULL) == 0 && digest_parse(text, out);
}

bool stage_is_done(const char *mark, struct digest inputs, const char *path, struct digest *output)
{
    struct strbuf text = {0};
    struct arena arena = {0};
    const struct json *root;
    struct digest stored_inputs, stored, now;
    const bool done = fs_exists(fs_system(), mark) && fs_exists(fs_system(), path) &&
                      fs_read(fs_system(), mark, &text, NULL) == 0 &&
                      json_parse(&arena, text.bytes, text.length, &root, NULL) == 0 &&
                      read_digest(root, "inputs", &stored_inputs) &&
                      read_digest(root, "output", &stored) && digest_equal(stored_inputs, inputs) &&
                      stage_digest(path, &now, NULL) == 0 && digest_equal(stored, now);
    if (done)
        *output = now;
    arena_release(&arena);
    strbuf_release(&text);
    return done;
}

static void write_digest(struct json_writer *w, const char *key, struct digest digest)
{
    char text[DIGEST_TEXT_BYTES];
    digest_format(digest, text);
    json_key(w, key);
    json_text(w, text);
}

int stage_mark(const char *mark, struct digest inputs, const char *path, double seconds,
               struct digest *output, struct error *err)
{
    struct strbuf text = {0};
    struct json_writer w = {.out = &text};
    if (stage_digest(path, output, err))
        return -1;
    json_begin_object(&w);
    write_digest(&w, "inputs", inputs);
    write_digest(&w, "output", *output);
    json_key(&w, "seconds");
    json_number(&w, seconds);
    json_end_object(&w);
    strbuf_addc(&text, '\n');
    const int rc = fs_write_text(fs_system(), mark, text.bytes, text.length, err);
    strbuf_release(&text);
    return rc;
}
