// SPDX-License-Identifier: Apache-2.0
#include "worker/train/checkpoint.h"

#include "worker/train/checkpoint_internal.h"

#include <errno.h>

// The step of the newest whole checkpoint, or -1.
static int find_newest(struct fs *fs, const char *directory, int64_t *step, struct error *err)
{
    struct fs_info info;
    struct fs_names names;
    *step = -1;
    const int found = fs->ops->stat(fs->state, directory, &info);
    if (found == -ENOENT)
        return 0;
    if (found < 0)
        return error_set_errno(err, -found, "cannot read '%s'", directory);
    if (fs_list(fs, directory, &names, err))
        return -1;
    int rc = 0;
    for (size_t i = names.count; i-- > 0 && rc == 0 && *step < 0;) {
        const int64_t named = step_of_name(names.names[i]);
        if (named < 0)
            continue;
        char *path = fs_join(directory, names.names[i]);
        const int whole = manifest_exists(fs, path, err);
        if (whole == 1)
            *step = named;
        rc = whole < 0 ? -1 : 0;
        free(path);
    }
    fs_names_release(&names);
    return rc;
}

static int check_content(const struct strbuf *file, const struct manifest *manifest, size_t part,
                         struct error *err)
{
    const struct part_header expected = part_header(manifest, part);
    if (!digest_equal(digest_bytes(file->bytes, file->length), manifest->parts[part]))
        return error_set(err, "the content does not match its digest");
    if (file->length < sizeof(expected) || memcmp(file->bytes, &expected, sizeof(expected)) != 0)
        return error_set(err, "the header does not match the manifest");
    return 0;
}

static int check_length(const struct strbuf *file, const struct manifest *manifest, size_t part,
                        size_t state_bytes, struct error *err)
{
    const struct part_header header = part_header(manifest, part);
    const size_t bytes = sizeof(header) + weights_bytes(manifest, &header) + state_bytes;
    return file->length == bytes ? 0
                                 : error_set(err, "%zu bytes, expected %zu", file->length, bytes);
}

// All weights, and the states that this rank keeps.
static void take_part(struct trainer *trainer, const struct manifest *manifest,
                      const struct state *state, const char *content)
{
    struct model *model = trainer->model;
    struct optimizer *optimizer = trainer->optimizer;
    const struct range range = state->range;
    const size_t element = dtype_bytes(manifest->form.weights);
    const struct part_header header = {.begin = range.begin, .end = range.end};
    const unsigned char *block = (const unsigned char *)content + weights_bytes(manifest, &header);
    device_copy_in(model->device, (char *)model_trained_weights(model).data + range.begin * element,
                   content, range_count(range) * element);
    for (size_t u = 0; u < optimizer->unit_count; u++)
        state_copy_in(model->device, &optimizer->units[u].state, optimizer->units[u].place, state,
                      block);
}

static int load_part(struct trainer *trainer, struct fs *fs, const char *directory,
                     const struct manifest *manifest, size_t part, struct strbuf *file,
                     struct error *err)
{
    struct state state;
    char *path = part_path(directory, part);
    state_plan(
        model_trained_layout(trainer->model), manifest->form,
        (struct range){manifest_part_begin(manifest, part), manifest_part_end(manifest, part)},
        &state);
    strbuf_reset(file);
    int rc = fs_read(fs, path, file, err);
    if (rc == 0 && (check_length(file, manifest, part, state.bytes, err) ||
                    check_content(file, manifest, part, err)))
        rc = error_prefix(err, "'%s'", path);
    free(path);
    if (rc == 0)
        take_part(trainer, manifest, &state, file->bytes + sizeof(struct part_header));
    state_release(&state);
    return rc == 0 ? device_sync(trainer->model->device, err) : -1;
}

static int check_manifest(struct trainer *trainer, const struct manifest *manifest, uint64_t step,
                          const char *path, struct error *err)
{
    if (!digest_equal(manifest->identity, trainer->identity) ||
        manifest->elements != model_trained_layout(trainer->model)->elements)
        return error_set(err,
                         "checkpoint '%s' was made with other data, options or model; use another "
                         "--out, or remove it to start over",
                         path);
    if (manifest->form.weights != trainer->options.optimizer.form.weights ||
        manifest->form.moments != trainer->options.optimizer.form.moments)
        return error_set(err, "checkpoint '%s' says %s weights and %s moments", path,
                         dtype_name(manifest->form.weights),
                         moment_kind_name(manifest->form.moments));
    if (manifest->step != step || step > trainer->steps)
        return error_set(err, "checkpoint '%s' says step %" PRIu64 " of %zu", path, manifest->step,
                         trainer->steps);
    uint64_t tokens;
    struct digest consumed;
    trainer_plan_consumed(trainer, (size_t)step, &tokens, &consumed);
    if (manifest->tokens != tokens || !digest_equal(manifest->consumed, consumed))
        return error_set(
            err, "checkpoint '%s' consumed other sequences than the first %" PRIu64 " steps have",
            path, step);
    return 0;
}

// Rounded once, a run stays so.
static void note_environment(struct trainer *trainer, const struct manifest *manifest,
                             struct strbuf *changed)
{
    const size_t before = changed->length;
    environment_compare(&manifest->environment, &trainer->environment, trainer->options.exact_sums,
                        changed);
    const bool differs = changed->length > before;
    if (!differs && !manifest->rounded)
        return;
    trainer->rounded = mem_printf("%s%s%s", manifest->rounded ? manifest->rounded : "",
                                  manifest->rounded && differs ? ", " : "",
                                  differs ? changed->bytes + before : "");
}

static int load_step(struct trainer *trainer, struct fs *fs, const char *directory, uint64_t step,
                     struct strbuf *changed, struct error *err)
{
    struct manifest manifest;
    struct strbuf file = {0};
    char *path = step_path(directory, step);
    int rc = manifest_read(fs, path, &manifest, err);
    if (rc == 0)
        rc = check_manifest(trainer, &manifest, step, path, err);
    for (size_t p = 0; rc == 0 && p < manifest.count; p++)
        rc = load_part(trainer, fs, path, &manifest, p, &file, err);
    if (rc == 0) {
        trainer->step = step;
        trainer->tokens = manifest.tokens;
        trainer->consumed = manifest.consumed;
        if (manifest.score.known && strcmp(manifest.score.name, trainer->score.name) == 0)
            trainer->score = manifest.score;
        if (changed)
            note_environment(trainer, &manifest, changed);
    }
    manifest_release(&manifest);
    strbuf_release(&file);
    free(path);
    return rc;
}

// Rank 0 says which: on a network file system the others may not see the newest one yet, and would
// continue from another step.
int checkpoint_load(struct trainer *trainer, struct fs *fs, const char *directory,
                    struct strbuf *changed, struct error *err)
{
    struct group *group = trainer->group;
    int64_t step = -1;
    int rc = group_rank(group) == 0 ? find_newest(fs, directory, &step, err) : 0;
    if (group_agree(group, rc, err) || group_broadcast(group, &step, sizeof(step), 0, err))
        return -1;
    if (step < 0)
        return 0;
    rc = load_step(trainer, fs, directory, (uint64_t)step, changed, err);
    return group_agree(group, rc, err) ? -1 : 1;
}

int checkpoint_load_step(struct trainer *trainer, struct fs *fs, const char *directory,
                         uint64_t step, struct error *err)
{
    return group_agree(trainer->group, load_step(trainer, fs, directory, step, NULL, err), err);
}

// --- reading without a trainer ---

static int read_master_part(struct fs *fs, const char *directory, const struct manifest *manifest,
                            size_t part, float *out, struct error *err)
{
    const struct part_header header = part_header(manifest, part);
    const struct state state = {.range = {header.begin, header.end},
                                .weights = manifest->form.weights};
    const size_t weights = weights_bytes(manifest, &header);
    const size_t remainder =
        state.weights == DTYPE_BF16 ? (header.end - header.begin) * sizeof(int16_t) : 0;
    struct strbuf file = {0};
    char *path = part_path(directory, part);
    int rc = fs_read(fs, path, &file, err);
    if (rc == 0 && check_content(&file, manifest, part, err))
        rc = error_prefix(err, "'%s'", path);
    if (rc == 0 && file.length < sizeof(header) + weights + remainder)
        rc = error_set(err, "'%s': %zu bytes are too few", path, file.length);
    const unsigned char *content = (const unsigned char *)file.bytes + sizeof(header);
    if (rc == 0)
        state_decode(&state, content + weights, content, STATE_MASTER, out + header.begin);
    strbuf_release(&file);
    free(path);
    return rc;
}

int checkpoint_read_master(struct fs *fs, const char *directory, uint64_t elements, float *out,
                           struct error *err)
{
    struct manifest manifest;
    int64_t step;
    if (find_newest(fs, directory, &step, err))
        return -1;
    if (step < 0)
        return error_set(err, "'%s' has no checkpoint", directory);
    char *path = step_path(directory, (uint64_t)step);
    int rc = manifest_read(fs, path, &manifest, err);
    if (rc == 0 && manifest.elements != elements)
        rc = error_set(err, "checkpoint '%s' has %" PRIu64 " elements, the model %" PRIu64, path,
                       manifest.elements, elements);
    for (size_t p = 0; rc == 0 && p < manifest.count; p++)
        rc = read_master_part(fs, path, &manifest, p, out, err);
    manifest_release(&manifest);
    free(path);
    return rc;
}
