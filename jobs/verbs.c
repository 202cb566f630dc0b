// SPDX-License-Identifier: Apache-2.0
#include "jobs/verbs.h"

#include <stddef.h>

// In the order in which they are used.
// clang-format off
const struct verb *const verbs[] = {
    &verb_ingest,
    &verb_init,
    &verb_plan,
    &verb_generate,
    &verb_audit,
    &verb_inspect,
    &verb_export,
    &verb_compact,
    &verb_train,
    &verb_vector,
    &verb_merge,
    &verb_update,
    &verb_ask,
    &verb_eval,
    &verb_serve,
    &verb_status,
    &verb_doctor,
    &verb_tokenize,
    &verb_logits,
    &verb_bench,
    &verb_engine,
    NULL,
};
// clang-format on
