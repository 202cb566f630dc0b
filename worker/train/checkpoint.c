// SPDX-License-Identifier: Apache-2.0
#include "worker/train/checkpoint.h"

#include "worker/train/checkpoint_internal.h"

#include <assert.h>
#include <errno.h>

// --- saving ---

int part_fill(const struct part_copy *part, const struct trainer *trainer,
              const struct manifest *manifest, struct error *err)
{
    struct device *device = trainer->model->device;
    const struct part_header header = part_header(manifest, part->unit->number);
    const struct tensor trained = model_trained_weights(trainer->model);
    const size_t element = dtype_bytes(trained.dtype);
    const size_t bytes = (header.end - header.begin) * element;
    const size_t filled = weights_bytes(manifest, &header);
    const char *weights = (const char *)trained.data + header.begin * element;
    unsigned char *at = part->image;
    memcpy(at, &header, sizeof(header));
    at += sizeof(header);
    memset(at + bytes, 0, filled - bytes);
    return device_copy_out(device, at, weights, bytes, err) ||
                   state_copy_out(device, &part->unit->state, part->unit->place, at + filled, err)
               ? -1
               : 0;
}

// Whole pages go past the page cache, which would cost the computation a core and memory; the rest
// as usual. Returns what the operations do.
static int write_pages(struct fs *fs, const char *path, int handle, const unsigned char *image,
                       size_t bytes)
{
    const size_t whole = bytes / FS_DIRECT_BYTES * FS_DIRECT_BYTES;
    int rc = fs->ops->write_at(fs->state, handle, 0, image, whole);
    int closed = fs->ops->close(fs->state, handle);
    if (rc != 0 || closed != 0)
        return rc ? rc : closed;
    rc = fs->ops->open_update(fs->state, path, &handle);
    if (rc != 0)
        return rc;
    rc = fs->ops->write_at(fs->state, handle, whole, image + whole, bytes - whole);
    if (rc == 0)
        rc = fs->ops->sync(fs->state, handle);
    closed = fs->ops->close(fs->state, handle);
    return rc ? rc : closed;
}

static int create_direct(struct fs *fs, const char *path, int *handle)
{
    int rc = fs->ops->create(fs->state, path, false, handle);
    if (rc == 0)
        rc = fs->ops->close(fs->state, *handle);
    return rc == 0 ? fs->ops->open_direct(fs->state, path, handle) : rc;
}

// As fs_write_atomic, but for the name, which needs not be unique: the directory has one writer for
// each part, and what an interrupted one left was removed with it.
static int write_direct(struct fs *fs, const char *directory, const char *path,
                        const struct part_copy *part)
{
    char *temporary = mem_printf("%s.tmp", path);
    int handle;
    int rc = create_direct(fs, temporary, &handle);
    if (rc == 0)
        rc = write_pages(fs, temporary, handle, part->image, part->bytes);
    if (rc == 0)
        rc = fs->ops->rename(fs->state, temporary, path, true);
    if (rc != 0)
        fs->ops->remove(fs->state, temporary);
    else
        rc = fs->ops->sync_directory(fs->state, directory);
    free(temporary);
    return rc;
}

int part_write(const struct part_copy *part, struct fs *fs, const char *directory,
               struct digest *digest, struct error *err)
{
    char *path = part_path(directory, part->unit->number);
    *digest = digest_bytes(part->image, part->bytes);
    int rc = write_direct(fs, directory, path, part);
    if (rc == -EINVAL) // no such writes there
        rc = fs_write_atomic(fs, path, &(struct fs_part){part->image, part->bytes}, 1, true, err);
    else if (rc != 0)
        rc = error_set_errno(err, -rc, "cannot write '%s'", path);
    free(path);
    return rc;
}

bool checkpoint_writes_unit(const struct trainer *trainer, const struct optimizer_unit *unit)
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
        if (!checkpoint_writes_unit(trainer, unit))
            continue;
        const struct part_copy part = {.unit = unit,
                                       .image = mem_alloc_aligned(FS_DIRECT_BYTES, part_room(unit)),
                                       .bytes = part_bytes(unit)};
        rc = part_fill(&part, trainer, manifest, err) ||
                     part_write(&part, fs, directory, &digests[unit->number], err)
                 ? -1
                 : 0;
        free(part.image);
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

// The step's directory itself must be durable before older ones go.
int checkpoint_seal(const struct checkpoint_place *place, const struct manifest *manifest,
                    struct error *err)
{
    struct fs *fs = place->fs;
    if (manifest_write(manifest, fs, place->path, err))
        return -1;
    const int rc = fs->ops->sync_directory(fs->state, place->directory);
    if (rc < 0)
        return error_set_errno(err, -rc, "cannot sync '%s'", place->directory);
    checkpoint_tidy(fs, place->directory, place->keep, manifest->score.name,
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

void checkpoint_place_release(struct checkpoint_place *place)
{
    free(place->directory);
    free(place->path);
    *place = (struct checkpoint_place){0};
}

int checkpoint_open(struct trainer *trainer, struct fs *fs, const char *directory, size_t keep,
                    struct checkpoint_place *place, struct manifest *manifest, struct error *err)
{
    struct group *group = trainer->group;
    bool there = false;
    int rc = 0;
    *place = (struct checkpoint_place){.fs = fs,
                                       .directory = mem_strdup(directory),
                                       .path = step_path(directory, trainer->step),
                                       .keep = keep};
    if (group_rank(group) == 0)
        rc = begin_save(trainer, fs, directory, place->path, &there, err);
    if (group_agree(group, rc, err) || group_broadcast(group, &there, sizeof(there), 0, err))
        rc = error_prefix(err, "checkpoint '%s'", place->path);
    if (rc != 0 || there) {
        checkpoint_place_release(place);
        return rc != 0 ? -1 : 0;
    }
    *manifest = new_manifest(trainer);
    return 1;
}

int checkpoint_gather(struct group *group, struct manifest *manifest, const struct digest *mine,
                      int rc, struct error *err)
{
    const size_t ranks = (size_t)group_size(group), count = manifest->count;
    struct digest *all = mem_calloc(ranks * count, sizeof(*all));
    rc =
        group_agree(group, rc, err) || group_all_gather(group, all, mine, count * sizeof(*all), err)
            ? -1
            : 0;
    for (size_t p = 0; p < count; p++)
        manifest->parts[p] = all[p % ranks * count + p];
    free(all);
    return rc;
}

int checkpoint_take_back(struct group *group, const struct checkpoint_place *place,
                         struct error *err)
{
    if (group_rank(group) == 0 && manifest_exists(place->fs, place->path, NULL) == 0)
        checkpoint_remove(place->fs, place->path);
    return error_prefix(err, "checkpoint '%s'", place->path);
}

int checkpoint_save(struct trainer *trainer, struct fs *fs, const char *directory, size_t keep,
                    struct error *err)
{
    struct group *group = trainer->group;
    struct checkpoint_place place;
    struct manifest manifest;
    assert(keep > 0);
    const int opened = checkpoint_open(trainer, fs, directory, keep, &place, &manifest, err);
    if (opened <= 0)
        return opened;
    struct digest *mine = mem_calloc(manifest.count, sizeof(*mine));
    int rc = write_own_parts(trainer, fs, place.path, &manifest, mine, err);
    rc = checkpoint_gather(group, &manifest, mine, rc, err);
    if (rc == 0) {
        rc = group_rank(group) == 0 ? checkpoint_seal(&place, &manifest, err) : 0;
        rc = group_agree(group, rc, err);
    }
    if (rc != 0)
        checkpoint_take_back(group, &place, err);
    free(mine);
    manifest_release(&manifest);
    checkpoint_place_release(&place);
    return rc;
}
