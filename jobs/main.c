// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"
#include "base/mem.h"
#include "jobs/verbs.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MEMO_VERSION "0.1.0"

static const struct verb *find_verb(const char *name)
{
    for (const struct verb *const *verb = verbs; *verb; verb++) {
        if (strcmp((*verb)->name, name) == 0)
            return *verb;
    }
    return NULL;
}

static void print_usage(FILE *out)
{
    fprintf(out,
            "memo: text in, a language model that remembers it out\n\nusage: memo VERB ...\n\n");
    for (const struct verb *const *verb = verbs; *verb; verb++) {
        if (!(*verb)->internal)
            fprintf(out, "  %-9s %s\n", (*verb)->name, (*verb)->summary);
    }
    fprintf(out,
            "\nmemo VERB --help explains a verb. Exit codes: 0 done, 1 failed, 2 wrong usage,\n"
            "75 stopped on request (the same command continues).\n");
}

void verb_report_failure(const struct verb *verb, struct error *err)
{
    if (err->text[0])
        log_line(LOG_ERROR, "memo %s: %s", verb->name, err->text);
    err->text[0] = '\0';
}

static int report(const struct verb *verb, int code, struct error *err)
{
    if (code == EXIT_FAILED || code == EXIT_USAGE)
        verb_report_failure(verb, err);
    return code;
}

static int run_verb(const struct verb *verb, int argc, char **argv)
{
    struct error err = {0};
    struct option_list positional = {0};
    void *options = mem_calloc(1, verb->options_bytes + 1);
    int code = EXIT_DONE;
    switch (options_parse(verb, argc, argv, options, &positional, &err)) {
    case OPTIONS_HELP: {
        struct strbuf help = {0};
        options_help(verb, &help);
        fwrite(help.bytes, 1, help.length, stdout);
        strbuf_release(&help);
        break;
    }
    case OPTIONS_ERROR:
        code = report(verb, EXIT_USAGE, &err);
        fprintf(stderr, "memo %s --help lists the options\n", verb->name);
        break;
    case OPTIONS_OK:
        code = report(verb, verb->run(options, &positional, &err), &err);
        options_release(verb, options, &positional);
        break;
    }
    free(options);
    errno = 0;
    if ((fflush(stdout) != 0 || ferror(stdout)) && code == EXIT_DONE) {
        code = EXIT_FAILED;
        if (errno != EPIPE) // who closes a pipe early has read enough
            log_line(LOG_ERROR, "memo %s: standard output could not be written", verb->name);
    }
    return code;
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    if (argc < 2) {
        print_usage(stderr);
        return EXIT_USAGE;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0) {
        print_usage(stdout);
        return EXIT_DONE;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("memo %s\n", MEMO_VERSION);
        return EXIT_DONE;
    }
    const struct verb *verb = find_verb(argv[1]);
    if (!verb) {
        fprintf(stderr, "memo: unknown verb '%s'; memo --help lists them\n", argv[1]);
        return EXIT_USAGE;
    }
    return run_verb(verb, argc - 2, argv + 2);
}
