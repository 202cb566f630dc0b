// SPDX-License-Identifier: Apache-2.0
// The verbs of the command line, one file each.
#ifndef MEMO_JOBS_VERBS_H
#define MEMO_JOBS_VERBS_H

#include "base/options.h"

#define EXIT_DONE 0
#define EXIT_FAILED 1
#define EXIT_USAGE 2
#define EXIT_STOPPED 75 // EX_TEMPFAIL: the same command continues

// Says on stderr why a verb failed, unless that was said already (an empty text), and empties the
// text. A job of several ranks calls it before the group closes: mpirun ends all ranks once one has
// exited with a failure, also the one that was about to speak.
void verb_report_failure(const struct verb *verb, struct error *err);

extern const struct verb verb_ingest;
extern const struct verb verb_init;
extern const struct verb verb_plan;
extern const struct verb verb_generate;
extern const struct verb verb_train;
extern const struct verb verb_vector;
extern const struct verb verb_merge;
extern const struct verb verb_update;
extern const struct verb verb_ask;
extern const struct verb verb_eval;
extern const struct verb verb_serve;
extern const struct verb verb_tokenize;
extern const struct verb verb_logits;
extern const struct verb verb_status;
extern const struct verb verb_doctor;
extern const struct verb verb_inspect;
extern const struct verb verb_export;
extern const struct verb verb_audit;
extern const struct verb verb_compact;
extern const struct verb verb_bench;
extern const struct verb verb_engine;

// What this build has, in the order of the help text; NULL-terminated.
extern const struct verb *const verbs[];

#endif
