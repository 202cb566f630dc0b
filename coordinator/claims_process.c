// SPDX-License-Identifier: Apache-2.0
#include "coordinator/claims_process.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WORD_BYTES 72
#define START_TIME_FIELD 20 // of /proc/PID/stat, counted from the one behind the name

struct process {
    char host[WORD_BYTES];
    char boot[WORD_BYTES];
    char namespace[WORD_BYTES]; // pids count within it
    long pid;
    unsigned long long started; // clock ticks after boot
    char job[WORD_BYTES];       // of Slurm, "-" outside
    long restart;               // of the job
};

// Spaces separate words, so a word has none; an empty one becomes "-".
static void set_word(char out[WORD_BYTES], const char *text)
{
    const size_t length = text ? strcspn(text, " \t\n") : 0;
    snprintf(out, WORD_BYTES, "%.*s", (int)(length > 0 ? length : 1), length > 0 ? text : "-");
}

static void read_word(char out[WORD_BYTES], const char *path)
{
    char line[WORD_BYTES] = "";
    FILE *file = fopen(path, "re");
    if (file) {
        if (!fgets(line, sizeof(line), file))
            line[0] = '\0';
        fclose(file);
    }
    set_word(out, line);
}

// 0 when it cannot be read. The name, in parentheses, may hold anything.
static unsigned long long start_time(long pid)
{
    char path[64], text[1024];
    snprintf(path, sizeof(path), "/proc/%ld/stat", pid);
    FILE *file = fopen(path, "re");
    if (!file)
        return 0;
    const size_t length = fread(text, 1, sizeof(text) - 1, file);
    fclose(file);
    text[length] = '\0';
    const char *at = strrchr(text, ')');
    for (int field = 0; at && field < START_TIME_FIELD; field++)
        at = strchr(at + 1, ' ');
    return at ? strtoull(at + 1, NULL, 10) : 0;
}

static void describe(struct process *out)
{
    char host[WORD_BYTES] = "", link[WORD_BYTES] = "";
    const char *restart = getenv("SLURM_RESTART_COUNT");
    gethostname(host, sizeof(host) - 1);
    const ssize_t length = readlink("/proc/self/ns/pid", link, sizeof(link) - 1);
    link[length > 0 ? length : 0] = '\0';
    set_word(out->host, host);
    read_word(out->boot, "/proc/sys/kernel/random/boot_id");
    set_word(out->namespace, link);
    out->pid = (long)getpid();
    out->started = start_time(out->pid);
    set_word(out->job, getenv("SLURM_JOB_ID"));
    out->restart = restart ? strtol(restart, NULL, 10) : 0;
}

void claims_process_describe(char out[CLAIMS_PROCESS_BYTES])
{
    struct process p;
    describe(&p);
    snprintf(out, CLAIMS_PROCESS_BYTES, "%s %s %s %ld %llu %s %ld", p.host, p.boot, p.namespace,
             p.pid, p.started, p.job, p.restart);
}

static bool parse(const char *text, struct process *p)
{
    return sscanf(text, "%71s %71s %71s %ld %llu %71s %ld", p->host, p->boot, p->namespace, &p->pid,
                  &p->started, p->job, &p->restart) == 7;
}

static bool is_known(const char *word)
{
    return strcmp(word, "-") != 0;
}

// The same machine since the same boot, where the same pid means the same process.
static bool shares_pids(const struct process *a, const struct process *b)
{
    return is_known(a->boot) && is_known(a->namespace) && strcmp(a->host, b->host) == 0 &&
           strcmp(a->boot, b->boot) == 0 && strcmp(a->namespace, b->namespace) == 0;
}

static bool has_ended(const struct process *p)
{
    if (p->pid <= 0 || p->started == 0)
        return false;
    if (kill((pid_t)p->pid, 0) != 0 && errno == ESRCH)
        return true;
    const unsigned long long started = start_time(p->pid);
    return started != 0 && started != p->started; // the number was given out again
}

bool claims_process_is_gone(const char *process)
{
    struct process other, self;
    if (!parse(process, &other))
        return false;
    describe(&self);
    if (is_known(self.job) && strcmp(self.job, other.job) == 0 && self.restart > other.restart)
        return true; // Slurm starts a job again when its last life has ended
    return shares_pids(&self, &other) && has_ended(&other);
}
