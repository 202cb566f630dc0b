// SPDX-License-Identifier: Apache-2.0
// Which checkpoints a directory has, and which of them stay.
#include "worker/train/checkpoint.h"

#include "worker/train/checkpoint_internal.h"

// The manifest goes first, for good: a directory that loses its parts must not look whole.
void checkpoint_remove(struct fs *fs, const char *path)
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

// 0: the score is read; 1: there is no whole checkpoint; -1: it has one that cannot be read.
static int read_score(struct fs *fs, const char *path, struct held_out_score *out,
                      struct error *err)
{
    struct manifest manifest;
    const int whole = manifest_exists(fs, path, err);
    if (whole < 1)
        return whole < 0 ? -1 : 1;
    if (manifest_read(fs, path, &manifest, err))
        return -1;
    *out = manifest.score;
    manifest_release(&manifest);
    return 0;
}

// The best whole checkpoint among the names, the earliest of equally good ones; count when none has
// a score of best->name. -1 when one cannot be read; unread [count], which may be NULL, says which.
static int find_best(struct fs *fs, const char *directory, const struct fs_names *names,
                     struct held_out_score *best, size_t *found, bool *unread, struct error *err)
{
    int rc = 0;
    *found = names->count;
    best->known = false;
    for (size_t i = 0; i < names->count; i++) {
        struct held_out_score score = {0};
        if (step_of_name(names->names[i]) < 0)
            continue;
        char *path = fs_join(directory, names->names[i]);
        const int read = read_score(fs, path, &score, err);
        if (read < 0)
            rc = -1;
        if (unread)
            unread[i] = read < 0;
        if (read == 0 && held_out_score_is_better(&score, best)) {
            *best = score;
            *found = i;
        }
        free(path);
    }
    return rc;
}

// Those of the names that stay whatever their age: the best by this figure, and what cannot be read
// now. [count], caller frees.
static bool *protect(struct fs *fs, const char *directory, const struct fs_names *names,
                     const char *figure)
{
    struct held_out_score best = {0};
    struct error ignored;
    size_t found;
    bool *protected = mem_calloc(names->count + 1, sizeof(*protected));
    if (!figure[0])
        return protected;
    strcpy(best.name, figure);
    (void)find_best(fs, directory, names, &best, &found, protected, &ignored);
    protected[found] = true;
    return protected;
}

int checkpoint_tidy(struct fs *fs, const char *directory, size_t keep, const char *figure,
                    struct error *err)
{
    struct fs_names names;
    if (fs_list(fs, directory, &names, err))
        return -1;
    bool *protected = protect(fs, directory, &names, keep < SIZE_MAX ? figure : "");
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
        else if (whole == 0 || !protected[i])
            checkpoint_remove(fs, path);
        free(path);
    }
    free(protected);
    fs_names_release(&names);
    return rc;
}

int checkpoint_best(struct fs *fs, const char *directory, const char *figure, int64_t *step,
                    struct held_out_score *score, struct error *err)
{
    struct fs_names names;
    size_t best;
    *score = (struct held_out_score){0};
    *step = -1;
    strcpy(score->name, figure);
    if (!fs_exists(fs, directory))
        return 0;
    if (fs_list(fs, directory, &names, err))
        return -1;
    const int rc = find_best(fs, directory, &names, score, &best, NULL, err);
    if (rc == 0 && best < names.count)
        *step = step_of_name(names.names[best]);
    fs_names_release(&names);
    return rc;
}
