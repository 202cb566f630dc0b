// SPDX-License-Identifier: Apache-2.0
// A minimal build has no tokenizers.
#include "jobs/bench.h"

int bench_json(struct bench *bench, struct error *err)
{
    (void)bench;
    return error_set(err, "this build has no tokenizers");
}
