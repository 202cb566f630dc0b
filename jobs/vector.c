// SPDX-License-Identifier: Apache-2.0
// memo vector: what training changed, as a file; arithmetic on such files; how two of them relate.
#include "worker/merge/vector.h"
#include "base/log.h"
#include "base/mem.h"
#include "jobs/compute.h"
#include "jobs/run_directory.h"
#include "jobs/verbs.h"
#include "worker/merge/vector_diff.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct vector_job_options {
    const char *base;
    const char *tuned;
    const char *out;
    const char *dtype;
    double density;
    struct option_list scales;
    const char *svg;
    int64_t threads;
};

#define OPTION_AT(field) offsetof(struct vector_job_options, field)

static const struct option vector_option_table[] = {
    {"base", OPTION_STRING, OPTION_AT(base), "DIR", NULL, 0, 0, NULL,
     "model directory that training began with", false},
    {"tuned", OPTION_STRING, OPTION_AT(tuned), "DIR", NULL, 0, 0, NULL,
     "model directory that training ended with; where its run still holds the float32 master of "
     "these weights, that is taken",
     false},
    {"out", OPTION_STRING, OPTION_AT(out), "FILE", NULL, 0, 0, NULL, "task vector to write", false},
    {"dtype", OPTION_CHOICE, OPTION_AT(dtype), "NAME", "f32", 0, 0, "f32|bf16",
     "of the values written", false},
    {"density", OPTION_NUMBER, OPTION_AT(density), "X", "1", 1e-6, 1, NULL,
     "keep only this share of each tensor's largest changes, as a bitmap and values", false},
    {"scales", OPTION_LIST, OPTION_AT(scales), "X...", NULL, 0, 0, NULL,
     "scale: the factor; add: one factor for each vector (default 1 each)", false},
    {"svg", OPTION_STRING, OPTION_AT(svg), "FILE", NULL, 0, 0, NULL, "diff: also draw", false},
    {"threads", OPTION_INT, OPTION_AT(threads), "N", "0", 0, 4096, NULL,
     "(0: as many as there are processors)", false},
    {0},
};

static struct vector_options writing_options(const struct vector_job_options *options)
{
    return (struct vector_options){
        .dtype = strcmp(options->dtype, "bf16") == 0 ? DTYPE_BF16 : DTYPE_F32,
        .density = options->density,
        .threads = options->threads > 0 ? (int)options->threads : compute_processors()};
}

static int require(const char *value, const char *name, struct error *err)
{
    return value ? 0 : error_set(err, "'--%s' is required", name);
}

// Writes a vector by `write` with its run directory around it.
struct vector_task {
    const struct vector_job_options *options;
    const char *const *paths; // arithmetic
    double *scales;
    size_t count;
    const char *name;
};

static int write_task(const struct vector_task *task, struct vector_stats *stats, struct error *err)
{
    const struct vector_options how = writing_options(task->options);
    if (!task->paths)
        return vector_write(fs_system(), task->options->base, task->options->tuned,
                            task->options->out, &how, stats, err);
    return vector_combine(fs_system(), task->paths, task->scales, task->count, task->name,
                          task->options->out, &how, stats, err);
}

static int run_task(const struct vector_task *task, struct error *err)
{
    const char *out = task->options->out;
    struct run_directory run = {0};
    struct vector_stats stats;
    if (run_directory_open(&run, out, false, &verb_vector, task->options, err))
        return EXIT_FAILED;
    if (write_task(task, &stats, err))
        return run_directory_close(&run, EXIT_FAILED, err);
    run_directory_int(&run, "parameters", (int64_t)stats.parameters);
    run_directory_number(&run, "norm", stats.norm);
    run_directory_int(&run, "kept", (int64_t)stats.kept);
    run_directory_int(&run, "bytes_written", (int64_t)stats.bytes_written);
    log_info("%s: %.2f M parameters%s, norm %.4g, %.1f%% unchanged, %.3f bytes a parameter", out,
             (double)stats.parameters / 1e6,
             stats.from_master ? " from the float32 master of the checkpoint" : "", stats.norm,
             100.0 * (double)stats.zeros / (double)stats.parameters,
             (double)stats.bytes_written / (double)stats.parameters);
    return run_directory_close(&run, EXIT_DONE, err);
}

static int take_difference(const struct vector_job_options *options, struct error *err)
{
    if (require(options->base, "base", err) || require(options->tuned, "tuned", err) ||
        require(options->out, "out", err))
        return EXIT_USAGE;
    const struct vector_task task = {.options = options};
    return run_task(&task, err);
}

static int parse_scales(const struct vector_job_options *options, size_t vectors, double *out,
                        struct error *err)
{
    const struct option_list *given = &options->scales;
    if (given->count != 0 && given->count != vectors)
        return error_set(err, "%zu scales for %zu vectors", given->count, vectors);
    for (size_t k = 0; k < vectors; k++) {
        char *end = "";
        out[k] = given->count ? strtod(given->items[k], &end) : 1;
        if (given->count && (*end != '\0' || end == given->items[k] || !isfinite(out[k])))
            return error_set(err, "--scales: '%s' is not a number", given->items[k]);
    }
    return 0;
}

static int combine(const struct vector_job_options *options, const char *name,
                   const char *const *paths, size_t count, struct error *err)
{
    const bool negates = strcmp(name, "negate") == 0, adds = strcmp(name, "add") == 0;
    struct vector_task task = {options, paths, mem_calloc(count + 1, sizeof(double)), count, name};
    int code = EXIT_USAGE;
    if (require(options->out, "out", err) || parse_scales(options, count, task.scales, err))
        goto done;
    if (count == 0 || (!adds && count != 1)) {
        error_set(err, "%s takes %s, not %zu", name, adds ? "vectors" : "one vector", count);
        goto done;
    }
    if (!adds && !negates && options->scales.count == 0) {
        error_set(err, "scale needs '--scales X'");
        goto done;
    }
    if (negates)
        task.scales[0] = -task.scales[0];
    code = run_task(&task, err);
done:
    free(task.scales);
    return code;
}

static void print_relation(const char *name, const struct vector_relation *relation)
{
    printf("%-8s  %12" PRIu64 "  %11.4g  %11.4g  %7.4f  %9.2f%%\n", name, relation->elements,
           sqrt(relation->squares_a), sqrt(relation->squares_b), vector_cosine(relation),
           relation->both > 0 ? 100.0 * (double)relation->conflicts / (double)relation->both : 0);
}

static void print_diff(const struct vector_diff *diff)
{
    printf("%-8s  %12s  %11s  %11s  %7s  %10s\n", "layer", "elements", "norm A", "norm B", "cosine",
           "conflicts");
    print_relation("outside", &diff->outside);
    for (size_t layer = 0; layer < diff->count; layer++) {
        char name[24];
        snprintf(name, sizeof(name), "%zu", layer);
        print_relation(name, &diff->layers[layer]);
    }
    print_relation("all", &diff->total);
}

static int show_difference(const struct vector_job_options *options, const char *const *paths,
                           size_t count, struct error *err)
{
    struct vector_diff diff;
    struct strbuf picture = {0};
    if (count != 2) {
        error_set(err, "diff takes two vectors, not %zu", count);
        return EXIT_USAGE;
    }
    if (vector_diff(paths[0], paths[1], &diff, err))
        return EXIT_FAILED;
    print_diff(&diff);
    int rc = 0;
    if (options->svg) {
        vector_diff_draw(&diff, paths[0], paths[1], &picture);
        rc = fs_write_text(fs_system(), options->svg, picture.bytes, picture.length, err);
    }
    strbuf_release(&picture);
    vector_diff_release(&diff);
    return rc ? EXIT_FAILED : EXIT_DONE;
}

static int run_vector(const void *parsed, const struct option_list *positional, struct error *err)
{
    const struct vector_job_options *options = parsed;
    if (positional->count == 0)
        return take_difference(options, err);
    const char *what = positional->items[0];
    const char *const *paths = positional->items + 1;
    const size_t count = positional->count - 1;
    if (strcmp(what, "diff") == 0)
        return show_difference(options, paths, count, err);
    if (strcmp(what, "add") == 0 || strcmp(what, "negate") == 0 || strcmp(what, "scale") == 0)
        return combine(options, what, paths, count, err);
    error_set(err, "'%s' is none of diff, add, negate and scale", what);
    return EXIT_USAGE;
}

const struct verb verb_vector = {
    .name = "vector",
    .summary = "take the task vector of a trained model: tuned - base",
    .positional = "[diff A B | add A... | negate A | scale A]",
    .examples = "  memo vector --base models/base --tuned models/A --out vectors/A.safetensors\n"
                "  memo vector --base models/base --tuned models/A --dtype bf16 --density 0.3 \\\n"
                "      --out vectors/A-trimmed.safetensors\n"
                "  memo vector diff vectors/A.safetensors vectors/B.safetensors --svg diff.svg\n"
                "  memo vector add vectors/A.safetensors vectors/B.safetensors --scales 1 -0.5 \\\n"
                "      --out vectors/sum.safetensors\n",
    .options = vector_option_table,
    .options_bytes = sizeof(struct vector_job_options),
    .run = run_vector,
};
