// SPDX-License-Identifier: Apache-2.0
// memo doctor: checks what usually breaks on a new machine or cluster, and says what to do.
#include "jobs/doctor.h"

#include "base/clock.h"
#include "base/fs.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "jobs/verbs.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MEETING_SECONDS 60.0 // for ranks that are started together

extern char **environ;

struct doctor_options {
    const char *directory;
    const char *rendezvous;
    bool json;
    bool launched;
};

static const struct option doctor_option_table[] = {
    {"dir", OPTION_STRING, offsetof(struct doctor_options, directory), "DIR", ".", 0, 0, NULL,
     "where the outputs of runs will lie; checked with a few small files, which are removed",
     false},
    {"rendezvous", OPTION_STRING, offsetof(struct doctor_options, rendezvous), "DIR", NULL, 0, 0,
     NULL, "ranks that srun started meet by a file there, as with memo train --rendezvous", false},
    {"json", OPTION_FLAG, offsetof(struct doctor_options, json), NULL, NULL, 0, 0, NULL,
     "one JSON object per line: check, level (ok, warn, fail), found, fix", false},
    {"launched", OPTION_FLAG, offsetof(struct doctor_options, launched), NULL, NULL, 0, 0, NULL,
     "only say how many ranks there are; the check of mpirun starts memo like this", false},
    {0},
};

static const char *const level_names[] = {"ok", "warn", "fail"};

void doctor_say(struct doctor_result *out, enum doctor_level level, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(out->found, sizeof(out->found), format, args);
    va_end(args);
    out->level = level;
}

void doctor_fix(struct doctor_result *out, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(out->fix, sizeof(out->fix), format, args);
    va_end(args);
}

bool doctor_finds(const char *program)
{
    const char *path = getenv("PATH");
    bool found = false;
    char *copy = mem_strdup(path ? path : ""), *rest = copy;
    for (char *folder; !found && (folder = strsep(&rest, ":"));) {
        char *full = mem_printf("%s/%s", folder[0] ? folder : ".", program);
        found = access(full, X_OK) == 0;
        free(full);
    }
    free(copy);
    return found;
}

// What comes until the end or the deadline; false: the deadline.
static bool read_until(int fd, double deadline, char *out, size_t out_bytes)
{
    size_t length = 0;
    char bytes[4096];
    for (;;) {
        const double left = deadline - clock_seconds();
        struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
        if (left <= 0 || poll(&poll_fd, 1, (int)(left * 1e3) + 1) == 0)
            return false;
        const ssize_t count = read(fd, bytes, sizeof(bytes));
        if (count < 0 && errno == EINTR)
            continue;
        if (count <= 0)
            return true;
        for (ssize_t i = 0; i < count && length + 1 < out_bytes; i++)
            out[length++] = bytes[i];
        out[length] = '\0';
    }
}

static int spawn(char *const argv[], int output, pid_t *pid)
{
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, output, 1);
    posix_spawn_file_actions_adddup2(&actions, output, 2);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP); // so that all of it can be ended
    posix_spawnattr_setpgroup(&attributes, 0);
    const int rc = posix_spawnp(pid, argv[0], &actions, &attributes, argv, environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return rc;
}

bool doctor_run(char *const argv[], double seconds, char *out, size_t out_bytes)
{
    int ends[2], status = 0;
    pid_t pid;
    out[0] = '\0';
    if (pipe2(ends, O_CLOEXEC) != 0)
        return false;
    const int failed = spawn(argv, ends[1], &pid);
    close(ends[1]);
    bool ended = failed == 0 && read_until(ends[0], clock_seconds() + seconds, out, out_bytes);
    close(ends[0]);
    if (failed != 0)
        return false;
    if (!ended)
        kill(-pid, SIGKILL);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        continue;
    return ended && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void make_valid(char *text)
{
    for (size_t bad, length = strlen(text); (bad = utf8_valid_prefix(text, length)) < length;)
        text[bad] = '?';
}

static void print_json(const char *name, const struct doctor_result *result)
{
    struct strbuf line = {0};
    struct json_writer w = {.out = &line};
    json_begin_object(&w);
    json_key(&w, "check");
    json_text(&w, name);
    json_key(&w, "level");
    json_text(&w, level_names[result->level]);
    json_key(&w, "found");
    json_text(&w, result->found);
    json_key(&w, "fix");
    json_text(&w, result->fix);
    json_end_object(&w);
    printf("%s\n", line.bytes);
    strbuf_release(&line);
}

static void print_result(const char *name, struct doctor_result *result, bool as_json)
{
    make_valid(result->found);
    make_valid(result->fix);
    if (as_json) {
        print_json(name, result);
        return;
    }
    printf("%-4s  %-18s  %s\n", level_names[result->level], name, result->found);
    if (result->fix[0])
        printf("%28s> %s\n", "", result->fix);
}

// The worst rank's result, the lowest of equals, with its number in front.
static int gather(struct doctor *doctor, struct doctor_result *result, struct error *err)
{
    const int ranks = group_size(doctor->group);
    struct doctor_result *all = mem_calloc((size_t)ranks, sizeof(*all));
    int worst = 0;
    if (group_all_gather(doctor->group, all, result, sizeof(*result), err)) {
        free(all);
        return -1;
    }
    for (int r = 1; r < ranks; r++)
        worst = all[r].level > all[worst].level ? r : worst;
    *result = all[worst];
    if (worst > 0) {
        char prefixed[sizeof(result->found) + 32];
        snprintf(prefixed, sizeof(prefixed), "rank %d: %s", worst, all[worst].found);
        snprintf(result->found, sizeof(result->found), "%.*s", (int)sizeof(result->found) - 1,
                 prefixed);
    }
    free(all);
    return 0;
}

static int run_list(struct doctor *doctor, const struct doctor_check *checks, bool as_json,
                    int *counts, struct error *err)
{
    for (const struct doctor_check *check = checks; check->name; check++) {
        struct doctor_result result;
        memset(&result, 0, sizeof(result)); // it travels whole
        check->run(doctor, &result);
        if (gather(doctor, &result, err))
            return -1;
        counts[result.level]++;
        if (group_rank(doctor->group) == 0)
            print_result(check->name, &result, as_json);
    }
    return 0;
}

static int check_all(struct doctor *doctor, const struct doctor_options *options, struct error *err)
{
    int counts[3] = {0};
    if (run_list(doctor, doctor_cluster_checks, options->json, counts, err) ||
        run_list(doctor, doctor_machine_checks, options->json, counts, err) ||
        run_list(doctor, doctor_file_checks, options->json, counts, err))
        return EXIT_FAILED;
    if (group_rank(doctor->group) == 0 && !options->json)
        printf("%d ok, %d warnings, %d failures\n", counts[DOCTOR_OK], counts[DOCTOR_WARN],
               counts[DOCTOR_FAIL]);
    return counts[DOCTOR_FAIL] > 0 ? EXIT_FAILED : EXIT_DONE;
}

// Each rank's own scratch, so that nobody's files are in another's way.
static char *make_scratch(const struct doctor *doctor)
{
    struct fs *fs = fs_system();
    char host[64] = "";
    (void)gethostname(host, sizeof(host) - 1);
    char *path = mem_printf("%s/.memo-doctor-%s-%d-%d", doctor->directory, host, (int)getpid(),
                            group_rank(doctor->group));
    if (fs->ops->make_directory(fs->state, path) == 0) // why not, the file checks say
        return path;
    free(path);
    return NULL;
}

static void remove_scratch(char *path)
{
    struct fs_names names = {0};
    struct error ignored;
    if (path && fs_list(fs_system(), path, &names, &ignored) == 0) {
        for (size_t i = 0; i < names.count; i++) {
            char *file = fs_join(path, names.names[i]);
            unlink(file);
            free(file);
        }
        fs_names_release(&names);
        rmdir(path);
    }
    free(path);
}

static int run_doctor(const void *parsed, const struct option_list *positional, struct error *err)
{
    const struct doctor_options *options = parsed;
    char program[4096] = "memo";
    struct doctor doctor = {.directory = options->directory, .program = program};
    (void)positional;
    const ssize_t length = readlink("/proc/self/exe", program, sizeof(program) - 1);
    if (length > 0)
        program[length] = '\0';
    if (group_open_meeting(options->rendezvous, MEETING_SECONDS, &doctor.group, err))
        return EXIT_FAILED;
    int code = EXIT_DONE;
    if (options->launched) {
        if (group_rank(doctor.group) == 0)
            printf("%d ranks\n", group_size(doctor.group));
    } else {
        doctor.scratch = make_scratch(&doctor);
        code = check_all(&doctor, options, err);
        remove_scratch(doctor.scratch);
    }
    if (group_rank(doctor.group) != 0)
        err->text[0] = '\0';
    fflush(stdout); // mpirun ends all ranks once one has failed
    (void)group_barrier(doctor.group, NULL);
    group_close(doctor.group);
    return code;
}

const struct verb verb_doctor = {
    .name = "doctor",
    .summary = "check what usually breaks on a machine or cluster, and say what to do",
    .examples = "  memo doctor --dir /scratch/project\n"
                "  mpirun -np 8 memo doctor --dir /scratch/project\n"
                "Exit code 1 when a check has failed; warnings do not count.\n",
    .options = doctor_option_table,
    .options_bytes = sizeof(struct doctor_options),
    .run = run_doctor,
};
