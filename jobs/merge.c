// SPDX-License-Identifier: Apache-2.0
// memo merge: task vectors or models into one model, or into one for each setting of a sweep.
//
// Everything is written into OUT.partial, which becomes OUT when it is complete; a merge that was
// killed continues there. OUT/run/merge.id says what OUT is: the same command again does nothing.
#include "worker/merge/merge.h"
#include "base/log.h"
#include "base/mem.h"
#include "jobs/compute.h"
#include "jobs/run_directory.h"
#include "jobs/score.h"
#include "jobs/sweep.h"
#include "jobs/verbs.h"
#include "worker/merge/config.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct merge_job_options {
    const char *base;
    struct option_list vectors;
    struct option_list models;
    const char *config;
    const char *method;
    struct option_list weights;
    struct option_list density;
    double lambda;
    const char *semantics;
    const char *trim;
    const char *rescale;
    int64_t seed;
    const char *dtype;
    struct option_list sweep;
    struct option_list data;
    int64_t sample;
    double memory;
    int64_t threads;
    const char *out;
};

#define OPTION_AT(field) offsetof(struct merge_job_options, field)

static const struct option merge_option_table[] = {
    {"base", OPTION_STRING, OPTION_AT(base), "DIR", NULL, 0, 0, NULL,
     "model directory that training began with; linear, slerp, nuslerp, multislerp and karcher "
     "also go without",
     false},
    {"vectors", OPTION_LIST, OPTION_AT(vectors), "FILE...", NULL, 0, 0, NULL,
     "task vectors, in any order", false},
    {"models", OPTION_LIST, OPTION_AT(models), "DIR...", NULL, 0, 0, NULL,
     "trained models instead of, or behind, vectors", false},
    {"config", OPTION_STRING, OPTION_AT(config), "FILE", NULL, 0, 0, NULL,
     "a mergekit configuration instead of base, models, method and parameters", false},
    {"method", OPTION_STRING, OPTION_AT(method), "NAME", "ties", 0, 0, NULL,
     "how to combine them; several with commas in a sweep: " MERGE_METHOD_CHOICES, false},
    {"weights", OPTION_LIST, OPTION_AT(weights), "W...", NULL, 0, 0, NULL,
     "one weight for each vector and model (default 1 each)", false},
    {"density", OPTION_LIST, OPTION_AT(density), "X...", "0.3", 0, 0, NULL,
     "share of the changes that is kept: one for all, or one for each", false},
    {"lambda", OPTION_NUMBER, OPTION_AT(lambda), "X", "1", -100, 100, NULL,
     "scale of the merged change", false},
    {"semantics", OPTION_CHOICE, OPTION_AT(semantics), "NAME", "paper", 0, 0,
     MERGE_SEMANTICS_CHOICES,
     "memo-ref: as the authors of MeMo merged, with the first model in the base's place", false},
    {"trim", OPTION_CHOICE, OPTION_AT(trim), "NAME", "tensor", 0, 0, "tensor|global",
     "ties: a threshold for each tensor, or one for the whole vector", false},
    {"rescale", OPTION_CHOICE, OPTION_AT(rescale), "NAME", NULL, 0, 0, MERGE_RESCALE_CHOICES,
     "what makes up for dropped changes (default: density for dare and della, none otherwise; "
     "mergekit has l1)",
     false},
    {"seed", OPTION_INT, OPTION_AT(seed), "N", "1", 0, INT64_MAX, NULL, "of random masks", false},
    {"dtype", OPTION_CHOICE, OPTION_AT(dtype), "NAME", NULL, 0, 0, "f32|bf16|f16",
     "of the result (default: the base's own)", false},
    {"sweep", OPTION_LIST, OPTION_AT(sweep), "S=X,X...", NULL, 0, 0, NULL,
     "settings and their values, as density=0.1,0.3 lambda=0.5,1: every combination becomes a "
     "model in OUT",
     false},
    {"data", OPTION_LIST, OPTION_AT(data), "PATH...", NULL, 0, 0, NULL,
     "with --sweep: sets of pairs on which every result is scored, closed-book", false},
    {"sample", OPTION_INT, OPTION_AT(sample), "N", "0", 0, INT32_MAX, NULL,
     "only the N pairs of each set with the smallest record ids (0: all)", false},
    {"memory", OPTION_NUMBER, OPTION_AT(memory), "GB", MERGE_MEMORY_DEFAULT, 0.05, 4096, NULL,
     "most memory of this process, mapped pages included", false},
    {"threads", OPTION_INT, OPTION_AT(threads), "N", "0", 0, 4096, NULL,
     "of each rank (0: the host's processors shared among its ranks)", false},
    {"out", OPTION_STRING, OPTION_AT(out), "DIR", NULL, 0, 0, NULL, "model directory to write",
     true},
    {0},
};

struct merge_state {
    const struct merge_job_options *options;
    struct group *group;
    struct merge_config config; // base, models and recipe, from a file or from the options
    struct sweep sweep;
    char *partial;
    char *identity;           // as it is recorded
    char **outs;              // [sweep.count]
    struct run_directory run; // rank 0
    struct merge_report report;
};

// --- what is asked for: usage errors ---

static int parse_number(const char *option, const char *text, double *out, struct error *err)
{
    char *end;
    *out = strtod(text, &end);
    if (*end != '\0' || end == text || !isfinite(*out))
        return error_set(err, "--%s: '%s' is not a number", option, text);
    return 0;
}

static int add_weights(struct merge_state *state, size_t models, struct error *err)
{
    const struct option_list *weights = &state->options->weights;
    if (weights->count != 0 && weights->count != models)
        return error_set(err, "%zu weights for %zu vectors", weights->count, models);
    for (size_t k = 0; k < weights->count; k++) {
        double value;
        if (parse_number("weights", weights->items[k], &value, err))
            return -1;
        merge_recipe_add(&state->config.recipe, SETTING_WEIGHT, (int)k, NULL, &value, 1);
    }
    return 0;
}

static int add_densities(struct merge_state *state, size_t models, struct error *err)
{
    const struct option_list *density = &state->options->density;
    if (density->count > 1 && density->count != models)
        return error_set(err, "%zu densities for %zu vectors", density->count, models);
    for (size_t k = 0; k < density->count; k++) {
        double value;
        if (parse_number("density", density->items[k], &value, err))
            return -1;
        merge_recipe_add(&state->config.recipe, SETTING_DENSITY, density->count == 1 ? -1 : (int)k,
                         NULL, &value, 1);
    }
    return 0;
}

static void add_inputs(struct merge_state *state)
{
    const struct merge_job_options *options = state->options;
    const struct option_list *lists[] = {&options->vectors, &options->models};
    struct merge_config *config = &state->config;
    config->base = options->base ? mem_strdup(options->base) : NULL;
    config->models =
        mem_calloc(options->vectors.count + options->models.count + 1, sizeof(*config->models));
    for (int l = 0; l < 2; l++)
        for (size_t k = 0; k < lists[l]->count; k++)
            config->models[config->count++] = mem_strdup(lists[l]->items[k]);
}

static int read_options(struct merge_state *state, struct error *err)
{
    const struct merge_job_options *options = state->options;
    const size_t models = options->vectors.count + options->models.count;
    if (models == 0)
        return error_set(err, "'--vectors' is required, or '--models', or '--config'");
    if (add_weights(state, models, err) || add_densities(state, models, err))
        return -1;
    merge_recipe_set(&state->config.recipe, SETTING_LAMBDA, options->lambda);
    add_inputs(state);
    return 0;
}

static enum merge_rescale rescale_named(const char *name)
{
    return strcmp(name, "l1") == 0     ? RESCALE_L1
           : strcmp(name, "none") == 0 ? RESCALE_NONE
                                       : RESCALE_DENSITY;
}

static enum dtype dtype_named(const char *name)
{
    return strcmp(name, "f32") == 0    ? DTYPE_F32
           : strcmp(name, "bf16") == 0 ? DTYPE_BF16
                                       : DTYPE_F16;
}

static void set_general(struct merge_recipe *recipe, const struct merge_job_options *options)
{
    recipe->semantics = strcmp(options->semantics, "memo-ref") == 0 ? MERGE_MEMO_REF : MERGE_PAPER;
    recipe->global_trim = strcmp(options->trim, "global") == 0;
    recipe->seed = (uint64_t)options->seed;
    if (options->rescale) {
        recipe->has_rescale = true;
        recipe->rescale = rescale_named(options->rescale);
    }
    if (options->dtype) {
        recipe->has_out_dtype = true;
        recipe->out_dtype = dtype_named(options->dtype);
    }
}

// With a configuration: its method and parameters; otherwise what the options say.
static int read_request(struct merge_state *state, struct error *err)
{
    const struct merge_job_options *options = state->options;
    const char *method = options->method;
    if (options->data.count > 0 && options->sweep.count == 0 && !strchr(method, ','))
        return error_set(err, "--data belongs to --sweep; `memo eval` scores one model");
    if (options->config) {
        if (options->base || options->vectors.count > 0 || options->models.count > 0 ||
            options->weights.count > 0)
            return error_set(err, "--config excludes --base, --vectors, --models and --weights");
        if (merge_config_read(fs_system(), options->config, &state->config, err))
            return -1;
        method = merge_traits(state->config.recipe.method)->name;
    } else if (read_options(state, err)) {
        return -1;
    }
    set_general(&state->config.recipe, options);
    return sweep_create(&state->config.recipe, method, &options->sweep, &state->sweep, err);
}

static bool is_sweep(const struct merge_state *state)
{
    return state->options->sweep.count > 0 || state->sweep.count > 1;
}

// --- directories ---

static int read_identity(const char *directory, struct strbuf *out)
{
    char *path = fs_join(directory, "run/merge.id");
    const int rc = fs_exists(fs_system(), path) ? fs_read(fs_system(), path, out, NULL) : -1;
    free(path);
    return rc;
}

static bool is_empty(const char *directory)
{
    struct fs_names names;
    if (fs_list(fs_system(), directory, &names, NULL))
        return false;
    const bool empty = names.count == 0;
    fs_names_release(&names);
    return empty;
}

// Done before; free; or somebody else's.
static int check_out(const char *out, const char *identity, bool *done, struct error *err)
{
    struct strbuf text = {0};
    int rc = 0;
    *done = false;
    if (fs_exists(fs_system(), out) && !is_empty(out)) {
        *done = read_identity(out, &text) == 0 && text.length == strlen(identity) &&
                memcmp(text.bytes, identity, text.length) == 0;
        if (!*done)
            rc = error_set(err,
                           "'%s' holds something else than this merge: use another --out, or "
                           "remove it",
                           out);
    }
    strbuf_release(&text);
    return rc;
}

// The inputs are known: is there anything to do? Then records begin, in OUT.partial.
static int begin(void *context, const char *identity, bool *done, struct error *err)
{
    struct merge_state *state = context;
    state->identity = mem_strdup(identity);
    if (check_out(state->options->out, identity, done, err))
        return -1;
    return *done ? 0
                 : run_directory_open(&state->run, state->partial, true, &verb_merge,
                                      state->options, err);
}

static int publish(const struct merge_state *state, struct error *err)
{
    struct fs *fs = fs_system();
    const char *out = state->options->out;
    for (size_t o = 0; o < state->sweep.count; o++) {
        if (merge_seal(fs, state->outs[o], err))
            return -1;
    }
    char *record = fs_join(state->partial, "run/merge.id");
    int rc = fs_write_text(fs, record, state->identity, strlen(state->identity), err);
    free(record);
    if (rc != 0)
        return -1;
    fs->ops->remove(fs->state, out); // an empty directory; nothing else goes away by this
    rc = fs->ops->rename(fs->state, state->partial, out, true);
    return rc ? error_set_errno(err, -rc, "cannot rename '%s' to '%s'", state->partial, out) : 0;
}

// --- scoring a sweep ---

struct ranked {
    const char *name;
    struct score *scores; // [sets]
    size_t right;
};

static int compare_ranked(const void *a, const void *b)
{
    const struct ranked *x = a, *y = b;
    if (x->right != y->right)
        return x->right < y->right ? 1 : -1;
    return strcmp(x->name, y->name);
}

static int score_output(const struct merge_state *state, size_t o, const struct pair_list *sets,
                        struct ranked *out, struct error *err)
{
    const struct answer_options how = {.model = state->outs[o],
                                       .threads = state->options->threads,
                                       .max_new = 64,
                                       .capacity = 1024};
    struct answering answering;
    int rc = 0;
    if (answering_open(&how, &answering, err))
        return -1;
    for (size_t d = 0; rc == 0 && d < state->options->data.count; d++) {
        rc = score_pairs(&answering, &sets[d], 0, state->sweep.names[o], &out->scores[d], err);
        out->right += out->scores[d].right;
    }
    log_progress_end();
    answering_close(&answering);
    return rc;
}

static void print_scores(const struct merge_state *state, const struct ranked *ranked)
{
    const struct option_list *data = &state->options->data;
    int width = 6;
    for (size_t o = 0; o < state->sweep.count; o++)
        width = (int)strlen(ranked[o].name) > width ? (int)strlen(ranked[o].name) : width;
    printf("%-*s  %16s", width, "merged", "all");
    for (size_t d = 0; d < data->count; d++)
        printf("  %16s", data->items[d]);
    printf("\n");
    for (size_t o = 0; o < state->sweep.count; o++) {
        size_t asked = 0;
        for (size_t d = 0; d < data->count; d++)
            asked += ranked[o].scores[d].asked;
        printf("%-*s  %15.1f%%", width, ranked[o].name,
               100.0 * (double)ranked[o].right / (double)asked);
        for (size_t d = 0; d < data->count; d++) {
            const struct score *score = &ranked[o].scores[d];
            printf("  %15.1f%%", 100.0 * (double)score->right / (double)score->asked);
        }
        printf("\n");
    }
}

static int score_sweep(const struct merge_state *state, struct error *err)
{
    const struct option_list *data = &state->options->data;
    const size_t count = state->sweep.count;
    struct pair_list *sets = mem_calloc(data->count + 1, sizeof(*sets));
    struct ranked *ranked = mem_calloc(count, sizeof(*ranked));
    struct score *scores = mem_calloc(count * data->count + 1, sizeof(*scores));
    int rc = 0;
    for (size_t d = 0; rc == 0 && d < data->count; d++)
        rc = pair_list_open(fs_system(), &data->items[d], 1, (size_t)state->options->sample,
                            &sets[d], err);
    for (size_t o = 0; rc == 0 && o < count; o++) {
        ranked[o] = (struct ranked){state->sweep.names[o], scores + o * data->count, 0};
        rc = score_output(state, o, sets, &ranked[o], err);
    }
    if (rc == 0) {
        qsort(ranked, count, sizeof(*ranked), compare_ranked);
        print_scores(state, ranked);
    }
    for (size_t d = 0; d < data->count; d++)
        pair_list_close(&sets[d]);
    free(sets);
    free(ranked);
    free(scores);
    return rc;
}

// --- the job ---

// The most that this process has held, in bytes, mapped pages included; 0 when it cannot be known.
static uint64_t peak_memory(void)
{
    struct strbuf text = {0};
    uint64_t kilobytes = 0;
    if (fs_read(fs_system(), "/proc/self/status", &text, NULL) == 0) {
        const char *line = strstr(text.bytes, "VmHWM:");
        if (line)
            kilobytes = strtoull(line + 6, NULL, 10);
    }
    strbuf_release(&text);
    return 1024 * kilobytes;
}

static void report(struct merge_state *state, uint64_t peak)
{
    const struct merge_report *report = &state->report;
    struct run_directory *run = &state->run;
    const double seconds = run_directory_seconds(run);
    run_directory_int(run, "parameters", (int64_t)report->parameters);
    run_directory_int(run, "bytes_read", (int64_t)report->bytes_read);
    run_directory_int(run, "bytes_written", (int64_t)report->bytes_written);
    run_directory_int(run, "peak_memory", (int64_t)peak);
    run_directory_number(run, "change", report->change);
    if (report->continued > 0)
        log_info("%zu of %zu tensors stood there from an earlier attempt", report->continued,
                 report->tensors * state->sweep.count);
    log_info(
        "%s: %zu models merged by %s, %.2f M parameters, %.2f GB/s, peak memory %.0f MB of %.0f "
        "allowed",
        state->options->out, state->config.count,
        is_sweep(state) ? "several recipes" : state->sweep.names[0],
        (double)report->parameters / 1e6,
        (double)(report->bytes_read + report->bytes_written) / 1e9 / seconds, (double)peak / 1e6,
        state->options->memory * 1e3);
}

static void show_differences(const struct merge_report *report)
{
    char *text = report->differences.text.bytes, *rest = text;
    for (char *line; text && (line = strsep(&rest, "\n")) != NULL;) {
        if (*line)
            log_warn("%s", line);
    }
}

static int merge(struct merge_state *state, struct error *err)
{
    const struct merge_job_options *options = state->options;
    const struct merge_request request = {.fs = fs_system(),
                                          .group = state->group,
                                          .base = state->config.base,
                                          .sources = (const char *const *)state->config.models,
                                          .count = state->config.count,
                                          .recipes = state->sweep.recipes,
                                          .outs = (const char *const *)state->outs,
                                          .outputs = state->sweep.count,
                                          .threads =
                                              compute_threads(state->group, options->threads),
                                          .memory_bytes = (uint64_t)(options->memory * 1e9),
                                          .begin = begin,
                                          .context = state};
    return merge_models(&request, &state->report, err);
}

static int complete(struct merge_state *state, struct error *err)
{
    report(state, peak_memory());
    if (state->options->data.count > 0 && score_sweep(state, err))
        return run_directory_close(&state->run, EXIT_FAILED, err);
    const int code = run_directory_close(&state->run, EXIT_DONE, err);
    return code == EXIT_DONE && publish(state, err) ? EXIT_FAILED : code;
}

static void name_outs(struct merge_state *state)
{
    state->partial = mem_printf("%s.partial", state->options->out);
    state->outs = mem_calloc(state->sweep.count, sizeof(*state->outs));
    for (size_t o = 0; o < state->sweep.count; o++)
        state->outs[o] = is_sweep(state) ? fs_join(state->partial, state->sweep.names[o])
                                         : mem_strdup(state->partial);
}

static int run_ranks(struct merge_state *state, struct error *err)
{
    int code = EXIT_DONE;
    name_outs(state);
    const bool first = group_rank(state->group) == 0;
    if (merge(state, err)) {
        if (first)
            show_differences(&state->report);
        return first ? run_directory_close(&state->run, EXIT_FAILED, err) : EXIT_FAILED;
    }
    if (state->report.done && first)
        log_info("%s is this merge already", state->options->out);
    if (!state->report.done && first)
        code = complete(state, err);
    return group_agree(state->group, code == EXIT_DONE ? 0 : -1, err) ? EXIT_FAILED : code;
}

static void release(struct merge_state *state)
{
    for (size_t o = 0; state->outs && o < state->sweep.count; o++)
        free(state->outs[o]);
    free(state->outs);
    free(state->partial);
    free(state->identity);
    merge_report_release(&state->report);
    sweep_release(&state->sweep);
    merge_config_release(&state->config);
}

static int run_merge(const void *parsed, const struct option_list *positional, struct error *err)
{
    struct merge_state state = {.options = parsed};
    (void)positional;
    int code = EXIT_USAGE;
    if (read_request(&state, err) == 0) {
        code = EXIT_FAILED;
        if (group_open(&state.group, err) == 0) {
            code = run_ranks(&state, err);
            if (group_rank(state.group) != 0)
                err->text[0] = '\0'; // rank 0 speaks for all
            else if (code == EXIT_FAILED)
                verb_report_failure(&verb_merge, err);
            group_close(state.group);
        }
    }
    release(&state);
    return code;
}

const struct verb verb_merge = {
    .name = "merge",
    .summary = "merge task vectors or models into one model",
    .examples =
        "  memo merge --base models/base --vectors A.safetensors B.safetensors \\\n"
        "      --method ties --density 0.3 --out models/merged\n"
        "  memo merge --base models/base --models models/A models/B --method dare_ties \\\n"
        "      --density 0.5 --seed 7 --out models/merged\n"
        "  memo merge --config mergekit.yaml --out models/merged\n"
        "  memo merge --base models/base --vectors A.safetensors B.safetensors \\\n"
        "      --method ties,dare_ties --sweep density=0.1,0.3,0.5 lambda=0.7,1 \\\n"
        "      --data pairs/A.jsonl pairs/B.jsonl --out models/sweep\n"
        "  mpirun -np 4 memo merge --base models/base --vectors *.safetensors --out models/merged\n",
    .options = merge_option_table,
    .options_bytes = sizeof(struct merge_job_options),
    .run = run_merge,
};
