// SPDX-License-Identifier: Apache-2.0
#include "worker/train/checkpoint.h"

#include "worker/train/checkpoint_internal.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

// --- saving ---

// Copies weights and states of a unit to host memory, one behind the other.
static int copy_unit(const struct trainer *trainer, const struct optimizer_unit *unit,
                     unsigned char *host, size_t state_at, struct error *err)
{
    const struct model *model = trainer->model;
    const struct tensor trained = model_trained_weights(model);
    const size_t element = dtype_bytes(trained.dtype);
    const size_t bytes = range_count(unit->state.range) * element;
    const char *weights = (const char *)trained.data + unit->state.range.begin * element;
    memset(host + bytes, 0, state_at - bytes);
    return device_copy_out(model->device, host, weights, bytes, err) ||
                   device_copy_out(model->device, host + state_at, unit->block, unit->state.bytes,
                                   err)
               ? -1
               : 0;
}

// A unit's part in host memory.
struct part_copy {
    struct part_header header;
    size_t number;
    unsigned char *host;
    size_t bytes;
};

static int copy_part(const struct trainer *trainer, const struct manifest *manifest,
                     const struct optimizer_unit *unit, struct part_copy *out, struct error *err)
{
    const struct part_header header = part_header(manifest, unit->number);
    const size_t state_at = weights_bytes(manifest, &header);
    *out = (struct part_copy){
        .header = header, .number = unit->number, .bytes = state_at + unit->state.bytes};
    out->host = mem_alloc(out->bytes);
    return copy_unit(trainer, unit, out->host, state_at, err);
}

// *digest is that of the file.
static int write_part(const struct part_copy *part, struct fs *fs, const char *directory,
                      struct digest *digest, struct error *err)
{
    const struct fs_part pieces[] = {{&part->header, sizeof(part->header)},
                                     {part->host, part->bytes}};
    struct digest_builder builder;
    digest_begin(&builder);
    for (size_t i = 0; i < 2; i++)
        digest_update(&builder, pieces[i].bytes, pieces[i].length);
    *digest = digest_end(&builder);
    char *path = part_path(directory, part->number);
    const int rc = fs_write_atomic(fs, path, pieces, 2, true, err);
    free(path);
    return rc;
}

static bool writes_unit(const struct trainer *trainer, const struct optimizer_unit *unit)
{
    return unit->number % (size_t)group_size(trainer->group) == (size_t)group_rank(trainer->group);
}

// One part in host memory at a time.
static int write_own_parts(const struct trainer *trainer, struct fs *fs, const char *directory,
                           const struct manifest *manifest, struct digest *digests,
                           struct error *err)
{
    const struct optimizer *optimizer = trainer->optimizer;
    int rc = 0;
    for (size_t u = 0; rc == 0 && u < optimizer->unit_count; u++) {
        const struct optimizer_unit *unit = &optimizer->units[u];
        struct part_copy part;
        if (!writes_unit(trainer, unit))
            continue;
        rc = copy_part(trainer, manifest, unit, &part, err) ||
                     write_part(&part, fs, directory, &digests[unit->number], err)
                 ? -1
                 : 0;
        free(part.host);
    }
    return rc;
}

// Rank 0. *there: this state was saved before, by a run that was continued from it.
static int begin_save(const struct trainer *trainer, struct fs *fs, const char *directory,
                      const char *path, bool *there, struct error *err)
{
    if (fs_make_directories(fs, directory, err) ||
        checkpoint_tidy(fs, directory, SIZE_MAX, "", err))
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
    checkpoint_tidy(fs, directory, keep, manifest->score.name,
                    NULL); // the checkpoint stands; the next save tries again
    return 0;
}

static char *copy_text(const char *text)
{
    return text ? mem_strdup(text) : NULL;
}

static struct manifest new_manifest(const struct trainer *trainer)
{
    struct manifest manifest = {.step = trainer->step,
                                .identity = trainer->identity,
                                .tokens = trainer->tokens,
                                .consumed = trainer->consumed,
                                .rounded = copy_text(trainer->rounded),
                                .score = trainer->score,
                                .form = trainer->options.optimizer.form,
                                .elements = model_trained_layout(trainer->model)->elements,
                                .part_elements = trainer->shards.unit};
    manifest.count = manifest_part_count(manifest.elements, manifest.part_elements);
    manifest.parts = mem_calloc(manifest.count, sizeof(*manifest.parts));
    for (int f = 0; f < ENVIRONMENT_FIELDS; f++)
        manifest.environment.values[f] = copy_text(trainer->environment.values[f]);
    return manifest;
}

// A checkpoint under way.
struct checkpoint_write {
    struct group *group;
    struct fs *fs;
    char *directory, *path; // of all checkpoints, of this one
    size_t keep;
    struct manifest manifest;
    struct digest *mine; // [manifest.count], of the parts that this rank writes
    struct part_copy *copies;
    size_t copy_count;
    pthread_t thread;
    bool has_thread;
    atomic_bool written;
    int rc;
    struct error failure; // when rc is not 0
};

static void write_release(struct checkpoint_write *write)
{
    if (write->has_thread)
        pthread_join(write->thread, NULL);
    for (size_t i = 0; i < write->copy_count; i++)
        free(write->copies[i].host);
    free(write->copies);
    free(write->mine);
    free(write->directory);
    free(write->path);
    manifest_release(&write->manifest);
    free(write);
}

void checkpoint_abandon(struct checkpoint_write *write)
{
    if (write)
        write_release(write);
}

// Collective: *out, or NULL when this state was saved before.
static int open_write(struct trainer *trainer, struct fs *fs, const char *directory, size_t keep,
                      struct checkpoint_write **out, struct error *err)
{
    struct group *group = trainer->group;
    char *path = step_path(directory, trainer->step);
    bool there = false;
    int rc = 0;
    *out = NULL;
    if (group_rank(group) == 0)
        rc = begin_save(trainer, fs, directory, path, &there, err);
    if (group_agree(group, rc, err) || group_broadcast(group, &there, sizeof(there), 0, err)) {
        error_prefix(err, "checkpoint '%s'", path);
        free(path);
        return -1;
    }
    if (there) {
        free(path);
        return 0;
    }
    struct checkpoint_write *write = mem_calloc(1, sizeof(*write));
    *write = (struct checkpoint_write){.group = group,
                                       .fs = fs,
                                       .directory = mem_strdup(directory),
                                       .path = path,
                                       .keep = keep,
                                       .manifest = new_manifest(trainer)};
    write->mine = mem_calloc(write->manifest.count, sizeof(*write->mine));
    *out = write;
    return 0;
}

// Collective: when every rank's parts stand, the manifest follows. Releases the write.
static int close_write(struct checkpoint_write *write, int rc, struct error *err)
{
    struct group *group = write->group;
    struct manifest *manifest = &write->manifest;
    const size_t ranks = (size_t)group_size(group), count = manifest->count;
    const int rank = group_rank(group);
    struct digest *all = mem_calloc(ranks * count, sizeof(*all));
    rc = group_agree(group, rc, err) ||
                 group_all_gather(group, all, write->mine, count * sizeof(*all), err)
             ? -1
             : 0;
    for (size_t p = 0; p < count; p++)
        manifest->parts[p] = all[p % ranks * count + p];
    free(all);
    if (rc == 0) {
        if (rank == 0)
            rc = finish_save(manifest, write->fs, write->directory, write->path, write->keep, err);
        rc = group_agree(group, rc, err);
    }
    if (rc != 0 && rank == 0 && manifest_exists(write->fs, write->path, NULL) == 0)
        checkpoint_remove(write->fs, write->path);
    if (rc != 0)
        error_prefix(err, "checkpoint '%s'", write->path);
    write_release(write);
    return rc;
}

int checkpoint_save(struct trainer *trainer, struct fs *fs, const char *directory, size_t keep,
                    struct error *err)
{
    struct checkpoint_write *write;
    assert(keep > 0);
    if (open_write(trainer, fs, directory, keep, &write, err))
        return -1;
    if (!write)
        return 0;
    const int rc = write_own_parts(trainer, fs, write->path, &write->manifest, write->mine, err);
    return close_write(write, rc, err);
}

// --- behind ---

static int copy_own_parts(const struct trainer *trainer, struct checkpoint_write *write,
                          struct error *err)
{
    const struct optimizer *optimizer = trainer->optimizer;
    write->copies = mem_calloc(optimizer->unit_count, sizeof(*write->copies));
    for (size_t u = 0; u < optimizer->unit_count; u++) {
        const struct optimizer_unit *unit = &optimizer->units[u];
        if (writes_unit(trainer, unit) &&
            copy_part(trainer, &write->manifest, unit, &write->copies[write->copy_count++], err))
            return -1;
    }
    return 0;
}

static void *write_thread(void *argument)
{
    struct checkpoint_write *write = argument;
    for (size_t i = 0; write->rc == 0 && i < write->copy_count; i++) {
        const struct part_copy *part = &write->copies[i];
        write->rc =
            write_part(part, write->fs, write->path, &write->mine[part->number], &write->failure);
    }
    atomic_store(&write->written, true);
    return NULL;
}

int checkpoint_begin(struct trainer *trainer, struct fs *fs, const char *directory, size_t keep,
                     struct checkpoint_write **out, struct error *err)
{
    assert(keep > 0);
    if (open_write(trainer, fs, directory, keep, out, err))
        return -1;
    if (!*out)
        return 0;
    int rc = copy_own_parts(trainer, *out, err);
    if (rc == 0) {
        const int created = pthread_create(&(*out)->thread, NULL, write_thread, *out);
        (*out)->has_thread = created == 0;
        if (created != 0)
            rc = error_set_errno(err, created, "cannot start a thread for the checkpoint");
    }
    if (group_agree(trainer->group, rc, err) == 0)
        return 0;
    checkpoint_abandon(*out);
    *out = NULL;
    return -1;
}

int checkpoint_complete(struct checkpoint_write **write, struct error *err)
{
    struct checkpoint_write *own = *write;
    *write = NULL;
    if (!own)
        return 0;
    pthread_join(own->thread, NULL);
    own->has_thread = false;
    if (own->rc != 0)
        *err = own->failure;
    return close_write(own, own->rc, err);
}

int checkpoint_poll(struct checkpoint_write **write, struct error *err)
{
    bool busy;
    if (!*write)
        return 0;
    if (group_any((*write)->group, !atomic_load(&(*write)->written), &busy, err))
        return -1;
    return busy ? 0 : checkpoint_complete(write, err);
}
