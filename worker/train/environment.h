// SPDX-License-Identifier: Apache-2.0
// What the bits of a run depend on besides its identity (identity.h). Equal environments give equal
// bits; another one gives the same run to rounding only. Checkpoints hold it.
#ifndef MEMO_WORKER_TRAIN_ENVIRONMENT_H
#define MEMO_WORKER_TRAIN_ENVIRONMENT_H

#include "base/error.h"
#include "base/strbuf.h"

#include <stdbool.h>

enum environment_field {
    ENVIRONMENT_RANKS,
    ENVIRONMENT_STAGE,       // of ZeRO
    ENVIRONMENT_MICRO_BATCH, // tokens
    ENVIRONMENT_GRADIENTS,   // dtype
    ENVIRONMENT_DEVICES, // of all ranks: backend, instruction set or GPU model, threads, libraries
    ENVIRONMENT_TRANSPORT,
    ENVIRONMENT_LIBRARIES, // version of the C library, whose mathematics the host uses
    ENVIRONMENT_PROGRAM,   // digest of the executable
    ENVIRONMENT_FIELDS,
};

struct environment {
    char *values[ENVIRONMENT_FIELDS]; // NULL: not known
};

extern const char *const environment_names[ENVIRONMENT_FIELDS]; // for people and for files

struct trainer;
// Collective. Of the run as it is now; the same on every rank.
int environment_gather(const struct trainer *trainer, struct environment *out, struct error *err);
void environment_release(struct environment *environment);

// Appends what differs, for people: "ranks (2, now 1) and program". What exact sums make irrelevant
// (ranks, stage and transport) does not count with them. Nothing is appended when nothing differs.
void environment_compare(const struct environment *was, const struct environment *is,
                         bool exact_sums, struct strbuf *out);

#endif
