// SPDX-License-Identifier: Apache-2.0
// A group of one: sums are the data itself.
#include "collectives/group_internal.h"

#include <string.h>

static int self_all_reduce(struct group *group, void *data, size_t count,
                           const struct group_element *element, struct error *err)
{
    (void)group, (void)data, (void)count, (void)element, (void)err;
    return 0;
}

static int self_reduce_scatter(struct group *group, void *out, const void *in, size_t count,
                               const struct group_element *element, struct error *err)
{
    (void)group, (void)err;
    if (count != 0) {
        memmove(out, in, count * element->bytes);
    }
    return 0;
}

static int self_all_gather(struct group *group, void *out, const void *in, size_t bytes,
                           struct error *err)
{
    (void)group, (void)err;
    if (bytes != 0) {
        memmove(out, in, bytes);
    }
    return 0;
}

static int self_broadcast(struct group *group, void *data, size_t bytes, int root,
                          struct error *err)
{
    (void)group, (void)data, (void)bytes, (void)root, (void)err;
    return 0;
}

static int self_barrier(struct group *group, struct error *err)
{
    (void)group, (void)err;
    return 0;
}

static void self_close(struct group *group)
{
    (void)group;
}

static const struct group_ops self_ops = {
    .transport = "self",
    .all_reduce = self_all_reduce,
    .reduce_scatter = self_reduce_scatter,
    .all_gather = self_all_gather,
    .broadcast = self_broadcast,
    .barrier = self_barrier,
    .close = self_close,
};

int group_open_self(struct group **out, struct error *err)
{
    (void)err;
    *out = group_create(&self_ops, NULL, 0, 1);
    return 0;
}
