// SPDX-License-Identifier: Apache-2.0
#include "datasets/pairs.h"
#include "jobs/bench.h"
#include "jobs/training_data.h"

int bench_pairs(const struct bench_options *options, struct sequence_set *out, struct error *err)
{
    struct text_codec codec;
    struct pair_list pairs;
    if (!options->tokenizer)
        return error_set(err, "--data needs the directory of a tokenizer: --tokenizer DIR");
    if (text_codec_open(options->tokenizer, NULL, &codec, err))
        return -1;
    int rc = pair_list_open(fs_system(), options->data.items, options->data.count, 0, &pairs, err);
    if (rc == 0) {
        rc = training_data_from_pairs(&codec, &pairs, SIZE_MAX, false, out, err);
        pair_list_close(&pairs);
    }
    text_codec_close(&codec);
    return rc;
}
