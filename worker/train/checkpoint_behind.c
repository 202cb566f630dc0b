// SPDX-License-Identifier: Apache-2.0
// Checkpoints written behind a run. States change only in the optimizer's step, so that their copy
// overlaps the next forward and backward:
//
//     run      begin | forward, backward | settle | step | forward, ... poll, poll ...       | poll
//     thread           copy ............ |  write the parts ...........| (rank 0) seal: manifest,
//                                        |                             |  older checkpoints go
//
// settle waits until the copy is complete, and is all that the run waits for but begin. Digests of
// the parts are exchanged by the poll that finds all of them written; ranks other than 0 have
// nothing to do while rank 0 seals.
#include "worker/train/checkpoint.h"

#include "base/clock.h"
#include "worker/train/checkpoint_internal.h"

#include <assert.h>
#include <pthread.h>
#include <stdatomic.h>

struct checkpoint_write {
    struct trainer *trainer;
    struct checkpoint_place place;
    struct manifest manifest;
    struct digest *mine; // [manifest.count], of the parts that this rank writes
    struct part_copy *copies;
    size_t copy_count;
    bool sealing; // all parts stand, on all ranks

    pthread_t thread;
    bool has_thread;
    atomic_bool done; // with what the thread was started for
    int rc;
    struct error failure; // when rc is not 0

    pthread_mutex_t mutex;
    pthread_cond_t copied_changed;
    bool copied; // under the mutex
};

static int run_thread(struct checkpoint_write *write, void *(*main)(void *), struct error *err)
{
    atomic_store(&write->done, false);
    const int rc = pthread_create(&write->thread, NULL, main, write);
    write->has_thread = rc == 0;
    return rc == 0 ? 0 : error_set_errno(err, rc, "cannot start a thread for the checkpoint");
}

static int join_thread(struct checkpoint_write *write, struct error *err)
{
    if (write->has_thread)
        pthread_join(write->thread, NULL);
    write->has_thread = false;
    if (write->rc != 0)
        *err = write->failure;
    return write->rc;
}

// The thread's end is the end of all copies.
static void release(struct checkpoint_write *write)
{
    struct error ignored;
    join_thread(write, &ignored);
    trainer_watch_states(write->trainer, NULL, NULL);
    for (size_t i = 0; i < write->copy_count; i++)
        part_close(&write->copies[i]);
    pthread_cond_destroy(&write->copied_changed);
    pthread_mutex_destroy(&write->mutex);
    free(write->copies);
    free(write->mine);
    manifest_release(&write->manifest);
    checkpoint_place_release(&write->place);
    free(write);
}

void checkpoint_abandon(struct checkpoint_write *write)
{
    if (write)
        release(write);
}

static void copy_parts(struct checkpoint_write *write)
{
    for (size_t i = 0; write->rc == 0 && i < write->copy_count; i++)
        write->rc = part_fill(&write->copies[i], write->trainer, &write->failure);
    pthread_mutex_lock(&write->mutex);
    write->copied = true;
    pthread_cond_signal(&write->copied_changed);
    pthread_mutex_unlock(&write->mutex);
}

// A copy goes when its part is written.
static void *parts_main(void *argument)
{
    struct checkpoint_write *write = argument;
    copy_parts(write);
    for (size_t i = 0; write->rc == 0 && i < write->copy_count; i++) {
        struct part_copy *part = &write->copies[i];
        write->rc = part_write(part, write->place.fs, write->place.path,
                               &write->mine[part->unit->number], &write->failure);
        part_close(part);
    }
    atomic_store(&write->done, true);
    return NULL;
}

static void *seal_main(void *argument)
{
    struct checkpoint_write *write = argument;
    write->rc = checkpoint_seal(&write->place, &write->manifest, &write->failure);
    atomic_store(&write->done, true);
    return NULL;
}

// Of the trainer, before states change.
static double settle(void *context)
{
    struct checkpoint_write *write = context;
    const double start = clock_seconds();
    pthread_mutex_lock(&write->mutex);
    while (!write->copied)
        pthread_cond_wait(&write->copied_changed, &write->mutex);
    pthread_mutex_unlock(&write->mutex);
    return clock_seconds() - start;
}

static int open_parts(struct checkpoint_write *write, struct error *err)
{
    const struct optimizer *optimizer = write->trainer->optimizer;
    write->copies = mem_calloc(optimizer->unit_count, sizeof(*write->copies));
    for (size_t u = 0; u < optimizer->unit_count; u++) {
        const struct optimizer_unit *unit = &optimizer->units[u];
        if (checkpoint_writes_unit(write->trainer, unit) &&
            part_open(&write->manifest, unit, &write->copies[write->copy_count++], err))
            return -1;
    }
    return 0;
}

int checkpoint_begin(struct trainer *trainer, struct fs *fs, const char *directory, size_t keep,
                     struct checkpoint_write **out, struct error *err)
{
    struct checkpoint_place place;
    struct manifest manifest;
    assert(keep > 0);
    *out = NULL;
    const int opened = checkpoint_open(trainer, fs, directory, keep, &place, &manifest, err);
    if (opened <= 0)
        return opened;
    struct checkpoint_write *write = mem_calloc(1, sizeof(*write));
    write->trainer = trainer;
    write->place = place;
    write->manifest = manifest;
    write->mine = mem_calloc(manifest.count, sizeof(*write->mine));
    pthread_mutex_init(&write->mutex, NULL);
    pthread_cond_init(&write->copied_changed, NULL);
    const int rc = open_parts(write, err) || run_thread(write, parts_main, err) ? -1 : 0;
    if (group_agree(trainer->group, rc, err)) {
        release(write);
        return -1;
    }
    trainer_watch_states(trainer, settle, write);
    *out = write;
    return 0;
}

// Collective, when no rank's thread works any more: on to the seal, or to the end.
static int advance(struct checkpoint_write **write, struct error *err)
{
    struct checkpoint_write *own = *write;
    struct group *group = own->trainer->group;
    int rc = join_thread(own, err);
    const bool sealed = own->sealing;
    if (!sealed) {
        rc = checkpoint_gather(group, &own->manifest, own->mine, rc, err);
        own->sealing = true;
        if (rc == 0)
            rc = group_rank(group) == 0 ? run_thread(own, seal_main, err) : 0;
    }
    rc = group_agree(group, rc, err);
    if (rc != 0)
        checkpoint_take_back(group, &own->place, err);
    if (rc != 0 || sealed) {
        release(own);
        *write = NULL;
    }
    return rc;
}

int checkpoint_complete(struct checkpoint_write **write, struct error *err)
{
    while (*write)
        if (advance(write, err))
            return -1;
    return 0;
}

int checkpoint_poll(struct checkpoint_write **write, struct error *err)
{
    bool busy;
    if (!*write)
        return 0;
    if (group_any((*write)->trainer->group, !atomic_load(&(*write)->done), &busy, err))
        return -1;
    return busy ? 0 : advance(write, err);
}
