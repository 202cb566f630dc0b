// SPDX-License-Identifier: Apache-2.0
// Stages of a chain: each is a memo command with one output, run as a process of its own, and a
// mark that says that it ended well. A mark names the output by its content, so a stage counts as
// done only while that content stands: what is half-done, torn or changed is done again, by the
// command that continues it.
//
//     MARK   {"inputs":"<digest>","output":"<digest>","seconds":12.3}
#ifndef MEMO_JOBS_STAGE_H
#define MEMO_JOBS_STAGE_H

#include "base/error.h"
#include "base/hash.h"

#include <stdbool.h>
#include <stddef.h>

// The words of a command. Zero-initialise; release frees.
struct words {
    char **items; // [count], then NULL
    size_t count;
    size_t capacity;
};
void words_add(struct words *words, const char *word);
void words_split(struct words *words, const char *text); // adds what white space separates
void words_release(struct words *words);

// Runs memo itself with these words behind `launch` (may be empty), and waits. A stop request
// (stop_requests_catch) reaches it as SIGUSR2, which mpirun passes on to its ranks. *code is the
// verb's exit code; EXIT_STOPPED also when it ended otherwise than well after a stop request.
int stage_run(const struct words *launch, const struct words *command, int *code,
              struct error *err);

// Content of a file, or of all files below a directory without its records (run/): names and bytes.
int stage_digest(const char *path, struct digest *out, struct error *err);

// Whether the mark is there, for these inputs, and the output still is what it was then (*output).
// Something unreadable is no mark.
bool stage_is_done(const char *mark, struct digest inputs, const char *path, struct digest *output);

// Writes the mark of an output that is complete.
int stage_mark(const char *mark, struct digest inputs, const char *path, double seconds,
               struct digest *output, struct error *err);

#endif
