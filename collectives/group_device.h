// SPDX-License-Identifier: Apache-2.0
// Groups whose calls work on the memory of a device. Over NCCL (transport "nccl") the calls of
// group.h take pointers of the GPU and return when the GPU is done; sums are made in an order that
// NCCL chooses, the same in every run with equal ranks, machines and versions. Who works on the
// device's own stream says by marks what a call has to wait for:
//
//     the computing thread                     the communicating thread
//     enqueue kernels that write a bucket
//     group_mark(group, &mark)
//     tells the other thread            ───▶   group_after(group, mark)
//     enqueues more                            enqueues kernels on group_stream(group)
//                                              group_all_reduce_f32(group, bucket ...)
//                                              enqueues kernels on group_stream(group)
//
// Without group_after a call waits for all that is enqueued when it is made. On groups in host
// memory marks and batches do nothing.
#ifndef MEMO_COLLECTIVES_GROUP_DEVICE_H
#define MEMO_COLLECTIVES_GROUP_DEVICE_H

#include "collectives/group.h"

struct group_device_options {
    void *stream; // cudaStream_t on which the device computes; the caller's
    int ordinal;  // of the GPU, as CUDA counts in this process
    // NULL: the id goes from rank 0 to the others by a broadcast of `control`. Otherwise through a
    // file of this directory, which all ranks see; see id_file.h.
    const char *id_directory;
};

// Collective over `control`, a group in host memory: as many ranks, one GPU each; two ranks with
// one GPU are refused. Deadline, step and flight records are control's. When a call fails, control
// is as broken as the new group: the rank that is missing here would be missing there. Control
// outlives the new group. In a build without NCCL an error.
int group_open_nccl(struct group *control, const struct group_device_options *options,
                    struct group **out, struct error *err);

// Whether calls take pointers of a device.
bool group_is_on_device(const struct group *group);

// What is enqueued on the device's stream up to now. Of the computing thread, while another one may
// be in a call. At most GROUP_MARKS of them may be waited for at a time; a mark never fails a run
// by being old: then a call waits for more than it must.
#define GROUP_MARKS 64
int group_mark(struct group *group, uint64_t *mark, struct error *err);
// What comes on group_stream from now on, and so the next call or batch, waits for the mark alone.
int group_after(struct group *group, uint64_t mark, struct error *err);
// The cudaStream_t in which the group makes its calls, the group's own: kernels there run before
// the calls that are made later, and after those that returned. NULL in host memory.
void *group_stream(const struct group *group);

// Calls between begin and end are made together: over NCCL in one launch, done when end returns; in
// host memory one after the other. At most GROUP_BATCH_CALLS; all ranks make the same ones.
#define GROUP_BATCH_CALLS 64
int group_batch_begin(struct group *group, struct error *err);
int group_batch_end(struct group *group, struct error *err);

#endif
