// SPDX-License-Identifier: Apache-2.0
// The checks of memo doctor. Every rank makes every check, in the order of doctor_checks; the worst
// answer of any rank is what is shown.
#ifndef MEMO_JOBS_DOCTOR_H
#define MEMO_JOBS_DOCTOR_H

#include "collectives/group.h"

#include <stdbool.h>
#include <stddef.h>

enum doctor_level { DOCTOR_OK, DOCTOR_WARN, DOCTOR_FAIL };

struct doctor {
    struct group *group;
    const char *directory; // where outputs will lie
    char *scratch;         // of this run inside it; NULL: it could not be made
    const char *program;   // path of this binary
};

// Fixed size: results of ranks are gathered.
struct doctor_result {
    enum doctor_level level;
    char found[400];
    char fix[400]; // empty when all is well
};

struct doctor_check {
    const char *name;
    void (*run)(struct doctor *doctor, struct doctor_result *out); // may be collective
};
extern const struct doctor_check doctor_file_checks[], doctor_machine_checks[],
    doctor_cluster_checks[]; // a NULL name ends each

void doctor_say(struct doctor_result *out, enum doctor_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void doctor_fix(struct doctor_result *out, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

// Runs a program without a shell, for at most `seconds`; its output, cut to the room, or false when
// it could not be run or did not end with 0.
bool doctor_run(char *const argv[], double seconds, char *out, size_t out_bytes);
// Whether a program of that name is on the PATH.
bool doctor_finds(const char *program);

#endif
