// SPDX-License-Identifier: Apache-2.0
// A minimal build has no corpus, no tokenizer and no MPI: what it can do is measure.
#include "jobs/verbs.h"

#include <stddef.h>

const struct verb *const verbs[] = {&verb_bench, NULL};
