// SPDX-License-Identifier: Apache-2.0
// Batches and marks for every transport: those in host memory have neither, and make each call when
// it comes.
#include "collectives/group_device.h"

#include "collectives/group_internal.h"

#include <assert.h>

bool group_is_on_device(const struct group *group)
{
    return group->ops->mark != NULL;
}

int group_mark(struct group *group, uint64_t *mark, struct error *err)
{
    *mark = 0;
    return group->ops->mark ? group->ops->mark(group, mark, err) : 0;
}

int group_after(struct group *group, uint64_t mark, struct error *err)
{
    return group->ops->after ? group->ops->after(group, mark, err) : 0;
}

void *group_stream(const struct group *group)
{
    return group->ops->stream ? group->ops->stream(group) : NULL;
}

static int refuse_broken(const struct group *group, struct error *err)
{
    return group->broken ? error_set(err, "an earlier call of this group failed, the job must end")
                         : 0;
}

int group_batch_begin(struct group *group, struct error *err)
{
    assert(!group->in_batch);
    if (refuse_broken(group, err) != 0) {
        return -1;
    }
    if (!group->ops->batch_begin) {
        return 0;
    }
    group->in_batch = true;
    group->batch_calls = 0;
    return group->ops->batch_begin(group, err) != 0 ? group_call_failed(group, err) : 0;
}

int group_batch_end(struct group *group, struct error *err)
{
    if (refuse_broken(group, err) != 0) {
        return -1;
    }
    if (!group->ops->batch_end) {
        return 0;
    }
    if (group->ops->batch_end(group, err) != 0) {
        return group_call_failed(group, err);
    }
    for (size_t i = 0; i < group->batch_calls; i++) {
        flight_leave(group->flight, group->batch[i]);
    }
    group->in_batch = false;
    return 0;
}
