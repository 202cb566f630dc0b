// SPDX-License-Identifier: Apache-2.0
// NCCL is loaded when several GPUs compute together, not when the program starts: it weighs 200 MB,
// and a build serves machines that do not have it.
#include "collectives/nccl_internal.h"

#include <dlfcn.h>
#include <stdio.h>

#define LIBRARY "libnccl.so.2"
// Communicators that do not block came with 2.14; since 2.19.1 another thread may abort them.
#define OLDEST_VERSION NCCL_VERSION(2, 19, 1)
#define OLDEST_TEXT "2.19.1"

void nccl_format_version(int version, char out[32])
{
    snprintf(out, 32, "%d.%d.%d", version / 10000, version / 100 % 100, version % 100);
}

static int check_version(struct nccl *nccl, struct error *err)
{
    char found[32];
    if (nccl_check(nccl, nccl->GetVersion(&nccl->version), "ncclGetVersion", err) != 0) {
        return -1;
    }
    if (nccl->version >= OLDEST_VERSION) {
        return 0;
    }
    nccl_format_version(nccl->version, found);
    return error_set(err,
                     "%s is NCCL %s, at least " OLDEST_TEXT
                     " is needed: name the directory of a newer one in LD_LIBRARY_PATH",
                     LIBRARY, nccl->version < 10000 ? "before 2.9" : found);
}

int nccl_load(struct nccl *nccl, struct error *err)
{
    const struct {
        const char *name;
        void *function;
    } functions[] = {
        {"ncclGetVersion", &nccl->GetVersion},
        {"ncclGetUniqueId", &nccl->GetUniqueId},
        {"ncclCommInitRankConfig", &nccl->CommInitRankConfig},
        {"ncclCommGetAsyncError", &nccl->CommGetAsyncError},
        {"ncclCommFinalize", &nccl->CommFinalize},
        {"ncclCommDestroy", &nccl->CommDestroy},
        {"ncclCommAbort", &nccl->CommAbort},
        {"ncclGetErrorString", &nccl->GetErrorString},
        {"ncclGetLastError", &nccl->GetLastError},
        {"ncclGroupStart", &nccl->GroupStart},
        {"ncclGroupEnd", &nccl->GroupEnd},
        {"ncclAllReduce", &nccl->AllReduce},
        {"ncclReduceScatter", &nccl->ReduceScatter},
        {"ncclAllGather", &nccl->AllGather},
        {"ncclBroadcast", &nccl->Broadcast},
    };
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) {
        return error_set(err,
                         "cannot load %s: %s; install NCCL " OLDEST_TEXT
                         " or newer for your CUDA, or name its "
                         "directory in LD_LIBRARY_PATH; one GPU needs none of it",
                         LIBRARY, dlerror());
    }
    for (size_t i = 0; i < sizeof(functions) / sizeof(functions[0]); i++) {
        *(void **)functions[i].function = dlsym(library, functions[i].name);
        if (*(void **)functions[i].function == NULL) {
            return error_set(err, "%s has no '%s': NCCL " OLDEST_TEXT " or newer is needed",
                             LIBRARY, functions[i].name);
        }
    }
    return check_version(nccl, err);
}

int nccl_check(const struct nccl *nccl, ncclResult_t result, const char *what, struct error *err)
{
    if (result == ncclSuccess || result == ncclInProgress) {
        return 0;
    }
    const char *detail = nccl->GetLastError(NULL);
    return error_set(err, "%s failed: %s%s%s; NCCL_DEBUG=WARN says more", what,
                     nccl->GetErrorString(result), detail && detail[0] ? ": " : "",
                     detail ? detail : "");
}
