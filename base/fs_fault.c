// SPDX-License-Identifier: Apache-2.0
// An fs table that passes everything to another one and fails as told. An operation that fails by
// count is not passed on, except close, which must not leak the handle.
#include "base/fs.h"

#include <errno.h>
#include <pthread.h>

static pthread_mutex_t fault_lock = PTHREAD_MUTEX_INITIALIZER; // the counters of every fs_fault

// Counts the operation; true when it is the one that fails.
static bool strikes(struct fs_fault *fault)
{
    pthread_mutex_lock(&fault_lock);
    fault->operations++;
    bool hit = fault->fail_operation > 0 && --fault->fail_operation == 0;
    pthread_mutex_unlock(&fault_lock);
    return hit;
}

// How many of `length` bytes the budget still allows.
static size_t spend_budget(struct fs_fault *fault, size_t length)
{
    pthread_mutex_lock(&fault_lock);
    size_t allowed = length;
    if (fault->write_budget_bytes < length)
        allowed = (size_t)fault->write_budget_bytes;
    if (fault->write_budget_bytes != UINT64_MAX)
        fault->write_budget_bytes -= allowed;
    pthread_mutex_unlock(&fault_lock);
    return allowed;
}

static int fault_create(void *state, const char *path, bool exclusive, int *handle)
{
    struct fs_fault *fault = state;
    if (strikes(fault))
        return -EIO;
    return fault->inner->ops->create(fault->inner->state, path, exclusive, handle);
}

static int fault_write(void *state, int handle, const void *bytes, size_t length)
{
    struct fs_fault *fault = state;
    if (strikes(fault))
        return -EIO;
    size_t allowed = spend_budget(fault, length);
    int rc = fault->inner->ops->write(fault->inner->state, handle, bytes, allowed);
    return rc == 0 && allowed < length ? -ENOSPC : rc;
}

static int fault_open_update(void *state, const char *path, int *handle)
{
    struct fs_fault *fault = state;
    return strikes(fault) ? -EIO
                          : fault->inner->ops->open_update(fault->inner->state, path, handle);
}

static int fault_open_direct(void *state, const char *path, int *handle)
{
    struct fs_fault *fault = state;
    return strikes(fault) ? -EIO
                          : fault->inner->ops->open_direct(fault->inner->state, path, handle);
}

static int fault_write_at(void *state, int handle, uint64_t offset, const void *bytes,
                          size_t length)
{
    struct fs_fault *fault = state;
    if (strikes(fault))
        return -EIO;
    size_t allowed = spend_budget(fault, length);
    int rc = fault->inner->ops->write_at(fault->inner->state, handle, offset, bytes, allowed);
    return allowed < length ? -ENOSPC : rc; // a direct write cannot store every part
}

static int fault_sync(void *state, int handle)
{
    struct fs_fault *fault = state;
    return strikes(fault) ? -EIO : fault->inner->ops->sync(fault->inner->state, handle);
}

static int fault_close(void *state, int handle)
{
    struct fs_fault *fault = state;
    bool hit = strikes(fault);
    int rc = fault->inner->ops->close(fault->inner->state, handle);
    return hit ? -EIO : rc;
}

static int fault_rename(void *state, const char *from, const char *to, bool replace)
{
    struct fs_fault *fault = state;
    return strikes(fault) ? -EIO
                          : fault->inner->ops->rename(fault->inner->state, from, to, replace);
}

static int fault_sync_directory(void *state, const char *path)
{
    struct fs_fault *fault = state;
    return strikes(fault) ? -EIO : fault->inner->ops->sync_directory(fault->inner->state, path);
}

static int fault_remove(void *state, const char *path)
{
    struct fs_fault *fault = state;
    return strikes(fault) ? -EIO : fault->inner->ops->remove(fault->inner->state, path);
}

static int fault_make_directory(void *state, const char *path)
{
    struct fs_fault *fault = state;
    return strikes(fault) ? -EIO : fault->inner->ops->make_directory(fault->inner->state, path);
}

static int fault_read(void *state, const char *path, struct strbuf *out)
{
    struct fs_fault *fault = state;
    return strikes(fault) ? -EIO : fault->inner->ops->read(fault->inner->state, path, out);
}

static int fault_stat(void *state, const char *path, struct fs_info *out)
{
    struct fs_fault *fault = state;
    return strikes(fault) ? -EIO : fault->inner->ops->stat(fault->inner->state, path, out);
}

static int fault_list(void *state, const char *path, int (*visit)(void *context, const char *name),
                      void *context)
{
    struct fs_fault *fault = state;
    if (strikes(fault))
        return -EIO;
    return fault->inner->ops->list(fault->inner->state, path, visit, context);
}

static const struct fs_ops fault_ops = {
    .create = fault_create,
    .write = fault_write,
    .open_update = fault_open_update,
    .open_direct = fault_open_direct,
    .write_at = fault_write_at,
    .sync = fault_sync,
    .close = fault_close,
    .rename = fault_rename,
    .sync_directory = fault_sync_directory,
    .remove = fault_remove,
    .make_directory = fault_make_directory,
    .read = fault_read,
    .stat = fault_stat,
    .list = fault_list,
};

struct fs fs_with_faults(struct fs_fault *fault)
{
    return (struct fs){.ops = &fault_ops, .state = fault};
}
