// SPDX-License-Identifier: Apache-2.0
// memo merge: task vectors into one model.
#include "worker/merge/merge.h"
#include "base/log.h"
#include "base/mem.h"
#include "jobs/run_directory.h"
#include "jobs/verbs.h"

#include <stdlib.h>

struct merge_job_options {
    const char *base;
    struct option_list vectors;
    struct option_list weights;
    const char *method;
    double density;
    double lambda;
    const char *out;
};

#define OPTION_AT(field) offsetof(struct merge_job_options, field)

static const struct option merge_option_table[] = {
    {"base", OPTION_STRING, OPTION_AT(base), "DIR", NULL, 0, 0, NULL,
     "model directory that the vectors were taken from", true},
    {"vectors", OPTION_LIST, OPTION_AT(vectors), "FILE...", NULL, 0, 0, NULL,
     "task vectors, in any order", true},
    {"weights", OPTION_LIST, OPTION_AT(weights), "W...", NULL, 0, 0, NULL,
     "one weight for each vector (default 1 each)", false},
    {"method", OPTION_CHOICE, OPTION_AT(method), "NAME", "ties", 0, 0, MERGE_METHOD_CHOICES,
     "how to combine them", false},
    {"density", OPTION_NUMBER, OPTION_AT(density), "X", "0.3", 0.001, 1, NULL,
     "ties: share of each tensor's largest changes that is kept", false},
    {"lambda", OPTION_NUMBER, OPTION_AT(lambda), "X", "1", -100, 100, NULL,
     "ties and task_arithmetic: scale of the merged change", false},
    {"out", OPTION_STRING, OPTION_AT(out), "DIR", NULL, 0, 0, NULL, "model directory to write",
     true},
    {0},
};

static int parse_weights(const struct merge_job_options *options, double *out, struct error *err)
{
    if (options->weights.count != 0 && options->weights.count != options->vectors.count)
        return error_set(err, "%zu weights for %zu vectors", options->weights.count,
                         options->vectors.count);
    for (size_t k = 0; k < options->vectors.count; k++) {
        char *end = "";
        out[k] = options->weights.count ? strtod(options->weights.items[k], &end) : 1;
        if (options->weights.count && (*end != '\0' || end == options->weights.items[k]))
            return error_set(err, "--weights: '%s' is not a number", options->weights.items[k]);
    }
    return 0;
}

static int merge(const struct merge_job_options *options, const double *weights,
                 struct run_directory *run, struct error *err)
{
    struct merge_options how = {
        .weights = weights, .lambda = options->lambda, .density = options->density};
    struct merge_stats stats;
    if (merge_parse_method(options->method, &how.method, err) ||
        merge_models(fs_system(), options->base, options->vectors.items, options->vectors.count,
                     &how, options->out, &stats, err))
        return EXIT_FAILED;
    run_directory_int(run, "parameters", (int64_t)stats.parameters);
    run_directory_int(run, "bytes_read", (int64_t)stats.bytes_read);
    run_directory_int(run, "bytes_written", (int64_t)stats.bytes_written);
    log_info("%s: %zu vectors merged by %s, %.2f M parameters, %.2f GB/s", options->out,
             options->vectors.count, options->method, (double)stats.parameters / 1e6,
             (double)(stats.bytes_read + stats.bytes_written) / 1e9 / run_directory_seconds(run));
    return EXIT_DONE;
}

static int run_merge(const void *parsed, const struct option_list *positional, struct error *err)
{
    const struct merge_job_options *options = parsed;
    struct run_directory run = {0};
    (void)positional;
    double *weights = mem_calloc(options->vectors.count + 1, sizeof(*weights));
    int code = EXIT_USAGE;
    if (parse_weights(options, weights, err) == 0) {
        code = EXIT_FAILED;
        if (run_directory_open(&run, options->out, true, &verb_merge, options, err) == 0)
            code = run_directory_close(&run, merge(options, weights, &run, err), err);
    }
    free(weights);
    return code;
}

const struct verb verb_merge = {
    .name = "merge",
    .summary = "merge task vectors into one model",
    .examples =
        "  memo merge --base models/base --vectors A.safetensors B.safetensors \\\n"
        "      --method ties --density 0.3 --out models/merged\n"
        "  memo merge --base models/base --vectors A.safetensors --method task_arithmetic \\\n"
        "      --lambda 0.8 --out models/A-softer\n",
    .options = merge_option_table,
    .options_bytes = sizeof(struct merge_job_options),
    .run = run_merge,
};
