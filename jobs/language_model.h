// SPDX-License-Identifier: Apache-2.0
// The generator that `--generator` names, and the language model behind it.
#ifndef MEMO_JOBS_LANGUAGE_MODEL_H
#define MEMO_JOBS_LANGUAGE_MODEL_H

#include "base/error.h"
#include "jobs/generation.h"
#include "worker/lm/lm.h"
#include "worker/supervisor/launcher.h"

#include <stdbool.h>

enum generator_kind { GENERATOR_CLOZE, GENERATOR_ENGINE, GENERATOR_HTTP };

// "cloze", "engine:DIR" or "http:URL[,URL...]"; *target becomes what stands behind the colon.
int generator_kind_parse(const char *name, enum generator_kind *out, const char **target,
                         struct error *err);

// Whether the options of that kind are there and make sense; touches no file.
int language_model_check(const struct generate_options *options, struct error *err);

// Whether the model is to run in a process of its own, see worker/supervisor; after
// language_model_check.
bool language_model_is_supervised(const struct generate_options *options);

// Not for cloze. threads is what an engine may compute with. 0: the model shall be named, not
// asked; no weights are loaded, it has its digest and that is all. launcher starts the engine's
// process and outlives it; NULL: the engine runs in this process.
int language_model_open(const struct generate_options *options, int threads,
                        struct launcher *launcher, struct lm **out, struct error *err);

// Of what else in the options decides what the model answers.
struct digest language_model_limits_digest(const struct generate_options *options);

#endif
