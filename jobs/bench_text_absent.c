// SPDX-License-Identifier: Apache-2.0
// A minimal build has no tokenizers.
#include "jobs/bench.h"

int bench_json(struct bench *bench, struct error *err)
{
    (void)bench;
    return error_set(err, "this build has no tokenizers");
}

int bench_pairs(const struct bench_options *options, struct sequence_set *out, struct error *err)
{
    (void)options;
    (void)out;
    return error_set(err, "--data: this build has no tokenizers; without it pairs are made up");
}
