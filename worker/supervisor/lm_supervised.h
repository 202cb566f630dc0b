// SPDX-License-Identifier: Apache-2.0
// Our own engine as a language model, in a process of its own (engine_process.h) that is started
// again when it dies. Answers are those of lm_engine.h, bit for bit; a request whose engine died is
// asked again, and one that kills engines ends with LM_FATAL (flights.h).
//
// From the second death in a row on (without an answer between), a start is preceded by a pause
// that doubles up to PAUSE_GROWTH times the first. After ENGINE_STARTS_LIMIT engines in a row that
// died before they were ready, or ENGINES_LIMIT that died without an answer between, it is the
// machine that is broken and not the text: LM_POLL_BROKEN.
#ifndef MEMO_WORKER_LM_SUPERVISED_H
#define MEMO_WORKER_LM_SUPERVISED_H

#include "worker/lm/lm_engine.h"
#include "worker/supervisor/launcher.h"

#define RESTART_PAUSE_SECONDS 0.5
#define PAUSE_GROWTH 16
#define ENGINE_STARTS_LIMIT 6
#define ENGINES_LIMIT 20

struct supervision {
    struct launcher *launcher; // the caller's, outlives the model
    const char *program;       // outlives the model; NULL: this one
    double silence_seconds;    // see engine_process.h; 0: an engine may be silent for ever
    double pause_seconds;      // the first; 0: RESTART_PAUSE_SECONDS
    double memory_gb;          // 10^9 bytes that an engine may use (process_usage.h); 0: no limit
};

// Waits until the first engine is ready. What the engine says of a model that cannot be opened is
// the error. Nothing of the options is needed afterwards.
int lm_supervised_create(const struct lm_engine_options *options, const struct supervision *how,
                         struct lm **out, struct error *err);

// Of one made by lm_supervised_create.
struct supervised_counts {
    uint64_t starts;         // engines that became ready
    uint64_t deaths;         // engines that died, at any time
    uint64_t culprits;       // requests that were blamed for it
    double loading_seconds;  // of all starts, from the order to READY
    double recovery_seconds; // of all starts but the first, from the death before to READY
};
struct supervised_counts lm_supervised_counts(const struct lm *lm);
pid_t lm_supervised_process(const struct lm *lm); // -1: there is none

#endif
