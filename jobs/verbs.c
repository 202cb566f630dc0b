// SPDX-License-Identifier: Apache-2.0
#include "jobs/verbs.h"

#include <stddef.h>

const struct verb *const verbs[] = {
    &verb_ingest, &verb_init, &verb_generate, &verb_train, &verb_vector, &verb_merge,
    &verb_ask,    &verb_eval, &verb_status,   &verb_bench, NULL,
};
