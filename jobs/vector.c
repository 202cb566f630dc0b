// SPDX-License-Identifier: Apache-2.0
// memo vector: what training changed, as a file.
#include "worker/merge/vector.h"
#include "base/log.h"
#include "jobs/run_directory.h"
#include "jobs/verbs.h"

#include <inttypes.h>

struct vector_options {
    const char *base;
    const char *tuned;
    const char *out;
};

#define OPTION_AT(field) offsetof(struct vector_options, field)

static const struct option vector_option_table[] = {
    {"base", OPTION_STRING, OPTION_AT(base), "DIR", NULL, 0, 0, NULL,
     "model directory that training began with", true},
    {"tuned", OPTION_STRING, OPTION_AT(tuned), "DIR", NULL, 0, 0, NULL,
     "model directory that training ended with", true},
    {"out", OPTION_STRING, OPTION_AT(out), "FILE", NULL, 0, 0, NULL, "task vector to write", true},
    {0},
};

static int run_vector(const void *parsed, const struct option_list *positional, struct error *err)
{
    const struct vector_options *options = parsed;
    struct run_directory run = {0};
    struct vector_stats stats;
    (void)positional;
    if (run_directory_open(&run, options->out, false, &verb_vector, options, err))
        return EXIT_FAILED;
    if (vector_write(fs_system(), options->base, options->tuned, options->out, &stats, err))
        return run_directory_close(&run, EXIT_FAILED, err);
    run_directory_int(&run, "parameters", (int64_t)stats.io.parameters);
    run_directory_number(&run, "norm", stats.norm);
    log_info("%s: %.2f M parameters, norm %.4g, %.1f%% unchanged", options->out,
             (double)stats.io.parameters / 1e6, stats.norm,
             100.0 * (double)stats.zeros / (double)stats.io.parameters);
    return run_directory_close(&run, EXIT_DONE, err);
}

const struct verb verb_vector = {
    .name = "vector",
    .summary = "take the task vector of a trained model: tuned - base",
    .examples = "  memo vector --base models/base --tuned models/A --out vectors/A.safetensors\n",
    .options = vector_option_table,
    .options_bytes = sizeof(struct vector_options),
    .run = run_vector,
};
