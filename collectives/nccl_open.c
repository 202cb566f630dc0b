// SPDX-License-Identifier: Apache-2.0
// Opens a group over NCCL. Order: the library, its version on all ranks, which GPU each rank has,
// the id, the communicator. Each step is agreed upon over the control group before the next.
#include "collectives/group_device.h"
#include "collectives/group_internal.h"
#include "collectives/id_file.h"
#include "collectives/nccl_internal.h"

#include "base/mem.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// Which GPU a rank has.
struct gpu_identity {
    unsigned char uuid[16];
    char host[HOST_NAME_MAX + 1];
    char bus[32]; // PCI bus id
    int version;  // of NCCL
};

static int create_event(cudaEvent_t *event, struct error *err)
{
    return nccl_cuda_check(cudaEventCreateWithFlags(event, cudaEventDisableTiming),
                           "cudaEventCreate", err);
}

// Sums go before the kernels that could run beside them: the step waits for the slowest bucket.
static int create_stream(struct nccl_state *state, struct error *err)
{
    int least, greatest;
    if (nccl_cuda_check(cudaSetDevice(state->ordinal), "cudaSetDevice", err) ||
        nccl_cuda_check(cudaDeviceGetStreamPriorityRange(&least, &greatest),
                        "cudaDeviceGetStreamPriorityRange", err) ||
        nccl_cuda_check(
            cudaStreamCreateWithPriority(&state->stream, cudaStreamNonBlocking, greatest),
            "cudaStreamCreate", err) ||
        create_event(&state->done, err) || create_event(&state->now, err)) {
        return -1;
    }
    for (int m = 0; m < GROUP_MARKS; m++) {
        if (create_event(&state->marks[m], err) != 0) {
            return -1;
        }
    }
    return 0;
}

static int identify(const struct nccl_state *state, struct gpu_identity *out, struct error *err)
{
    struct cudaDeviceProp properties;
    *out = (struct gpu_identity){.version = state->nccl.version};
    gethostname(out->host, sizeof(out->host) - 1);
    if (nccl_cuda_check(cudaGetDeviceProperties(&properties, state->ordinal),
                        "cudaGetDeviceProperties", err) ||
        nccl_cuda_check(cudaDeviceGetPCIBusId(out->bus, sizeof(out->bus), state->ordinal),
                        "cudaDeviceGetPCIBusId", err)) {
        return -1;
    }
    memcpy(out->uuid, &properties.uuid, sizeof(out->uuid));
    return 0;
}

// It would override the communicator's configuration, and a rank that is missing would be waited
// for without end.
static int check_environment(struct error *err)
{
    const char *blocking = getenv("NCCL_COMM_BLOCKING");
    if (blocking == NULL || strcmp(blocking, "0") == 0) {
        return 0;
    }
    return error_set(err,
                     "NCCL_COMM_BLOCKING is '%s': NCCL would wait for a missing rank without end; "
                     "unset it",
                     blocking);
}

// The same answer on all ranks.
static int check_identities(const struct gpu_identity *all, int size, struct error *err)
{
    for (int r = 1; r < size; r++) {
        if (all[r].version != all[0].version) {
            char first[32], other[32];
            nccl_format_version(all[0].version, first);
            nccl_format_version(all[r].version, other);
            return error_set(err,
                             "rank 0 on %s has NCCL %s, rank %d on %s has NCCL %s: all need the "
                             "same",
                             all[0].host, first, r, all[r].host, other);
        }
        for (int o = 0; o < r; o++) {
            if (memcmp(all[o].uuid, all[r].uuid, sizeof(all[r].uuid)) == 0) {
                return error_set(err,
                                 "ranks %d and %d on %s have the same GPU %s, but NCCL needs one "
                                 "for each: start as many ranks per host as it has GPUs "
                                 "(--ntasks-per-node), and let each see its own (srun "
                                 "--gpus-per-task=1) or all of them (CUDA_VISIBLE_DEVICES)",
                                 o, r, all[o].host, all[o].bus);
            }
        }
    }
    return 0;
}

static int compare_identities(struct group *control, const struct gpu_identity *own,
                              struct error *err)
{
    struct gpu_identity *all = mem_calloc((size_t)control->size, sizeof(*all));
    int rc = group_all_gather(control, all, own, sizeof(*own), err);
    if (rc == 0) {
        rc = check_identities(all, control->size, err);
    }
    free(all);
    return rc;
}

static int share_id_by_file(struct group *control, struct nccl_state *state, const char *directory,
                            ncclUniqueId *id, struct error *err)
{
    char *path = NULL;
    int rc = id_file_path(directory, &path, err);
    if (rc == 0 && control->rank == 0) {
        rc = nccl_check(&state->nccl, state->nccl.GetUniqueId(id), "ncclGetUniqueId", err) ||
                     id_file_publish(fs_system(), path, id, sizeof(*id), err)
                 ? -1
                 : 0;
    } else if (rc == 0) {
        rc = id_file_await(fs_system(), path, id, sizeof(*id), control->deadline_seconds, err);
    }
    rc = group_agree(control, rc, err);
    if (control->rank == 0 && path != NULL) {
        id_file_remove(fs_system(), path);
    }
    free(path);
    return rc;
}

static int share_id(struct group *control, struct nccl_state *state, const char *directory,
                    ncclUniqueId *id, struct error *err)
{
    memset(id, 0, sizeof(*id));
    if (directory != NULL) {
        return share_id_by_file(control, state, directory, id, err);
    }
    const int rc = control->rank == 0 ? nccl_check(&state->nccl, state->nccl.GetUniqueId(id),
                                                   "ncclGetUniqueId", err)
                                      : 0;
    return group_agree(control, rc, err) || group_broadcast(control, id, sizeof(*id), 0, err) ? -1
                                                                                              : 0;
}

// The first call of the group. A rank on which it fails breaks the control group too, and so ends
// the job: the others may wait in here for ever otherwise.
static int connect_comm(struct group *group, const ncclUniqueId *id, struct error *err)
{
    int rc = group_call_begin(group, "connect", 0, err);
    if (rc == 0) {
        rc = nccl_comm_connect(group, id, err);
    }
    return group_call_end(group, rc, err);
}

static int prepare(struct group *control, struct nccl_state *state, struct error *err)
{
    struct gpu_identity own;
    const int rc = check_environment(err) || nccl_load(&state->nccl, err) ||
                           create_stream(state, err) || identify(state, &own, err)
                       ? -1
                       : 0;
    return group_agree(control, rc, err) || compare_identities(control, &own, err) ? -1 : 0;
}

int group_open_nccl(struct group *control, const struct group_device_options *options,
                    struct group **out, struct error *err)
{
    struct nccl_state *state = mem_calloc(1, sizeof(*state));
    ncclUniqueId id;
    state->compute = options->stream;
    state->ordinal = options->ordinal;
    if (prepare(control, state, err) || share_id(control, state, options->id_directory, &id, err)) {
        nccl_state_release(state);
        return error_prefix(err, "GPUs of %d ranks", control->size);
    }
    struct group *group = group_create_beside(&nccl_ops, state, control);
    if (connect_comm(group, &id, err) != 0 || group_agree(control, 0, err) != 0) {
        group->broken = true;
        group_close(group);
        return error_prefix(err, "GPUs of %d ranks", control->size);
    }
    *out = group;
    return 0;
}
