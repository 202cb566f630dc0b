// SPDX-License-Identifier: Apache-2.0
// memo merge: task vectors or models into one model, or into one for each setting of a sweep.
//
// Everything is written into OUT.partial, which becomes OUT when it is complete; a merge that was
// killed continues there. OUT/run/merge.id says what OUT is: the same command again does nothing.
#include "base/log.h"
#include "base/mem.h"
#include "jobs/compute.h"
#include "jobs/merge_job.h"
#include "jobs/verbs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_sweep(const struct merge_state *state)
{
    return state->options->sweep.count > 0 || state->sweep.count > 1;
}

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
    if (state->options->data.count > 0 && merge_score_sweep(state, err))
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
    if (merge_read_request(&state, err) == 0) {
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
