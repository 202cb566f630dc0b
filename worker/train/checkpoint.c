// SPDX-License-Identifier: Apache-2.0
#include "worker/train/checkpoint.h"

#include "base/mem.h"
#include "worker/train/checkpoint_manifest.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char part_magic[8] = {'M', 'E', 'M', 'O', 'C', 'K', 'P', 'T'};

struct part_header {
    char magic[8];
    uint32_t version;
    uint32_t zero;
    uint64_t begin;
    uint64_t end;
    uint64_t step;
    uint8_t zeros[24];
};
_Static_assert(sizeof(struct part_header) == 64, "the header is 64 bytes on disk");

static struct part_header part_header(const struct manifest *manifest, size_t part)
{
    struct part_header header = {.version = CHECKPOINT_VERSION,
                                 .begin = manifest_part_begin(manifest, part),
                                 .end = manifest_part_end(manifest, part),
                                 .step = manifest->step};
    memcpy(header.magic, part_magic, sizeof(part_magic));
    return header;
}

static char *part_path(const char *directory, size_t part)
{
    return mem_printf("%s/part-%05zu.bin", directory, part);
}

static char *step_path(const char *directory, uint64_t step)
{
    return mem_printf("%s/step-%08" PRIu64, directory, step);
}

static size_t weights_bytes(const struct manifest *manifest, const struct part_header *header)
{
    const size_t bytes = (header->end - header->begin) * dtype_bytes(manifest->form.weights);
    return (bytes + 63) / 64 * 64;
}

// --- the directory of checkpoints ---

// The number in "step-NNNNNNNN", or -1.
static int64_t step_of_name(const char *name)
{
    if (strncmp(name, "step-", 5) != 0 || strlen(name) != 13 || strspn(name + 5, "0123456789") != 8)
        return -1;
    return strtoll(name + 5, NULL, 10);
}

// What cannot be removed now is removed by the next save. The manifest goes first, for good: a
// directory that loses its parts must not look whole.
static void remove_checkpoint(struct fs *fs, const char *path)
{
    struct fs_names names;
    if (manifest_remove(fs, path) || fs->ops->sync_directory(fs->state, path) ||
        fs_list(fs, path, &names, NULL))
        return;
    for (size_t i = 0; i < names.count; i++) {
        char *file = fs_join(path, names.names[i]);
        fs->ops->remove(fs->state, file);
        free(file);
    }
    fs->ops->remove(fs->state, path);
    fs_names_release(&names);
}

// Removes what was interrupted and all but the newest `keep` whole checkpoints.
static int tidy(struct fs *fs, const char *directory, size_t keep, struct error *err)
{
    struct fs_names names;
    if (fs_list(fs, directory, &names, err))
        return -1;
    size_t kept = 0;
    int rc = 0;
    for (size_t i = names.count; i-- > 0 && rc == 0;) {
        if (step_of_name(names.names[i]) < 0)
            continue;
        char *path = fs_join(directory, names.names[i]);
        const int whole = manifest_exists(fs, path, err);
        if (whole < 0)
            rc = -1;
        else if (whole == 1 && kept < keep)
            kept++;
        else
            remove_checkpoint(fs, path);
        free(path);
    }
    fs_names_release(&names);
    return rc;
}

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

// --- saving ---

// Copies weights and states of a unit to host memory, one behind the other.
static int copy_unit(const struct trainer *trainer, const struct optimizer_unit *unit,
                     unsigned char *host, size_t state_at, struct error *err)
{
    const struct model *model = trainer->model;
    const size_t element = dtype_bytes(model->weights.dtype);
    const size_t bytes = range_count(unit->state.range) * element;
    const char *weights = (const char *)model->weights.data + unit->state.range.begin * element;
    memset(host + bytes, 0, state_at - bytes);
    return device_copy_out(model->device, host, weights, bytes, err) ||
                   device_copy_out(model->device, host + state_at, unit->block, unit->state.bytes,
                                   err)
               ? -1
               : 0;
}

// *digest is that of the file.
static int write_part(const struct trainer *trainer, struct fs *fs, const char *directory,
                      const struct manifest *manifest, const struct optimizer_unit *unit,
                      struct digest *digest, struct error *err)
{
    const struct part_header header = part_header(manifest, unit->number);
    const size_t state_at = weights_bytes(manifest, &header);
    const size_t bytes = state_at + unit->state.bytes;
    unsigned char *host = mem_alloc(bytes);
    if (copy_unit(trainer, unit, host, state_at, err)) {
        free(host);
        return -1;
    }
    const struct fs_part pieces[] = {{&header, sizeof(header)}, {host, bytes}};
    struct digest_builder builder;
    digest_begin(&builder);
    for (size_t i = 0; i < 2; i++)
        digest_update(&builder, pieces[i].bytes, pieces[i].length);
    *digest = digest_end(&builder);
    char *path = part_path(directory, unit->number);
    const int rc = fs_write_atomic(fs, path, pieces, 2, true, err);
    free(path);
    free(host);
    return rc;
}

static int write_own_parts(const struct trainer *trainer, struct fs *fs, const char *directory,
                           const struct manifest *manifest, struct digest *digests,
                           struct error *err)
{
    const struct optimizer *optimizer = trainer->optimizer;
    const size_t ranks = (size_t)group_size(trainer->group);
    const size_t rank = (size_t)group_rank(trainer->group);
    int rc = 0;
    for (size_t u = 0; rc == 0 && u < optimizer->unit_count; u++) {
        const struct optimizer_unit *unit = &optimizer->units[u];
        if (unit->number % ranks == rank)
            rc = write_part(trainer, fs, directory, manifest, unit, &digests[unit->number], err);
    }
    return rc;
}

// Collective: writes all parts and enters their digests in the manifest, on every rank.
static int write_parts(const struct trainer *trainer, struct fs *fs, const char *directory,
                       struct manifest *manifest, struct error *err)
{
    struct group *group = trainer->group;
    const size_t ranks = (size_t)group_size(group), count = manifest->count;
    struct digest *mine = mem_calloc(count, sizeof(*mine));
    struct digest *all = mem_calloc(ranks * count, sizeof(*all));
    int rc = write_own_parts(trainer, fs, directory, manifest, mine, err);
    rc = group_agree(group, rc, err) ||
                 group_all_gather(group, all, mine, count * sizeof(*mine), err)
             ? -1
             : 0;
    for (size_t p = 0; p < count; p++)
        manifest->parts[p] = all[p % ranks * count + p];
    free(mine);
    free(all);
    return rc;
}

// Rank 0. *there: this state was saved before, by a run that was continued from it.
static int begin_save(const struct trainer *trainer, struct fs *fs, const char *directory,
                      const char *path, bool *there, struct error *err)
{
    if (fs_make_directories(fs, directory, err) || tidy(fs, directory, SIZE_MAX, err))
        return -1;
    const int whole = manifest_exists(fs, path, err);
    if (whole < 0)
        return -1;
    *there = whole == 1;
    if (!*there)
        return fs_make_directories(fs, path, err);
    struct manifest old;
    if (manifest_read(fs, path, &old, err))
        return -1;
    const bool same = digest_equal(old.identity, trainer->identity);
    manifest_release(&old);
    return same ? 0 : error_set(err, "it belongs to a run with other data, options or model");
}

// Rank 0. The step's directory itself must be durable before older ones go.
static int finish_save(const struct manifest *manifest, struct fs *fs, const char *directory,
                       const char *path, size_t keep, struct error *err)
{
    if (manifest_write(manifest, fs, path, err))
        return -1;
    const int rc = fs->ops->sync_directory(fs->state, directory);
    if (rc < 0)
        return error_set_errno(err, -rc, "cannot sync '%s'", directory);
    tidy(fs, directory, keep, NULL); // the checkpoint stands; the next save tries again
    return 0;
}

// Collective.
static int save_new(struct trainer *trainer, struct fs *fs, const char *directory, const char *path,
                    size_t keep, struct error *err)
{
    const int rank = group_rank(trainer->group);
    const uint64_t elements = trainer->model->layout.elements;
    struct manifest manifest = {.step = trainer->step,
                                .identity = trainer->identity,
                                .tokens = trainer->tokens,
                                .consumed = trainer->consumed,
                                .form = trainer->options.optimizer.form,
                                .elements = elements,
                                .part_elements = trainer->shards.unit};
    manifest.count = manifest_part_count(elements, manifest.part_elements);
    manifest.parts = mem_calloc(manifest.count, sizeof(*manifest.parts));
    int rc = write_parts(trainer, fs, path, &manifest, err);
    if (rc == 0) {
        if (rank == 0)
            rc = finish_save(&manifest, fs, directory, path, keep, err);
        rc = group_agree(trainer->group, rc, err);
    }
    if (rc != 0 && rank == 0 && manifest_exists(fs, path, NULL) == 0)
        remove_checkpoint(fs, path);
    manifest_release(&manifest);
    return rc;
}

int checkpoint_save(struct trainer *trainer, struct fs *fs, const char *directory, size_t keep,
                    struct error *err)
{
    assert(keep > 0);
    struct group *group = trainer->group;
    char *path = step_path(directory, trainer->step);
    bool there = false;
    int rc = 0;
    if (group_rank(group) == 0)
        rc = begin_save(trainer, fs, directory, path, &there, err);
    if (group_agree(group, rc, err) || group_broadcast(group, &there, sizeof(there), 0, err))
        rc = -1;
    else if (!there)
        rc = save_new(trainer, fs, directory, path, keep, err);
    if (rc != 0)
        error_prefix(err, "checkpoint '%s'", path);
    free(path);
    return rc;
}

// --- loading ---

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
    device_copy_in(model->device, (char *)model->weights.data + range.begin * element, content,
                   range_count(range) * element);
    for (size_t u = 0; u < optimizer->unit_count; u++)
        state_copy_in(model->device, &optimizer->units[u].state, optimizer->units[u].block, state,
                      block);
}

static int load_part(struct trainer *trainer, struct fs *fs, const char *directory,
                     const struct manifest *manifest, size_t part, struct strbuf *file,
                     struct error *err)
{
    struct state state;
    char *path = part_path(directory, part);
    state_plan(
        &trainer->model->layout, manifest->form,
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
        manifest->elements != trainer->model->layout.elements)
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

static int load_step(struct trainer *trainer, struct fs *fs, const char *directory, uint64_t step,
                     struct error *err)
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
    }
    manifest_release(&manifest);
    strbuf_release(&file);
    free(path);
    return rc;
}

// Rank 0 says which: on a network file system the others may not see the newest one yet, and would
// continue from another step.
int checkpoint_load(struct trainer *trainer, struct fs *fs, const char *directory,
                    struct error *err)
{
    struct group *group = trainer->group;
    int64_t step = -1;
    int rc = group_rank(group) == 0 ? find_newest(fs, directory, &step, err) : 0;
    if (group_agree(group, rc, err) || group_broadcast(group, &step, sizeof(step), 0, err))
        return -1;
    if (step < 0)
        return 0;
    rc = load_step(trainer, fs, directory, (uint64_t)step, err);
    return group_agree(group, rc, err) ? -1 : 1;
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
